"""`ktodata negatives` and `ktodata strategies`."""

from __future__ import annotations

import json

import click

from ktodata.cli_common import (
    Command,
    Summary,
    example,
    output_option,
    progress,
    resolve_output,
    resolve_source,
    say,
    seed_option,
    source_argument,
    workers_option,
)
from ktodata.io import read_rows, write_rows
from ktodata.io.write import STDOUT
from ktodata.negatives.choose import parse_uses
from ktodata.negatives.contract import Strategy
from ktodata.negatives.registry import STRATEGIES
from ktodata.negatives.synthesize import Synthesis, synthesize
from ktodata.order import training_order
from ktodata.schema import Row


@click.command(
    cls=Command,
    epilog=example(
        "ktodata negatives rows.jsonl -o train.parquet --strategy corrupt",
        "ktodata negatives chats.jsonl -o train.jsonl --strategy corrupt --set corrupt.operations=tone "
        "--set corrupt.intensity=1",
        "ktodata unpair hh-rlhf | ktodata negatives --strategy corrupt --per-row 2 --only > negatives.jsonl",
    ),
)
@source_argument
@output_option
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="How negatives are made; see `ktodata strategies`. Several without weights each make K per row; with weights "
    "they are a mix: each negative is made by one of them, drawn by weight from the row's own generator.",
)
@click.option(
    "--per-row",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="K",
    help="Negatives for each desirable row.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.key=value",
    help="An option of a strategy, such as corrupt.intensity=0.5. Lists are written a,b.",
)
@click.option("--only", is_flag=True, help="Write only the negatives, not the rows that were read.")
@workers_option
@seed_option
def negatives(
    source: str | None,
    output: str | None,
    strategies: tuple[str, ...],
    per_row: int,
    settings: tuple[str, ...],
    only: bool,
    workers: int,
    seed: int,
) -> None:
    """Add synthetic undesirable rows to the rows of SOURCE.

    Each desirable row gets K undesirable completions to its own prompt. None equals, after normalising, a completion
    that the prompt already has. What is made depends on the seed and the rows alone, not on their order or on the
    number of workers.
    """
    uses = parse_uses(strategies, settings)
    source = resolve_source(source)
    output = resolve_output(output, source)
    rows = read_rows(source)
    jobs = sum(row.label for row in rows) * per_row * (1 if uses[0].weight is not None else len(uses))
    with progress("making negatives", jobs) as advance:
        done = synthesize(
            rows,
            uses,
            per_row=per_row,
            seed=seed,
            workers=workers,
            output="" if output == STDOUT else output,
            advance=advance,
        )
    written = training_order(done.negatives if only else [*rows, *done.negatives], seed=seed)
    write_rows(written, output)
    done.finish()
    _report(rows, done, written, output)


def _report(rows: list[Row], done: Synthesis, written: list[Row], output: str) -> None:
    summary = Summary(read=len(rows), unit="rows", written=len(written), skipped=done.skipped)
    summary.show(output, desirable=sum(row.label for row in written), note=f"{done.desirable} desirable")
    for name, count in done.made.items():
        say(f"made    {count} by {name}")
    if not done.negatives:
        say("warning: no negatives were made; the reasons are above")


@click.command(cls=Command, epilog=example("ktodata strategies", "ktodata strategies --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def strategies(as_json: bool) -> None:
    """List the ways of making negatives, with their options and defaults."""
    if as_json:
        click.echo(json.dumps({name: _described(entry) for name, entry in STRATEGIES.items()}, indent=2))
        return
    for name, entry in STRATEGIES.items():
        click.echo(f"{name}: {entry.summary}")
        for key, option in entry.options.items():
            click.echo(f"  --set {name}.{key}={option.spell(option.default)}")
            click.echo(f"      {option.help} It is {option.allowed()}.")


def _described(entry: Strategy) -> dict[str, object]:
    options = {
        key: {"default": option.default, "help": option.help, "allowed": option.allowed()}
        for key, option in entry.options.items()
    }
    return {"summary": entry.summary, "options": options}
