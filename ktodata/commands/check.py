"""`ktodata check`."""

from __future__ import annotations

import sys

import click

from ktodata import cli_common as common
from ktodata.check.run import check
from ktodata.check.show import as_json, as_page, as_table
from ktodata.near import THRESHOLD

BAD = 1


@click.command(
    "check",
    cls=common.Command,
    epilog=common.example(
        "ktodata check train.parquet",
        "ktodata check train.parquet --tokenizer Qwen/Qwen2.5-0.5B-Instruct --max-length 1024 --against eval.parquet",
        "ktodata check train.parquet --json --strict > report.json",
    ),
)
@common.source_argument
@click.option("--tokenizer", default="", metavar="ID", help="A model's folder or Hub id, to count tokens with.")
@click.option(
    "--max-length", type=click.IntRange(min=1), metavar="N", help="Tokens that a row may have; with --tokenizer."
)
@click.option(
    "--against", type=common.NAMED, metavar="EVALSET", help="Rows for evaluation, whose prompts should be others."
)
@click.option(
    "--near-threshold",
    default=THRESHOLD,
    show_default=True,
    metavar="X",
    help="What is nearly equal: the share of 128 MinHash values that agree, .6 to 1.",
)
@click.option(
    "--split", default="train", show_default=True, metavar="NAME", help="Which split of a folder or Hub dataset."
)
@common.limit_option
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON instead of a table.")
@click.option("--html", "page", type=common.FILE, metavar="FILE", help="Write a page with all of it, too.")
@click.option("--strict", is_flag=True, help="Exit with 1 for a warning as well.")
def check_command(
    source: str | None,
    tokenizer: str,
    max_length: int | None,
    against: str | None,
    near_threshold: float,
    split: str,
    limit: int | None,
    json_wanted: bool,
    page: str | None,
    strict: bool,
) -> None:
    """Look for what spoils training: what an expert would want to know before.

    Each check gives a verdict: pass, warn, fail, or skipped where it does not apply. The exit code is 1 if one fails,
    and with --strict also if one warns. Rows are counted from 1. SOURCE is a file of rows.
    """
    source = common.resolve_source(source)
    read = {"the input": source, "the evaluation set": against, "the tokenizer": tokenizer}
    common.check_places(read=[(what, name) for what, name in read.items() if name], written=[("the page", page)])
    with common.progress("checking", limit) as advance:
        report = check(
            source,
            split=split,
            limit=limit,
            tokenizer=tokenizer,
            max_length=max_length,
            against=against or "",
            near_threshold=near_threshold,
            advance=advance,
        )
    if page is not None:
        with common.files() as files, files.open(page) as stream:
            stream.write(as_page(report).encode("utf-8", "replace"))
        common.say(f"the page is {page}")
    click.echo(as_json(report) if json_wanted else as_table(report), nl=json_wanted)
    if report.verdict == "fail" or (strict and report.verdict == "warn"):
        sys.exit(BAD)
