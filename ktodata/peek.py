"""The columns of some records, before any of them is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ktodata.errors import RowError, SourceError
from ktodata.io import Raw

PEEK = 1000  # records whose columns are looked at


def peek(raws: Iterator[Raw]) -> tuple[list[str], Iterator[Raw]]:
    """The columns of the first records, and all records again. A column may be missing from some of them.

    Raises:
        SourceError: there are no records; RowError (one of its kind) if none of the first can be read.
    """
    first = list(itertools.islice(raws, PEEK))
    columns: dict[str, None] = {}
    problem: SourceError | None = None
    for raw in first:
        try:
            columns |= dict.fromkeys(map(str, raw.values()))
        except RowError as error:
            problem = problem or error
    if not columns:
        raise problem or SourceError("no records")
    return list(columns), itertools.chain(first, raws)
