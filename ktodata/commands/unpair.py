"""`ktodata unpair`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ktodata import cli_common as common
from ktodata.clean import ON_CONFLICT, ON_NEAR, OnConflict, OnNear
from ktodata.commands.written import check_files, set_aside, summarise, write_stream
from ktodata.engine import Engine
from ktodata.io import room_beside
from ktodata.near import THRESHOLD
from ktodata.schema import Kind
from ktodata.sources import OPTIONS
from ktodata.unpair import stream


def preset_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that presets may have, in the order of their table."""
    for name, option in reversed(OPTIONS.items()):
        flag = f"--{name.replace('_', '-')}"
        metavar = {int: "N", float: "X", str: "NAME"}[option.type]
        command = click.option(flag, name, type=option.type, metavar=metavar, help=option.help)(command)
    return command


@click.command(
    cls=common.Command,
    epilog=common.example(
        "ktodata unpair hh-rlhf -o hh.parquet",
        "ktodata unpair ultrafeedback -o uf.parquet --min-margin 1",
        "ktodata unpair pairs.jsonl -o rows.parquet --as chat --quarantine bad.jsonl",
        "ktodata unpair hh-rlhf | ktodata negatives --strategy corrupt > train.jsonl",
    ),
)
@common.source_argument
@common.output_option
@common.preset_option
@common.split_option
@click.option(
    "--one-per-prompt",
    is_flag=True,
    help="Keep one completion of each prompt, drawn by the seed, the classes as equal as they can be.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(ON_CONFLICT),
    default="drop",
    show_default=True,
    help="What to do with a completion that carries both labels for one prompt: drop it wherever it stands, keep "
    "the label that more pairs give it (a tie drops it), keep all, or stop.",
)
@click.option(
    "--near-duplicates",
    type=click.Choice(ON_NEAR),
    default="keep",
    show_default=True,
    help="What to do with rows whose prompts and completions are nearly equal: drop leaves one of each label, and "
    "treats both labels as --on-conflict does (error drops them).",
)
@click.option(
    "--near-threshold",
    default=THRESHOLD,
    show_default=True,
    metavar="X",
    help="How nearly: the share of 128 MinHash values of their 5-character pieces that agree.",
)
@common.kind_option
@preset_options
@common.limit_option
@common.seed_option
@common.workers_option
@common.engine_option
@common.quarantine_option
def unpair(
    source: str | None,
    output: str | None,
    preset: str,
    split: str,
    one_per_prompt: bool,
    on_conflict: OnConflict,
    near_duplicates: OnNear,
    near_threshold: float,
    kind: Kind | None,
    limit: int | None,
    seed: int,
    workers: int,
    engine: Engine,
    quarantine: str | None,
    **options: object,
) -> None:
    """Turn preference pairs into rows of prompt, completion and label.

    SOURCE is a preset (hh-rlhf), a Hub id (owner/name, or owner/name:config), a file (.jsonl .jsonl.gz .json .csv
    .parquet), a folder of such files or one written by `datasets`, or - for JSONL on stdin. A file of rows is
    passed on, checked.

    Thresholds and choices (--min-margin to --lang) are those of some presets; `ktodata presets` lists which has which.

    Pairs whose prompts differ, empty or identical completions, contradictions and duplicates are skipped, and
    counted by reason: the completions read are the rows written plus those skipped. Unreadable records stop the
    command, unless --quarantine names a file for all that is not written.
    """
    source = common.resolve_source(source)
    output = common.resolve_output(output, source)
    check_files(source, output, quarantine)
    if near_duplicates == "keep":
        common.refuse_given(["near_threshold"], "on its own", do="Add --near-duplicates drop")
    with (
        set_aside(quarantine) as (files, refused),
        common.progress("unpairing", limit) as advance,
        stream(
            source,
            preset=preset,
            split=split,
            options={name: value for name, value in options.items() if value is not None},
            one_per_prompt=one_per_prompt,
            on_conflict=on_conflict,
            near_duplicates=near_duplicates,
            near_threshold=near_threshold,
            as_kind=kind,
            limit=limit,
            seed=seed,
            workers=workers,
            engine=engine,
            quarantine=refused,
            folder=room_beside(output),
            advance=advance,
        ) as found,
    ):
        write_stream(found, source, output, files)
    summarise(found.account, output, quarantine)
