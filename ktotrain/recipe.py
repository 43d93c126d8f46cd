"""Reads a recipe: one flat TOML file, checked whole, every error in it reported at once.

    recipe = load_recipe("recipe.toml", ["optim.learning_rate=1e-5"])

Paths in a recipe are relative to the current working directory, as on a command line, wherever the file lies.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from ktotrain.errors import RecipeError
from ktotrain.recipe_keys import NotAllowedError, convert, describe, key_of, refuse_unfit, show, show_override
from ktotrain.recipe_names import suggest_key, suggest_table
from ktotrain.recipe_tables import (
    TABLES,
    AdapterRecipe,
    DataRecipe,
    LossRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    SamplesRecipe,
    TrainRecipe,
)

__all__ = [
    "AdapterRecipe",
    "DataRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimRecipe",
    "Recipe",
    "SamplesRecipe",
    "TrainRecipe",
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
    "recipe_to_toml",
]

# Characters of a recipe: far more than any needs, and few enough for a file that is something else to be told at once.
LARGEST = 4 * 2**20

Place = tuple[str, str]
"""A table and a key in it; the key is "" for the table itself, and both are "" for the file."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    where: str
    line: int
    text: str


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, with each `table.key=value` of `overrides` put over it.

    A value of an override is TOML, or else taken as text: `optim.learning_rate=1e-5`, `model.path=gpt2`.

    Raises:
        RecipeError: the file cannot be read or is not TOML, or anything in it or in the overrides is wrong. Its
            text has a line for each error, which begins with the file and line or with the override.
    """
    text = _read(Path(path))
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, position = str(error).rstrip(")").partition(" (at ")
        found = re.match(r"line (\d+)", position)
        raise RecipeError(
            f"not valid TOML: {message[:1].lower()}{message[1:]}" + (f" ({position})" if position else ""),
            where=f"{path}:{found[1]}" if found else str(path),
        ) from None
    except RecursionError:
        raise RecipeError("not a recipe: nested too deeply", where=str(path)) from None
    except ValueError as error:  # a whole number of more digits than Python reads
        raise RecipeError(f"not valid TOML: {str(error).partition(';')[0].lower()}", where=str(path)) from None
    lines = _line_numbers(text)
    problems: list[_Problem] = []
    origins = _override(tables, overrides, problems)

    def where(place: Place) -> tuple[str, int]:
        if place in origins:
            return f"--set {show_override(origins[place])}", len(text)
        line = lines.get(place) or lines.get((place[0], "")) or 0
        return (f"{path}:{line}" if line else str(path)), line

    return _check(tables, where, problems, title=str(path))


def recipe_from_dict(tables: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """The recipe that `recipe_to_dict` wrote, or any mapping of tables, checked like a file.

    Raises:
        RecipeError: as `load_recipe`; `where` stands for the file.
    """
    return _check(tables, lambda place: (where, 0), [], title=where)


def recipe_to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every key with its value, defaults too, fit for JSON and for `recipe_from_dict`; no adapter, no table."""
    tables: dict[str, dict[str, Any]] = {}
    for name in TABLES:
        table = getattr(recipe, name)
        if table is not None:
            values = dataclasses.asdict(table)
            tables[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return tables


def recipe_to_toml(recipe: Recipe) -> str:
    """A recipe file with every key written out, which `load_recipe` reads back to the same recipe."""
    import tomlkit

    return tomlkit.dumps(recipe_to_dict(recipe))


def _read(path: Path) -> str:
    try:
        if path.is_char_device() or path.is_block_device():  # some of them never end
            raise RecipeError("is a device, not a recipe", where=str(path), do="Name a TOML file")
        with path.open(encoding="utf-8-sig") as file:  # a byte order mark is not TOML, but Windows editors write it
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise RecipeError(
                f"is no recipe: it has more than {LARGEST:,} characters", where=str(path), do="Name a TOML file"
            )
        return text
    except FileNotFoundError:
        raise RecipeError("no such file", where=str(path), do="Name an existing recipe") from None
    except IsADirectoryError:
        raise RecipeError("is a folder, not a recipe", where=str(path), do="Name the TOML file in it") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError:  # of a name, not of what is in the file
        raise RecipeError("no file can have this name", where=str(path)) from None


# --- overrides ----------------------------------------------------------------------------------------------------


def _override(tables: dict[str, Any], overrides: Sequence[str], problems: list[_Problem]) -> dict[Place, str]:
    """Puts the overrides into the tables; returns which key came from which."""
    origins: dict[Place, str] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        table, dot, key = (part.strip() for part in name.partition("."))
        if not (equals and dot and table and key):
            advice = suggest_key("", table) if equals and table not in TABLES else ""
            problems.append(
                _Problem(f"--set {show_override(override)}", 10**9, f"not table.key=value. {advice}".rstrip(". "))
            )
            continue
        target = tables.setdefault(table, {})
        if isinstance(target, dict):  # if not, the file has an error that is reported anyhow
            target[key] = _parse_value(text.strip(), _hints(table).get(key))
            origins[table, key] = override
            origins.setdefault((table, ""), override) if len(target) == 1 else None
    return origins


def _parse_value(text: str, hint: Any) -> Any:
    """What an override's text means: text where the key holds text alone, else TOML, else text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # no TOML, or none that Python reads
        return text
    if set(parsed) != {"value"} or (hint is str and not isinstance(parsed["value"], str)):
        return text
    return parsed["value"]


# --- checks -------------------------------------------------------------------------------------------------------


@functools.cache
def _hints(table: str) -> dict[str, Any]:
    return get_type_hints(TABLES[table]) if table in TABLES else {}


def _check(
    tables: Mapping[str, Any],
    where: Callable[[Place], tuple[str, int]],
    problems: list[_Problem],
    *,
    title: str,
) -> Recipe:
    """The recipe of some tables.

    Raises:
        RecipeError: all of `problems`, and all that are found here.
    """
    bad: set[Place] = set()

    def report(place: Place, text: str) -> None:
        bad.add(place)
        problems.append(_Problem(*where(place), text))

    for name, value in tables.items():
        if name not in TABLES and isinstance(value, Mapping):
            report((name, ""), f"unknown table [{name}]. {suggest_table(name)}")
        elif name not in TABLES:
            report(("", name), f"key {name!r} stands in no table. {suggest_key('', name)}")
    built: dict[str, Any] = {}
    for name in TABLES:
        table = tables.get(name, None if name == "adapter" else {})
        if table is not None and not isinstance(table, Mapping):
            report((name, ""), f"{name} is {show(table)}; it must be a table: a line [{name}], and keys below it")
            table = {}
        if table is not None:
            built[name] = _build(name, table, report)
    recipe = Recipe(**built)
    for rule in _RULES:
        if not bad.intersection({*rule.keys, *((table, "") for table, _ in rule.keys)}) and rule.broken(recipe):
            report(rule.keys[0], rule.text)
    if problems:
        raise RecipeError(_joined(problems, title))
    return recipe


def _build(name: str, table: Mapping[str, Any], report: Callable[[Place, str], None]) -> Any:
    """One table. A key that is wrong or missing is reported, and left at its default or empty."""
    values: dict[str, Any] = {}
    fields = {field.name: field for field in dataclasses.fields(TABLES[name])}
    for key, value in table.items():
        if key not in fields:
            report((name, key), f"unknown key {key!r} in [{name}]. {suggest_key(name, key)}")
            continue
        try:
            refuse_unfit(value)
            values[key] = convert(_hints(name)[key], value, key_of(fields[key]))
        except NotAllowedError as error:
            report((name, key), f"[{name}] {key} is {show(value)}; {error}")
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and key not in table:
            report((name, key), f"[{name}] {key} is missing; it must be {describe(_hints(name)[key], key_of(field))}")
        if required:
            values.setdefault(key, "")
    return TABLES[name](**values)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    """A check of several keys against each other; the error stands at the first. Skipped if one is wrong already."""

    keys: tuple[Place, ...]
    broken: Callable[[Recipe], bool]
    text: str


def _one_auto(auto: str, number: str) -> _Rule:
    return _Rule(
        (("loss", number), ("loss", auto)),
        lambda recipe: getattr(recipe.loss, auto) == "auto" and getattr(recipe.loss, number) not in ("auto", 1.0),
        f'[loss] {auto} is "auto", which computes both weights; leave {number} out, or make it "auto" too',
    )


_RULES = (
    _Rule(
        (("model", "quantization"), ("adapter", "")),
        lambda recipe: recipe.model.quantization != "none" and recipe.adapter is None,
        "[model] quantization freezes the weights, and there is no [adapter] to train. Add one, or quantize nothing",
    ),
    _Rule(
        (("train", "precision"), ("model", "dtype")),
        lambda recipe: recipe.train.precision == "fp16" and recipe.model.dtype == "float16",
        '[train] precision "fp16" scales gradients, for which trained weights must be float32. '
        'Set [model] dtype to "auto", or precision to "bf16"',
    ),
    _Rule(
        (("train", "eval_every"), ("data", "eval")),
        lambda recipe: recipe.train.eval_every > 0 and not recipe.data.eval,
        "[train] eval_every is set, and [data] eval names no rows. Name some, or leave eval_every out",
    ),
    _one_auto("desirable_weight", "undesirable_weight"),
    _one_auto("undesirable_weight", "desirable_weight"),
)


def _joined(problems: list[_Problem], title: str) -> str:
    ordered = sorted(problems, key=lambda problem: problem.line)
    lines = [f"{problem.where}: {problem.text}" for problem in ordered]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{title} has {len(lines)} errors", *(f"  {line}" for line in lines)])


# --- line numbers, which tomllib does not keep ---------------------------------------------------------------------

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_HEADER = re.compile(rf"\s*\[{{1,2}}\s*({_NAME})\s*\]{{1,2}}\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"\s*({_NAME})\s*(?:\.\s*({_NAME})\s*)?=")


def _line_numbers(text: str) -> dict[Place, int]:
    """The line, from 1, where each table and key of a flat TOML text begins. What it cannot tell, it leaves out."""
    found: dict[Place, int] = {}
    table, closing = "", ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not closing:
            if header := _HEADER.match(line):
                table = _unquoted(header[1])
                found.setdefault((table, ""), number)
            elif assignment := _ASSIGNMENT.match(line):
                first, second = _unquoted(assignment[1]), _unquoted(assignment[2] or "")
                found.setdefault((table, first) if table or not second else (first, second), number)
                if not table and not second:
                    found.setdefault((first, ""), number)  # `model = {…}` or `model = 3`
        for quotes in ('"""', "'''"):
            if closing in ("", quotes) and line.count(quotes) % 2:
                closing = "" if closing else quotes
    return found


def _unquoted(name: str) -> str:
    return name.strip("\"'")
