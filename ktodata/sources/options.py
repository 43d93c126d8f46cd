"""The thresholds and choices that presets have: what they are called, and what they may be.

A preset has those options that are keyword-only arguments of its `read` or `join`; see `ktodata.sources.contract`.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

from ktodata.errors import UsageError


class Option(NamedTuple):
    """One option of the command line: its type, its help, and the least value it may have."""

    type: type[int] | type[float] | type[str]
    help: str
    least: float | None = None


OPTIONS: dict[str, Option] = {
    "min_margin": Option(float, "Leave out pairs whose scores differ by less than this.", 0),
    "min_ratio": Option(float, "Leave out pairs whose scores' ratio is less than this.", 1),
    "min_score": Option(float, "Leave out pairs whose chosen reply is scored less than this."),
    "max_pairs_per_prompt": Option(int, "Use at most so many pairs of one prompt, the clearest first.", 1),
    "axis": Option(str, "Which judgement decides, where a dataset has several."),
    "desirable_at": Option(float, "The rating from which on a completion is desirable."),
    "undesirable_at": Option(float, "The rating from which on, to the other side, it is undesirable."),
    "lang": Option(str, "Only messages of this language, such as en or pt-BR."),
}


class Setting(NamedTuple):
    """An option of a preset: its name, the value it has, and the values it may have (() where any will do)."""

    name: str
    value: object
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return f"--{self.name.replace('_', '-')}"


def settings_of(function: Callable[..., Any]) -> dict[str, Setting]:
    """The keyword-only arguments of a function: their names, defaults and choices.

    Raises:
        TypeError: one of them is not in OPTIONS.
    """
    if isinstance(function, partial):
        bound = function.keywords
        return {
            name: setting._replace(value=bound.get(name, setting.value))
            for name, setting in settings_of(function.func).items()
        }
    return dict(_settings_of(function))


@cache
def _settings_of(function: Callable[..., Any]) -> dict[str, Setting]:
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if name not in OPTIONS:
                raise TypeError(f"{function.__module__}: {name} is not in ktodata.sources.options.OPTIONS")
            hint = typing.get_type_hints(function)[name]
            choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
            found[name] = Setting(name, parameter.default, choices)
    return found


def check(setting: Setting, value: object) -> None:
    """Raises UsageError if an option cannot have this value."""
    option = OPTIONS[setting.name]
    if setting.choices and value not in setting.choices:
        raise UsageError(f"{setting.flag} is {value!r}", do=f"It may be {', '.join(setting.choices)}")
    if option.type is str:
        if not isinstance(value, str):
            raise UsageError(f"{setting.flag} is {value!r}, not a name")
        return
    kinds = int if option.type is int else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise UsageError(f"{setting.flag} is {value!r}, not a{' whole' if option.type is int else ''} number")
    if option.least is not None and value < option.least:
        raise UsageError(f"{setting.flag} is {value:g}", do=f"The least that makes sense is {option.least:g}")
