"""The reference of all recipe keys, as Markdown. `python -m ktotrain.recipe_docs > docs/recipe.md` renews the file."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any, get_type_hints

from ktotrain.recipe_keys import describe, key_of, show
from ktotrain.recipe_tables import TABLES

_HEAD = """\
# The recipe

<!-- Made by `python -m ktotrain.recipe_docs > docs/recipe.md`; change ktotrain/recipe_tables.py instead. -->

A run is described by one flat TOML file. `model.path` and `data.train` must be there; every other key has a default.
An unknown or mistyped key is an error that names the nearest one, and all errors are shown at once.

- `ktotrain check recipe.toml` checks a recipe and prints it with all defaults filled in.
- `ktotrain run recipe.toml --set optim.learning_rate=1e-5` puts a value over the file's; the value is TOML, or else
  taken as text, and may be given many times. Quote lists from the shell: `--set 'data.train=["a.jsonl", "b.jsonl"]'`.
- Paths are relative to the current working directory, wherever the recipe lies. A Hub id is anything that is no
  existing path.
"""


def recipe_reference() -> str:
    """docs/recipe.md: a section for each table, a line for each key with default, allowed values and its sentence."""
    return "\n".join([_HEAD, *(_section(name, table) for name, table in TABLES.items())])


def _section(name: str, table: type[Any]) -> str:
    hints = get_type_hints(table)
    rows = [
        f"| `{field.name}` | {_default(field)} | {_cell(describe(hints[field.name], key_of(field)))} "
        f"| {_cell(key_of(field).doc)} |"
        for field in dataclasses.fields(table)
    ]
    head = ["| key | default | allowed | |", "|---|---|---|---|"]
    return "\n".join([f"## `[{name}]`", "", inspect.getdoc(table) or "", "", *head, *rows, ""])


def _default(field: dataclasses.Field[Any]) -> str:
    return "**required**" if field.default is dataclasses.MISSING else f"`{show(field.default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(recipe_reference())
