"""What the commands that make rows of records share: writing the stream, and saying what became of the records."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from ktodata import cli_common as common
from ktodata.errors import RowError, UsageError
from ktodata.io import STDOUT, Quarantine, local_path, write_tables
from ktodata.unpair import Account, Stream


def check_quarantine(quarantine: str | None, source: str, output: str) -> None:
    """Refuse a quarantine file that is none, or that would take the place of the input or the output."""
    if quarantine is None:
        return
    if quarantine in ("", STDOUT):
        raise UsageError(f"--quarantine is {quarantine!r}", do="Name a file")
    if output != STDOUT and local_path(quarantine).resolve() == local_path(output).resolve():
        raise UsageError(f"{quarantine} is both the output and the quarantine file", do="Name two files")
    common.refuse_input(quarantine, source)


@contextlib.contextmanager
def set_aside(quarantine: str | None) -> Iterator[Quarantine | None]:
    """The quarantine file of a command, if one is named; where none is, it is advised for unreadable records."""
    with Quarantine(quarantine) as refused:
        try:
            yield refused if quarantine else None
        except RowError as error:
            if quarantine:
                raise
            raise error.advised("Mend it, or name a --quarantine FILE for such records") from error


def write_stream(found: Stream, source: str, output: str) -> None:
    """Write the rows.

    Raises:
        NothingLeftError: there are none.
    """
    first = next(found.tables, None)
    if first is None:
        raise found.account.nothing_left(source)
    write_tables(itertools.chain([first], found.tables), found.kind, output)


def summarise(account: Account, output: str, quarantine: str | None, *, advice: str = "") -> None:
    """Say on stderr what became of the records. `advice` is for rows that are all desirable."""
    summary = common.Summary(account.read, account.layout.unit, account.written, account.skipped)
    note = f"{account.completions} completions, layout {account.layout.name}"
    summary.show(output, desirable=account.desirable, note=note)
    if account.layout.terms:
        common.say(f"note: {account.layout.terms}")
    if quarantine and account.skipped.total():
        common.say(f"skipped ones are in {quarantine}")
    if account.desirable in (0, account.written):
        missing, more = ("undesirable", advice) if account.desirable else ("desirable", "")
        common.say(f"warning: no {missing} rows; KTO needs both classes{more}")
