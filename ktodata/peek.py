"""The columns of some records, before any of them is read."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

from ktodata.errors import NothingLeftError, RowError, SourceError, UsageError
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


def awaited(
    raws: Iterator[Raw], columns: Collection[str], wanted: Collection[str], check: Callable[[Collection[str]], None]
) -> Iterator[Raw]:
    """The same records, of which one at least has to have each of the columns that are wanted.

    JSON leaves out what a record has not, so that a column may first come after any number of records. What none of
    the first has is looked for as they go by; whether it was found is known at their end, or here if they are few.

    Args:
        raws: the records, from the first.
        columns: those of the first of them.
        wanted: the columns that are needed.
        check: raises UsageError if one of these is not among the columns that it is given.

    Raises:
        UsageError: all records have been seen, and `check` raises it.
    """
    try:
        check(columns)
    except UsageError:
        some = list(itertools.islice(raws, PEEK + 1))
        if len(some) <= PEEK:
            raise
        return _looking(itertools.chain(some, raws), columns, set(wanted), check)
    return raws


def _looking(
    raws: Iterator[Raw], columns: Collection[str], wanted: set[str], check: Callable[[Collection[str]], None]
) -> Iterator[Raw]:
    seen = dict.fromkeys(columns)
    missing = wanted - seen.keys()
    for raw in raws:
        if missing and _may_have(raw, missing):
            with contextlib.suppress(RowError):
                seen |= dict.fromkeys(map(str, raw.values()))
                missing -= seen.keys()
        yield raw
    check(list(seen))


def _may_have(raw: Raw, names: Collection[str]) -> bool:
    """Whether it is worth parsing a record to look for these columns."""
    data = raw.data
    if not isinstance(data, bytes):
        return True
    return b"\\" in data or any(json.dumps(name, ensure_ascii=False).encode() in data for name in names)
