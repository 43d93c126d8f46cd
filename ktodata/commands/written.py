"""What the commands that make rows of records share: writing the stream, and saying what became of the records."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from ktodata import cli_common as common
from ktodata.errors import RowError
from ktodata.io import Files, Quarantine, write_tables
from ktodata.unpair import Account, Stream


def check_files(source: str, output: str, quarantine: str | None) -> None:
    """Refuse an output or a quarantine file that cannot be made, or is in the way of the input or the other one."""
    common.check_places(
        read=[("the input", source)], written=[("the output", output), ("the quarantine file", quarantine)]
    )


@contextlib.contextmanager
def set_aside(quarantine: str | None) -> Iterator[tuple[Files, Quarantine | None]]:
    """The files of a command, which take their places together, and its quarantine file if one is named; where none is,
    it is advised for unreadable records."""
    with common.files() as files, Quarantine(quarantine, files) as refused:
        try:
            yield files, refused if quarantine else None
        except RowError as error:
            if quarantine:
                raise
            raise error.advised("Mend it, or name a --quarantine FILE for such records") from error


def write_stream(found: Stream, source: str, output: str, files: Files) -> None:
    """Write the rows.

    Raises:
        NothingLeftError: there are none.
    """
    first = next(found.tables, None)
    if first is None:
        raise found.account.nothing_left(source)
    write_tables(itertools.chain([first], found.tables), found.kind, output, files)


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
