"""The columns of some records, before any of them is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ktodata.errors import NothingLeftError, RowError, SourceError
from ktodata.io import Raw

PEEK = 1000  # records whose columns are looked at


def peek(raws: Iterator[Raw], *, strict: bool) -> tuple[list[str], Iterator[Raw]]:
    """The columns of the first records that can be read, and all records again. A column may be missing from some.

    Args:
        raws: the records.
        strict: look no further where none of the first can be read; else the first that can be is looked for.

    Raises:
        SourceError: there are no records; RowError (one of its kind) if none of the first can be read, and
            NothingLeftError (another) if none of all can.
    """
    seen: list[Raw] = []
    columns: dict[str, None] = {}
    refused: list[dict[str, Any]] = []
    problem: SourceError | None = None
    for raw in raws:
        seen.append(raw)
        try:
            columns |= dict.fromkeys(map(str, raw.values()))
        except RowError as error:
            problem = problem or error
            if not columns and not strict:
                refused.append(raw.refused(error.what))
        if len(seen) >= PEEK and (columns or strict):
            break
    if not columns:
        if problem is not None and refused:
            raise NothingLeftError.unreadable(problem, refused)
        raise problem or SourceError("no records")
    return list(columns), itertools.chain(seen, raws)
