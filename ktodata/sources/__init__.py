"""The table of everything that `unpair` can read, one short file per family; see `ktodata.sources.contract`."""

from __future__ import annotations

from ktodata.errors import SourceError, UsageError, listed, misspelt, nearest
from ktodata.sources.axolotl import AXOLOTL_DPO, AXOLOTL_KTO
from ktodata.sources.contract import Example, Piece, Record, Skip, Source
from ktodata.sources.halos import HALOS_KTO, HALOS_PAIRS
from ktodata.sources.helpsteer2 import HELPSTEER2
from ktodata.sources.hh_rlhf import HH_RLHF
from ktodata.sources.kto_mix import CAPYBARA_KTO, KTO_MIX
from ktodata.sources.llama_factory import DPO, KTO
from ktodata.sources.mixtures import DAHOAS, REVIEWER2, TULU_3
from ktodata.sources.oasst import OASST, OASST_TREES
from ktodata.sources.options import OPTIONS
from ktodata.sources.orca import ORCA_PAIRS, ORCA_PAIRS_ARGILLA
from ktodata.sources.pairs import PAIRS
from ktodata.sources.pku_saferlhf import PKU_SAFERLHF
from ktodata.sources.red_team import RED_TEAM
from ktodata.sources.rows import ROWS
from ktodata.sources.scores import SCORED_PAIRS, ULTRAFEEDBACK, ULTRAFEEDBACK_ARGILLA, ULTRAFEEDBACK_TRL
from ktodata.sources.shp import SHP

# Detection takes the source with the most columns found, and of equal ones the first.
_ALL = (
    HH_RLHF,
    RED_TEAM,
    SHP,
    OASST,
    OASST_TREES,
    ULTRAFEEDBACK,
    ULTRAFEEDBACK_ARGILLA,
    ULTRAFEEDBACK_TRL,
    KTO_MIX,
    CAPYBARA_KTO,
    ORCA_PAIRS,
    ORCA_PAIRS_ARGILLA,
    HELPSTEER2,
    PKU_SAFERLHF,
    TULU_3,
    DAHOAS,
    REVIEWER2,
    PAIRS,
    SCORED_PAIRS,
    DPO,
    KTO,
    ROWS,
    AXOLOTL_KTO,
    AXOLOTL_DPO,
    HALOS_KTO,
    HALOS_PAIRS,
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}

__all__ = [
    "OPTIONS",
    "SOURCES",
    "Example",
    "Piece",
    "Record",
    "Skip",
    "Source",
    "detect",
    "get_source",
    "layouts",
    "named_source",
    "of_hub_id",
    "read_stamp",
    "stamped",
]


def get_source(name: str) -> Source:
    """The preset of this name.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    if name not in SOURCES:
        raise UsageError(f"no preset {name!r}", do=nearest(name, SOURCES))
    return SOURCES[name]


def of_hub_id(repo: str, config: str = "") -> Source | None:
    """The preset whose dataset on the Hub this is, or which has its layout, if one does.

    Of several in one repository, it is the one that has the folder `config`, and else the first.
    """
    found = [one for one in SOURCES.values() if repo.lower() in map(str.lower, (one.hub_id, *one.kin))]
    return next((one for one in found if config in one.folders), found[0] if found else None)


def stamped(layout: Source, source: str) -> str:
    """The provenance of rows of this layout that `source` does not tell the dataset of: local copies, and others'.

    A preset that was asked for goes in front of it, `shp:d/posts.jsonl`, so that whoever has the rows can tell the
    licence; one that was told by columns alone, `pku-saferlhf?:d/pairs.jsonl`, where there is something to warn of.
    """
    known = source.partition(":")[0].lower() in map(str.lower, (layout.hub_id, *layout.kin))
    if known or not layout.hub_id or not layout.licence or (layout.detected and not layout.terms):
        return source
    return f"{layout.name}{'?' if layout.detected else ''}:{source}"


def read_stamp(source: str) -> tuple[Source | None, bool, str]:
    """What `stamped` put there: the preset, if one, whether it was asked for, and the source without it."""
    name, colon, rest = source.partition(":")
    preset = SOURCES.get(name.removesuffix("?")) if colon else None
    return (preset, not name.endswith("?"), rest) if preset else (None, False, source)


def named_source(source: str, preset: str = "") -> Source | None:
    """The preset that is asked for: by its own name, or by what is to be read, if that is a preset's dataset.

    Raises:
        UsageError: there is no preset of this name.
    """
    if preset:
        return get_source(preset)
    name, _, config = source.partition(":")
    found = SOURCES.get(name)
    if found is None or not found.hub_id:
        return None
    return of_hub_id(found.hub_id, config) if config else found


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
        f"columns {listed(record)}: no layout that can be read",
        where=where,
        do=max(close)[1] if close else f"These can: {layouts()}",
    )


def layouts() -> str:
    """The layouts that can be read, in a sentence: those of anybody's files, not those of one dataset."""
    found = {" + ".join(columns): None for source in (HH_RLHF, PAIRS, DPO, KTO, ROWS) for columns in source.columns}
    return f"{'; '.join(found)}; and those of known datasets: see `ktodata presets`"
