"""The card beside a file of rows: how its negatives were made, for people to read and for programs to parse.

`train.parquet` gets `train.parquet.card.md`: a table, and all of it again as JSON in one fenced block. (A `.json`
beside the rows would be taken for rows where a folder is read.) It holds neither times nor secrets, so the same command
on the same rows writes the same card.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import PurePath
from typing import Any

from ktodata import __version__
from ktodata.cli_common import skipped_line
from ktodata.io import Files
from ktodata.leakage import Leakage
from ktodata.negatives.choose import Use
from ktodata.negatives.stream import REPEATED_ROW, Negatives

_LIBRARIES = ("nlpaug", "phonenumberslite", "py3langid", "python-stdnum", "scikit-learn", "transformers", "vllm")
# "https://user:key@host/v1?api_key=…" -> "https://host/v1"
_IN_URL = re.compile(r"(?<=://)[^/@\s]*@|[?#][^\s]*$")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a card tells about: a file, what was asked for, and what came of it."""

    output: str
    found: Negatives
    unreadable: int
    per_row: int
    only: bool
    seed: int
    leakage: Mapping[str, Leakage]


def card_path(output: str) -> str:
    """Where the card of an output lies."""
    return f"{output}.card.md"


def write_card(made: Made, files: Files) -> None:
    """Write the card beside the output, to take its place with it.

    Raises:
        WriteError: the disk says no.
    """
    with files.open(card_path(made.output)) as stream:
        # Names of files, and options, may hold bytes that are not UTF-8.
        stream.write(card_text(made).encode("utf-8", "backslashreplace"))


def card_text(made: Made) -> str:
    """The card."""
    facts = card_facts(made)
    desirable = facts["desirable"]
    left_out = skipped_line({reason: count for reason, count in facts["skipped"].items() if count})
    lines = [
        f"# {_prose(PurePath(made.output).name)}",
        "",
        f"{facts['rows']} rows to train on with KTO: {desirable} desirable, {facts['rows'] - desirable} undesirable. "
        f"Negatives by `ktodata negatives` of ktokit {__version__}, seed {made.seed}, {made.per_row} for each of "
        f"{made.found.asked} desirable rows{'; only they are in the file' if made.only else ''}. "
        f"{facts['rows_read']} rows were read; {left_out}.",
        "",
        "| strategy | weight | made | skipped | leakage (AUC) | model |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in facts["strategies"].items():
        auc = "not measured" if entry["leakage"] is None else f"{entry['leakage']:.3f}"
        model = _prose(" ".join(str(entry["facts"][key]) for key in ("model", "revision") if entry["facts"].get(key)))
        skipped = sum(entry["skipped"].values())
        weight = "" if entry["weight"] is None else f"{entry['weight']:g}"
        lines.append(f"| {name} | {weight} | {entry['made']} | {skipped} | {auc} | {model} |")
    lines += [
        "",
        "Leakage: how well character 1- to 4-grams alone tell a strategy's negatives from the completions they were "
        "made of; .5 is chance. Each negative names its `strategy`, and the row it was made of as `parent_id`.",
        "",
        "```json",
        json.dumps(facts, indent=2, ensure_ascii=False, default=str),
        "```",
        "",
    ]
    return "\n".join(lines)


def card_facts(made: Made) -> dict[str, Any]:
    """All that the card tells, as JSON would have it."""
    skips: dict[str, dict[str, int]] = {use.strategy.name: {} for use in made.found.work.uses}
    for reason, count in sorted(made.found.work.skipped.items()):
        name, _, why = reason.partition(": ")
        skips[name][why] = count
    strategies = {use.strategy.name: _entry(use, made, skips[use.strategy.name]) for use in made.found.work.uses}
    return {
        "made_by": f"ktokit {__version__}",
        "command": "ktodata negatives",
        "seed": made.seed,
        "per_row": made.per_row,
        "only_negatives": made.only,
        "sources": sorted(made.found.sources),
        "rows_read": made.found.read + made.unreadable,
        "skipped": {REPEATED_ROW: made.found.repeated, "unreadable": made.unreadable},
        "rows": made.found.written,
        "desirable": made.found.desirable,
        "strategies": strategies,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _entry(use: Use, made: Made, skipped: Mapping[str, int]) -> dict[str, Any]:
    name = use.strategy.name
    known = use.strategy.options
    leakage = made.leakage.get(name)
    measured = leakage is not None and not math.isnan(leakage.ngrams)
    return {
        "weight": use.weight,
        "made": made.found.work.made[name],
        "skipped": dict(skipped),
        "leakage": round(leakage.ngrams, 4) if leakage and measured else None,
        "leakage_by_length": round(leakage.length, 4) if leakage and measured else None,
        "options": {key: _shown(value) for key, value in use.options.items() if not known[key].secret},
        "facts": {key: _shown(value) for key, value in made.found.work.facts().get(name, {}).items()},
    }


def _prose(text: str) -> str:
    """Text as Markdown that shows it as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(text.split()))


def _shown(value: Any) -> Any:
    """An option's value without what an address may carry: a name and password, or a key."""
    if isinstance(value, str) and "://" in value:
        return _IN_URL.sub("", value)
    return value


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
