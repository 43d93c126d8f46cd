"""`ktodata split`."""

from __future__ import annotations

import click

from ktodata import cli_common as common
from ktodata.commands.written import set_aside
from ktodata.errors import UsageError
from ktodata.io import STDOUT, Files, room_beside, write_tables
from ktodata.near import THRESHOLD
from ktodata.schema import Kind
from ktodata.split import SHARE, Side, Sides
from ktodata.split import split as splitting


@click.command(
    "split",
    cls=common.Command,
    epilog=common.example(
        "ktodata split rows.parquet -o train.parquet --eval eval.parquet",
        "ktodata split hh-rlhf -o train.parquet --eval eval.parquet --rows 1000 --seed 1",
    ),
)
@common.source_argument
@common.output_option
@click.option(
    "--eval",
    "held_out",
    required=True,
    type=common.NAMED,
    metavar="EVAL",
    help="Where to write the rows to evaluate with.",
)
@click.option("--share", type=float, metavar="X", help=f"How many of the rows these are, below 1; {SHARE} if left out.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="How many rows these are, instead of --share.")
@click.option(
    "--near-threshold",
    default=THRESHOLD,
    show_default=True,
    metavar="X",
    help="Which prompts are nearly equal and stay together: the share of 128 MinHash values that agree, .6 to 1.",
)
@common.preset_option
@common.split_option
@common.kind_option
@common.limit_option
@common.seed_option
@common.workers_option
@common.quarantine_option
def split_command(
    source: str | None,
    output: str | None,
    held_out: str,
    share: float | None,
    rows: int | None,
    near_threshold: float,
    preset: str,
    split: str,
    kind: Kind | None,
    limit: int | None,
    seed: int,
    workers: int,
    quarantine: str | None,
) -> None:
    """Split rows in two, so that no prompt is on both sides.

    Rows of one prompt, and of prompts that are nearly equal, go to one side. A short question behind another system
    prompt, or behind none, is another prompt, and may be on the other side. The classes are mixed alike on both, and
    each is on both wherever that is possible. SOURCE is whatever `ktodata unpair` reads; contradictions stay,
    duplicates go and are counted.
    """
    if share is not None and rows is not None:
        raise UsageError("both --share and --rows are given", do="Choose one")
    source = common.resolve_source(source)
    output = common.resolve_output(output, source)
    held_out = common.resolve_output(held_out, source)
    common.check_places(
        read=[("the input", source)],
        written=[
            ("the training file", output),
            ("the evaluation file", held_out),
            ("the quarantine file", quarantine),
        ],
    )
    with (
        set_aside(quarantine) as (files, refused),
        common.progress("splitting", limit) as advance,
        splitting(
            source,
            preset=preset,
            split=split,
            share=SHARE if share is None else share,
            rows=rows,
            near_threshold=near_threshold,
            as_kind=kind,
            limit=limit,
            seed=seed,
            workers=workers,
            quarantine=refused,
            folder=room_beside(output),
            advance=advance,
        ) as sides,
    ):
        write_sides(sides, output, held_out, files)
    _summarise(sides, output, held_out)


def write_sides(sides: Sides, output: str, held_out: str, files: Files) -> None:
    """Write both files, to take their places together: an old one of one side beside a new one of the other would share
    prompts. Where SIGKILL or the machine's end comes between, `ktodata check TRAIN --against EVAL` finds them.

    Raises:
        WriteError: the disk says no.
    """
    places = {"train": output, "eval": held_out}
    for side in sorted(places, key=lambda side: places[side] == STDOUT):  # what a pipe has got is gone: it is last
        write_tables(sides.tables(side), sides.kind, places[side], files)


def _summarise(sides: Sides, output: str, held_out: str) -> None:
    account = sides.account
    common.say(f"read    {account.read} {account.layout.unit} ({account.completions} completions)")
    for name, side, place in (("train", sides.train, output), ("eval ", sides.eval, held_out)):
        prompts = f"rows of {side.prompts} prompts"
        common.say(common.written_line(side.rows, place, desirable=side.desirable, before=f"{name}  ", after=prompts))
    common.say(common.skipped_line(account.skipped))
    if sides.joined:
        common.say(f"{sides.joined} prompts are nearly equal to others: {sides.near_groups} groups, each on one side")
    if sides.eval.rows != sides.wanted:
        nearest = f"{sides.eval.rows} is the nearest found of whole prompts"
        common.say(f"note: {sides.wanted} rows were asked for, {nearest}")
    for name, side in (("train", sides.train), ("eval", sides.eval)):
        missing = _missing(side)
        if missing:
            common.say(f"warning: no {missing} rows in {name}: too few prompts have them")


def _missing(side: Side) -> str:
    return "" if side.desirable and side.undesirable else "undesirable" if side.desirable else "desirable"
