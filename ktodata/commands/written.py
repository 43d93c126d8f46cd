"""What the commands that make rows of records share: writing the stream, and saying what became of the records."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from ktodata import cli_common as common
from ktodata.errors import NothingLeftError, RowError, SourceError, UsageError
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
def advice_on_rows(*, strict: bool) -> Iterator[None]:
    """Say of an unreadable record that it can be set aside, where it was not."""
    try:
        yield
    except RowError as error:
        if strict:
            raise error.advised("Mend it, or name a --quarantine FILE for such records") from error
        raise


@contextlib.contextmanager
def set_aside(quarantine: str | None) -> Iterator[Quarantine | None]:
    """The quarantine file of a command, if one is named; where none is, it is advised for unreadable records.

    It is written after `NothingLeftError` too: all records are in it then.
    """
    nothing: NothingLeftError | None = None
    with Quarantine(quarantine) as refused, advice_on_rows(strict=not quarantine):
        try:
            yield refused if quarantine else None
        except NothingLeftError as error:
            if not quarantine:
                raise
            for one in error.refused:
                refused.add(**one)
            nothing = error.kept(quarantine) if refused.count else error
    if nothing is not None:
        raise nothing


def write_stream(found: Stream, output: str) -> None:
    """Write the rows, unless there are none."""
    first = next(found.tables, None)
    if first is not None:
        write_tables(itertools.chain([first], found.tables), found.kind, output)


def summarise(account: Account, source: str, output: str, quarantine: str | None, *, advice: str = "") -> None:
    """Say on stderr what became of the records. `advice` is for rows that are all desirable.

    Raises:
        SourceError: nothing was written.
    """
    if not account.written:
        reasons = ", ".join(f"{count} {reason}" for reason, count in account.skipped.most_common())
        unreadable = f"; the first unreadable: {account.problem}" if account.problem else ""
        raise SourceError(
            f"nothing to write: {account.completions} completions read, {reasons or 'none skipped'}{unreadable}",
            where=source,
            do=f"All of them are in {quarantine}, with the reasons" if quarantine and reasons else "",
        )
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
