"""From SOURCE, as typed, to the layout that it has and its records."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ktodata import hub
from ktodata.errors import NothingLeftError, RowError, SourceError, UsageError, listed, misspelt, nearest
from ktodata.io import Part, Raw, chain_parts, find_parts, is_there
from ktodata.sources import SOURCES, Record, Source, detect, get_source, of_hub_id, stamped

log = logging.getLogger(__name__)


def discover(source: str, preset: str, split: str, limit: int | None, *, strict: bool) -> tuple[Source, Iterator[Raw]]:
    """How to read SOURCE, and its records.

    Args:
        source, preset, split, limit: see `ktodata.unpair.unpair`.
        strict: an unreadable record before the first that tells the layout is an error.

    Raises:
        SourceError: there is no such thing, or its layout cannot be told.
        UsageError: no such preset, or one that has no dataset of its own.
    """
    layout = get_source(preset) if preset else None
    name, _, config = source.partition(":")
    if name in SOURCES and (SOURCES[name].hub_id or not is_there(source)):
        named = SOURCES[name]
        if not named.hub_id:
            raise UsageError(
                f"the preset {name!r} has no dataset of its own", do=f"Name a file: ktodata unpair FILE --preset {name}"
            )
        if is_there(source):
            log.warning("%s is read from the Hub; for the local one, write ./%s", source, source)
        layout = layout or of_hub_id(named.hub_id, config) if config else layout or named
        source, split = f"{named.hub_id}:{config}" if config else named.hub_id, split or named.split
    elif layout is None and (hub_id := hub.parse_id(source)) and not is_there(source):
        layout = of_hub_id(*hub_id)
        if layout and layout.hub_id.lower() == hub_id.repo.lower():
            split = split or layout.split
    split = split or "train"
    folders = layout.folders if layout else ()
    parts = _find(source, split=split, limit=limit, folders=folders)
    raws: Iterator[Raw] = itertools.islice(chain_parts(parts), limit)
    if layout is not None:
        return _stamped(*_with_layout(raws, partial(_fitting, layout), strict=strict))
    layout, raws = _with_layout(raws, detect, strict=strict)
    layout = dataclasses.replace(layout, detected=True)
    if any(set(Path(part.path).parts[:-1]) & set(layout.folders) for part in parts):
        # A local copy of a dataset whose other folders hold something else.
        chosen = _find(source, split=split, limit=limit, folders=layout.folders)
        passed = sorted({part.path for part in parts} - {part.path for part in chosen})
        if passed:
            log.warning(
                "%s: not read, as %s has its pairs in other folders: %s", source, layout.name, ", ".join(passed)
            )
        raws = itertools.islice(chain_parts(chosen), limit)
    return _stamped(layout, raws)


def restricted(raws: Iterator[Raw]) -> tuple[Source | None, Iterator[Raw]]:
    """The preset that the first readable record has the columns of, if its dataset's licence restricts use, and all
    records again, with it in their provenance. For whoever reads the records in a way of its own.
    """
    seen: list[Raw] = []
    for raw in raws:
        seen.append(raw)
        try:
            values = raw.values()
        except RowError:
            continue
        with contextlib.suppress(SourceError):
            layout = dataclasses.replace(detect(values, where=raw.where), detected=True)
            if layout.terms:
                return _stamped(layout, itertools.chain(seen, raws))
        break
    return None, itertools.chain(seen, raws)


def _stamped(layout: Source, raws: Iterator[Raw]) -> tuple[Source, Iterator[Raw]]:
    """The records with the preset in their provenance, where nothing else tells it."""
    first = next(raws)  # there is one, as it told the layout
    raws = itertools.chain([first], raws)
    return layout, raws if stamped(layout, first.source) == first.source else _stamping(layout, raws)


def _stamping(layout: Source, raws: Iterator[Raw]) -> Iterator[Raw]:
    names: dict[str, str] = {}
    for raw in raws:
        if raw.source not in names:
            names[raw.source] = stamped(layout, raw.source)
        yield raw._replace(source=names[raw.source])


def _find(source: str, *, split: str, limit: int | None, folders: Sequence[str]) -> list[Part]:
    """The parts of SOURCE; if there is no such thing, it may have been meant as a preset."""
    try:
        return find_parts(source, split=split, limit=limit, folders=folders, own_files=bool(folders))
    except SourceError as error:
        close = nearest(source, SOURCES)
        if error.what == "no such file or folder" and "/" not in source and close.startswith("Did"):
            raise SourceError("no such file, folder or preset", where=source, do=close) from error
        raise


def _with_layout(raws: Iterator[Raw], choose: Callable[..., Source], *, strict: bool) -> tuple[Source, Iterator[Raw]]:
    """The layout that `choose` gives for the first record that it can tell one of, and all records again.

    Where unreadable records are set aside, those before it are some of them.
    """
    seen: list[Raw] = []
    refused: list[dict[str, Any]] = []
    problem: SourceError | None = None
    for raw in raws:
        seen.append(raw)
        try:
            layout = choose(raw.values(), where=raw.where)
        except SourceError as error:
            problem = problem or error
            if strict:
                break
            refused.append(raw.refused(error.what))
        else:
            return layout, itertools.chain(seen, raws)
    if problem is None:
        raise SourceError("no records")
    raise NothingLeftError.unreadable(problem, refused) if refused else problem


def _fitting(layout: Source, record: Record, *, where: str) -> Source:
    """The preset that was named, if the record has the columns for it: else each row would be refused."""
    if any(set(columns) <= set(record) for columns in layout.columns):
        return layout
    needed = "; ".join(" + ".join(columns) for columns in layout.columns)
    raise SourceError(
        f"columns {listed(record)}: the preset {layout.name!r} needs {needed}",
        where=where,
        do=next(filter(None, (misspelt(record, columns) for columns in layout.columns)), "")
        or "Leave --preset out to have the layout found from the columns",
    )
