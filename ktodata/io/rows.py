"""Files that already hold rows."""

from __future__ import annotations

from collections.abc import Iterator

from ktodata.errors import RowError
from ktodata.io.resolve import read_records
from ktodata.io.write import Quarantine
from ktodata.schema import Kind, Row, parse_row


def read_rows(
    source: str, *, split: str = "train", limit: int | None = None, quarantine: Quarantine | None = None
) -> list[Row]:
    """The rows of a file, folder, Hub id, or of JSONL on stdin (`-`), in their order; the first `limit` of them.

    Raises:
        SourceError: the source cannot be read, holds nothing, or mixes text and chat.
        RowError: a row is unreadable; with a quarantine it goes there instead.
    """
    return list(iter_rows(source, split=split, limit=limit, quarantine=quarantine))


def iter_rows(
    source: str, *, split: str = "train", limit: int | None = None, quarantine: Quarantine | None = None
) -> Iterator[Row]:
    """`read_rows`, one at a time."""
    kind: Kind | None = None
    for raw in read_records(source, split=split, limit=limit):
        try:
            row = parse_row(raw.values(), where=raw.where, source=raw.source)
            kind = kind or row.kind
            if row.kind != kind:
                raise RowError(
                    f"a {row.kind} row in a file of {kind} rows",
                    where=raw.where,
                    do="A file holds one kind only; `ktodata unpair FILE --quarantine BAD` sets the others aside",
                )
        except RowError as error:
            if quarantine is None:
                raise error.advised("`ktodata unpair FILE --quarantine BAD` sorts out such rows") from error
            quarantine.add(error.what, where=raw.where, record=raw.shown())
        else:
            yield row
