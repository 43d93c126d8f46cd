"""The table of everything that `unpair` can read, one short file per family; see `ktodata.sources.contract`."""

from __future__ import annotations

from ktodata.errors import SourceError, UsageError, misspelt, nearest
from ktodata.sources.contract import Example, Record, Skip, Source
from ktodata.sources.hh_rlhf import HH_RLHF
from ktodata.sources.llama_factory import DPO, KTO
from ktodata.sources.pairs import PAIRS
from ktodata.sources.rows import ROWS

# Detection takes the source with the most columns found, and of equal ones the first.
SOURCES: dict[str, Source] = {
    "hh-rlhf": HH_RLHF,
    "pairs": PAIRS,
    "llama-factory-dpo": DPO,
    "llama-factory-kto": KTO,
    "rows": ROWS,
}

__all__ = ["SOURCES", "Example", "Record", "Skip", "Source", "detect", "get_source", "of_hub_id"]


def get_source(name: str) -> Source:
    """The preset of this name.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    if name not in SOURCES:
        raise UsageError(f"no preset {name!r}", do=nearest(name, SOURCES))
    return SOURCES[name]


def of_hub_id(repo: str) -> Source | None:
    """The preset whose dataset on the Hub this is, if one is."""
    return next((source for source in SOURCES.values() if source.hub_id.lower() == repo.lower()), None)


def detect(record: Record, *, where: str) -> Source:
    """The source that can read a record with such columns.

    Raises:
        SourceError: none; the columns it has and the layouts that can be read are named.
    """
    fitting = [
        (len(columns), -place, source)
        for place, source in enumerate(SOURCES.values())
        for columns in source.columns
        if set(columns) <= set(record) and source.detect(record)
    ]
    if fitting:
        return max(fitting, key=lambda item: item[:2])[2]
    close = [
        (len(set(columns) & set(record)), advice)
        for source in SOURCES.values()
        for columns in source.columns
        if (advice := misspelt(record, columns))
    ]
    raise SourceError(
        f"columns {', '.join(map(str, record)) or 'none'}: no layout that can be read",
        where=where,
        do=max(close)[1] if close else f"These can: {layouts()}",
    )


def layouts() -> str:
    """The layouts that can be read, in a sentence."""
    found = {" + ".join(columns): None for source in SOURCES.values() for columns in source.columns}
    return "; ".join(found)
