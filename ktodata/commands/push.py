"""`ktodata push`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from ktodata import cli_common as common
from ktodata.errors import UsageError, WriteError
from ktodata.io import check_makable, local_path, room_beside
from ktodata.io.leftover import clear, folder_aside
from ktodata.io.spill import PREFIX
from ktodata.report.facts import Counts, origin_of
from ktodata.report.publish import check_id, prepare, upload


@click.command(
    cls=common.Command,
    epilog=common.example(
        "ktodata push train.parquet me/my-kto --private",
        "ktodata push train.parquet me/my-kto --eval eval.parquet --token-env MY_TOKEN",
        "ktodata push train.parquet me/my-kto --dry-run card",
    ),
)
@click.argument("source", type=common.NAMED)
@click.argument("hub_id", metavar="HUB_ID")
@click.option("--eval", "held_out", type=common.NAMED, metavar="EVAL", help="Rows for evaluation, as the split `test`.")
@click.option("--private", is_flag=True, help="Make a dataset that only you can see; one that is there stays as it is.")
@click.option(
    "--token-env", metavar="NAME", help="The environment variable that holds the token; else the Hub's own login."
)
@click.option(
    "--licence", "--license", default="", metavar="ID", help="The licence, as the Hub calls it; else told by sources."
)
@click.option(
    "--split", default="train", show_default=True, metavar="NAME", help="Which split of a SOURCE that has several."
)
@click.option(
    "--dry-run", "folder", type=common.FILE, metavar="FOLDER", help="Write all of it here, and nothing to the Hub."
)
def push(
    source: str,
    hub_id: str,
    held_out: str | None,
    private: bool,
    token_env: str | None,
    licence: str,
    split: str,
    folder: str | None,
) -> None:
    """Put rows on the Hugging Face Hub as a dataset, with a card that tells what they are.

    The data go up as parquet, in their order. The card has the counts of each class by source, origin and strategy,
    the licences of the datasets that rows came from, a warning where these forbid commercial use, and two plots. Data
    of the same splits, the card and the plots replace what is there.
    """
    check_id(hub_id)
    token = _token(token_env)
    sources = {"train": source} | ({"test": held_out} if held_out else {})
    if folder is not None:
        target = local_path(folder)
        check_makable(target)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{folder} is there, and not an empty folder", do="Name a new one")
    try:
        # Beside the folder that is asked for, which is there when all of it is, or not at all.
        with _aside(room_beside(folder) if folder else None) as aside:
            made = aside / "dataset"
            with common.progress("reading") as advance:
                splits = prepare(sources, hub_id, made, split=split, licence=licence, advance=advance)
            _summarise(splits, licence)
            if folder is None:
                address = upload(made, hub_id, private=private, token=token, splits=tuple(splits))
                common.written(address)
                common.say(f"pushed to {address}")
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.replace(target)
                common.written(folder)
                common.say(f"written to {folder}; nothing was put on the Hub")
    except OSError as error:
        where = folder or tempfile.gettempdir()
        do = "Free some space there" if error.errno == errno.ENOSPC else "Name a folder where you may write"
        if folder is None:
            do = f"{do} (TMPDIR)"
        raise WriteError(f"the files cannot be written: {error.strerror or error}", where=where, do=do) from error


@contextlib.contextmanager
def _aside(above: Path | None) -> Iterator[Path]:
    """A folder that goes when the block ends, and that no other run takes for a killed one's."""
    clear(above, PREFIX)
    with contextlib.ExitStack() as stack:
        yield folder_aside(stack, above, PREFIX)


def _token(name: str | None) -> str:
    """The token in an environment variable; its value is never shown.

    Raises:
        UsageError: there is none.
    """
    if name is None:
        return ""
    value = os.environ.get(name, "").strip()
    if not value:
        # Whoever passes the token itself for the variable's name will not see it repeated.
        shown = f" {name}" if name.isidentifier() and not name.startswith("hf_") else ""
        raise UsageError(f"--token-env: no environment variable{shown}", do="Name the variable that holds the token")
    return value


def _summarise(splits: dict[str, Counts], licence: str) -> None:
    for name, counts in splits.items():
        common.say(f"{name}: {counts.rows} rows, {counts.labels[True]} desirable, {counts.labels[False]} undesirable")
    restricted = False
    for source in sorted({source for counts in splits.values() for source, _, _ in counts.table("source")}):
        found = origin_of(source)
        if not found.commercial:
            common.say(f"warning: {found.terms}")
            restricted = True
    if restricted and licence and not re.search(r"\bnc\b|other", licence.lower()):
        common.say(f"warning: --licence {licence} promises more than that; the card says both")
