"""From `--strategy NAME[=WEIGHT]` and `--set NAME.key=value` to what `synthesize` runs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ktodata.errors import UsageError, nearest, nearest_of
from ktodata.negatives.contract import Option, Strategy
from ktodata.negatives.registry import STRATEGIES


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """A strategy with all of its options, and its weight in a mix (None: each row gets its own K from it)."""

    strategy: Strategy
    options: Mapping[str, Any]
    weight: float | None = None


def use(name: str, *, weight: float | None = None, known: Mapping[str, Strategy] = STRATEGIES, **options: Any) -> Use:
    """A strategy by name, its options checked and the others at their defaults.

    Raises:
        UsageError: an unknown strategy or option, or a value that is not allowed.
    """
    strategy = _known(name, known)
    for key in options:
        _option(strategy, key)
    values = {
        key: option.check(options[key], name=f"{name}.{key}") if key in options else option.default
        for key, option in strategy.options.items()
    }
    if strategy.variant:
        strategy = strategy.variant(values)
        values = {key: values[key] for key in strategy.options}
    return Use(strategy, values, weight)


def parse_uses(
    names: Sequence[str], settings: Sequence[str] = (), *, known: Mapping[str, Strategy] = STRATEGIES
) -> list[Use]:
    """The strategies as the command line names them.

    Raises:
        UsageError: a strategy or option that does not exist (the nearest is named), a value that is not allowed,
            a strategy named twice, weights for some only, a setting for a strategy that is not used.
    """
    weights: dict[str, float | None] = {}
    # Also several in one: --strategy "corrupt=0.4 template=0.6".
    for item in (item for text in names for item in re.split(r"[\s,]+", text.strip())):
        name, equals, text = item.partition("=")
        _known(name, known)
        if name in weights:
            raise UsageError(f"strategy {name!r} is named twice", do="Use --per-row for more negatives from it")
        weights[name] = _weight(name, text) if equals else None
    if not weights:
        raise UsageError("no strategy", do=f"Name one: {' or '.join(f'--strategy {name}' for name in sorted(known))}")
    unweighted = [name for name, weight in weights.items() if weight is None]
    if 0 < len(unweighted) < len(weights):
        raise UsageError(
            f"strategy {unweighted[0]!r} has no weight and others have",
            do="Give NAME=WEIGHT for all (a mix) or for none (each makes its own)",
        )
    options: dict[str, dict[str, Any]] = {name: {} for name in weights}
    for setting in settings:
        _set(setting, options, known)
    return [use(name, weight=weight, known=known, **options[name]) for name, weight in weights.items()]


def read_besides(uses: Sequence[Use]) -> list[tuple[str, str]]:
    """What strategies read besides their rows: the option that names it, and the name of a file, folder or Hub id."""
    found = []
    for each in uses:
        for key, option in each.strategy.options.items():
            value = each.options[key]
            if value != option.default and (option.reads or option.kind == "file"):
                names = value if isinstance(value, tuple) else (value,)
                found += [(f"{each.strategy.name}.{key}", str(name)) for name in names]
    return found


def _set(setting: str, options: dict[str, dict[str, Any]], known: Mapping[str, Strategy]) -> None:
    path, equals, text = setting.partition("=")
    name, dot, key = path.strip().partition(".")
    if not (equals and dot and name and key):
        raise UsageError(f"--set {setting!r} is not NAME.key=value", do="Such as --set corrupt.intensity=0.5")
    strategy = _known(name, known)
    if name not in options:
        raise UsageError(f"--set {name}.{key} is for a strategy that is not used", do=f"Add --strategy {name}")
    key, dot, entry = key.partition(".")
    option = _option(strategy, key)
    if dot and option.kind != "table":
        raise UsageError(f"--set {path.strip()}: {name}.{key} has no entries", do=f"It is {option.allowed()}")
    # An entry of a table: --set corrupt.intensities.keyboard=0.1
    before = options[name].get(key, ()) if dot else ()
    if (key in options[name] and not dot) or any(entry == there for there, _ in before):
        raise UsageError(f"--set {path.strip()} is given twice", do="Lists are written with commas: a,b")
    value = option.parse(f"{entry}:{text}" if dot else text, name=path.strip())
    options[name][key] = option.check((*before, *value), name=f"{name}.{key}") if dot else value


def _known(name: str, known: Mapping[str, Strategy]) -> Strategy:
    if name not in known:
        raise UsageError(f"no strategy {name!r}", do=nearest_of(name, known))
    return known[name]


def _option(strategy: Strategy, key: str) -> Option:
    if key not in strategy.options:
        raise UsageError(f"strategy {strategy.name!r} has no option {key!r}", do=nearest(key, strategy.options))
    return strategy.options[key]


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (weight > 0 and math.isfinite(weight)):
        raise UsageError(f"the weight of strategy {name!r} is {text!r}", do="It must be a number above 0")
    return weight
