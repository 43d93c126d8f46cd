"""`ktodata presets`."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from ktodata import cli_common as common
from ktodata.sources import OPTIONS, SOURCES, Source


@click.command(
    cls=common.Command,
    epilog=common.example("ktodata presets", "ktodata presets --json | jq '.[] | select(.name == \"shp\")'"),
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON, for scripts.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The same as docs/presets.md has it.")
def presets(as_json: bool, as_markdown: bool) -> None:
    """List the datasets and layouts that `ktodata unpair` can read.

    A name is what `ktodata unpair NAME` reads from the Hub, and what --preset calls the layout of a file. Options are
    shown with their defaults.
    """
    described = [describe(source) for source in SOURCES.values()]
    if as_json:
        click.echo(json.dumps(described, indent=1, ensure_ascii=False))
        return
    if as_markdown:
        click.echo(markdown(described), nl=False)
        return
    width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else 0
    for one in described:
        for line in lines(one):
            click.echo(folded(line, width) if width else line)


def lines(one: dict[str, Any]) -> Iterator[str]:
    """A preset that `describe` has described, line by line."""
    yield one["name"]
    yield f"    {one['about']}"
    yield f"    columns: {' | '.join(' + '.join(columns) for columns in one['columns'])}"
    yield f"    rows: {one['kind'] or 'text or chat, as they come'}"
    if one["hub_id"]:
        folders = f", folders {', '.join(one['folders'])}" if one["folders"] else ""
        yield f"    on the Hub: {one['hub_id']}, split {one['split']}{folders}"
    if one["kin"]:
        yield f"    also: {', '.join(one['kin'])}"
    if one["licence"]:
        yield f"    licence: {one['licence']}"
    if one["options"]:
        yield "    options:"
    for flag, option in one["options"].items():
        default = "" if option["default"] in ("", 0) else f" {_plain(option['default'])}"
        choices = f" ({', '.join(option['choices'])})" if option["choices"] else ""
        yield f"        {flag}{default}{choices}: {option['help']}"


def folded(line: str, width: int) -> str:
    """A line on as many as a terminal needs, the others further in than the first."""
    start = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(), width, initial_indent=start, subsequent_indent=f"{start}    ", break_on_hyphens=False
    )


def describe(source: Source) -> dict[str, Any]:
    """A preset as plain data: `name`, `about`, `columns` (sets of which one is enough), `kind`, `origin`, `hub_id`,
    `split`, `folders`, `kin`, `licence`, and `options` by flag, each with its default, choices and help."""
    return {
        "name": source.name,
        "about": source.about,
        "columns": [list(columns) for columns in source.columns],
        "kind": source.kind,
        "origin": source.origin,
        "hub_id": source.hub_id,
        "split": source.split if source.hub_id else "",
        "folders": list(source.folders),
        "kin": list(source.kin),
        "licence": source.licence,
        "options": {
            setting.flag: {
                "default": setting.value,
                "choices": list(setting.choices),
                "help": OPTIONS[setting.name].help,
            }
            for setting in source.settings.values()
        },
    }


HEAD = """# What `ktodata unpair` reads

`ktodata unpair NAME` reads a preset's dataset from the Hub (`NAME:PART` one of its folders or configurations),
`ktodata unpair FILE` a file of its layout, which its columns tell, or `--preset NAME`. This page is what
`ktodata presets --markdown` prints; `--json` is for scripts.

What all have in common: replies that are empty or alike, prompts of a pair that differ, ties, duplicates and
contradictions are skipped and counted. A rating off its dataset's scale is unreadable, and so is a number that is NaN,
infinite, or true; a number in quotes is one, as csv files know text only. Scores of pairs may be on any scale: what
counts is which is higher, and by how much.

A prompt needs words: where nothing but white space is asked, or a conversation has none before the reply but those of
its system prompt, it is skipped and counted as `no prompt`, in files of rows too. (A system prompt that stands alone is
a prompt.) Text in the column of a prompt beside messages is the user's turn where they have none. Where they have some
it is one of these, perhaps with a template round it; else it is another prompt, and `prompts differ`.

Messages may stand in a column as text, if they are JSON and all of the text but for white space, in both replies of a
pair: a list in which somebody speaks who does so in chats (`user`, `assistant`, `human`, `gpt` …); in replies of pairs
and in columns of conversations a single message too. Other JSON is text, and text that merely looks like messages stays
text in rows whose `id` tells (all that ktodata wrote). Of a pair with messages and an empty text the messages stay;
beside other text they are unreadable if they are a conversation of the prompt, or a reply to it. Messages that are cut
off, as spreadsheets cut a cell at 32,767 characters, are unreadable, and so are those as Python prints them, which is
what pandas writes into csv files. So is a record with `tools`, `images`, `videos` or `audios` that are not empty, since
a row has no place for them. An `input` beside an `instruction` is part of the prompt, on a line of its own; where one
of the two is null, empty or white space, the other is all of it.
"""


def markdown(described: list[dict[str, Any]]) -> str:
    """The presets as a page."""
    pieces = [HEAD]
    for one in described:
        hub = f"Hub: `{one['hub_id']}`, split {one['split']}. " if one["hub_id"] else ""
        kin = f"Also {', '.join(f'`{name}`' for name in one['kin'])}. " if one["kin"] else ""
        folders = f"Folders {', '.join(f'`{name}`' for name in one['folders'])}. " if one["folders"] else ""
        licence = f"Licence: {one['licence']}." if one["licence"] else ""
        columns = "; ".join(" ".join(f"`{name}`" for name in columns) for columns in one["columns"])
        rows = f"{one['kind'] or 'text or chat'} rows"
        pieces.append(f"\n## {one['name']}\n\n{one['about'][0].upper()}{one['about'][1:]}.\n\n")
        pieces.append(f"- Columns: {columns}: {rows}\n")
        if about := f"{hub}{kin}{folders}{licence}".strip():
            pieces.append(f"- {about}\n")
        for flag, option in one["options"].items():
            default = "none" if option["default"] in ("", 0) else _plain(option["default"])
            choices = f" of {', '.join(option['choices'])}" if option["choices"] else ""
            pieces.append(f"- `{flag}` ({default}{choices}): {option['help']}\n")
    return "".join(pieces)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
