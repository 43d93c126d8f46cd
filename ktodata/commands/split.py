"""`ktodata split`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

import click

from ktodata import cli_common as common
from ktodata.commands.written import check_quarantine, set_aside
from ktodata.errors import UsageError
from ktodata.io import STDOUT, WRITERS, Table, atomic_file, local_path, room_beside, write_tables
from ktodata.near import THRESHOLD
from ktodata.schema import Kind
from ktodata.split import SHARE, Side, Sides
from ktodata.split import split as splitting
from ktodata.stop import too_late


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
@click.option("--eval", "held_out", required=True, metavar="EVAL", help="Where to write the rows to evaluate with.")
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

    Rows of one prompt, and of prompts that are nearly equal, go to one side. The classes are mixed alike on both, and
    each is on both wherever that is possible. SOURCE is whatever `ktodata unpair` reads; contradictions stay,
    duplicates go and are counted.
    """
    if share is not None and rows is not None:
        raise UsageError("both --share and --rows are given", do="Choose one")
    source = common.resolve_source(source)
    output = common.resolve_output(output, source)
    held_out = common.resolve_output(held_out, source)
    if output == held_out or (
        STDOUT not in (output, held_out) and local_path(output).resolve() == local_path(held_out).resolve()
    ):
        raise UsageError(f"{output} is both the training and the evaluation file", do="Name two files")
    for place in (output, held_out):
        check_quarantine(quarantine, source, place)
    with (
        set_aside(quarantine) as refused,
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
        write_sides(sides, output, held_out)
        _summarise(sides, output, held_out)


def write_sides(sides: Sides, output: str, held_out: str) -> None:
    """Write both files, or neither: an old file of one side beside a new one of the other would share prompts.

    Both are whole and on disk before either takes its place, one right after the other, and no signal but SIGKILL
    comes between. Where that or the machine's end does, `ktodata check TRAIN --against EVAL` finds the prompts.

    Raises:
        WriteError: the disk says no.
    """
    if STDOUT in (output, held_out):  # what a pipe has got is gone, so the file is last

        def train() -> Iterator[Table]:
            yield from sides.tables("train")
            write_tables(sides.tables("eval"), sides.kind, held_out)

        write_tables(train(), sides.kind, output)
        return
    with contextlib.ExitStack() as together, atomic_file(output) as train_file:
        _write(sides, "train", output, train_file)
        with atomic_file(held_out) as eval_file:
            _write(sides, "eval", held_out, eval_file)
            together.enter_context(too_late())


def _write(sides: Sides, side: str, place: str, stream: IO[bytes]) -> None:
    suffix = max((suffix for suffix in WRITERS if place.lower().endswith(suffix)), key=len)
    WRITERS[suffix](iter(sides.tables(side)), sides.kind, stream)
    stream.flush()
    os.fsync(stream.fileno())


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
