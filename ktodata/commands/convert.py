"""`ktodata convert`."""

from __future__ import annotations

from typing import Any

import click

from ktodata import cli_common as common
from ktodata.commands.written import check_files, set_aside, summarise, write_stream
from ktodata.convert import PROVENANCE, Converted, Converting
from ktodata.convert import convert as converting
from ktodata.errors import UsageError
from ktodata.formats import FORMATS, Format, get_format
from ktodata.io import STDOUT, room_beside
from ktodata.io.foreign import write_records
from ktodata.report.facts import origin_of
from ktodata.schema import Kind
from ktodata.unpair import Account, stream

OWN = "ktokit"
SHOWN = 3  # sources that are named


@click.command(
    cls=common.Command,
    epilog=common.example(
        "ktodata convert rows.parquet -o kto.json --to llama-factory",
        "ktodata convert rows.parquet -o train.jsonl --to axolotl",
        "ktodata convert kto.json -o rows.parquet --to ktokit",
    ),
)
@common.source_argument
@common.output_option
@click.option("--to", required=True, type=click.Choice([*FORMATS, OWN]), help="The format to write.")
@click.option("--from", "preset", default="", metavar="NAME", help="How to read SOURCE; left out, its columns tell.")
@common.split_option
@common.kind_option
@click.option(
    "--bare",
    is_flag=True,
    help="Only the format's own columns: no provenance, and so no sources, no licences, nothing of what is synthetic.",
)
@common.limit_option
@common.seed_option
@common.workers_option
@common.quarantine_option
def convert(
    source: str | None,
    output: str | None,
    to: str,
    preset: str,
    split: str,
    kind: Kind | None,
    bare: bool,
    limit: int | None,
    seed: int,
    workers: int,
    quarantine: str | None,
) -> None:
    """Write rows in another trainer's format, or another's as rows (--to ktokit).

    SOURCE is whatever `ktodata unpair` reads. What the format cannot hold is not written, and counted by reason; what
    is written reads back as it was, except for text in a format of chats (axolotl-chat, llama-factory, halos): it
    becomes the turns of a transcript, which --as text turns back, or else one user turn, which stays one. The lines
    for the trainer's configuration are printed, ready to paste.
    Contradictions stay, duplicates go and are counted.
    """
    source = common.resolve_source(source)
    output = common.resolve_output(output, source)
    if to == OWN:
        common.refuse_given(["bare"], f"with --to {OWN}, whose columns are all its own")
    check_files(source, output, quarantine)
    form = None if to == OWN else _checked(get_format(to), output, kind)
    rest: dict[str, Any] = {"on_conflict": "keep", "limit": limit, "seed": seed, "workers": workers}
    with set_aside(quarantine) as (files, refused), common.progress("converting", limit) as advance:
        rest |= {"quarantine": refused, "folder": room_beside(output), "advance": advance}
        if form is None:
            with stream(source, preset=preset, split=split, as_kind=kind, **rest) as rows:
                write_stream(rows, source, output, files)
        else:
            as_kind = form.kind or kind
            with converting(source, form, preset=preset, split=split, bare=bare, as_kind=as_kind, **rest) as found:
                write_records(found.records, found.done.schema(), output, files)
    if form is None:
        summarise(rows.account, output, quarantine)
    else:
        _summarise(found, output)


def _checked(form: Format, output: str, kind: Kind | None) -> Format:
    """Raises UsageError if the trainer reads no such file, or no such rows."""
    form.check_output(output)
    if form.kind and kind not in (None, form.kind):
        raise UsageError(f"{form.name} holds {form.kind} rows only", do="Leave --as out")
    return form


def _summarise(found: Converted, output: str) -> None:
    account, done, form = found.account, found.done, found.done.form
    summary = common.Summary(account.read, account.layout.unit, done.written, account.skipped)
    summary.show(
        output, desirable=done.desirable, note=f"{account.completions} completions, layout {account.layout.name}"
    )
    if "several turns" in account.skipped:
        common.say("note: --to axolotl-chat holds several turns")
    if form.kind == "chat" and account.made_chat:
        common.say(f"note: {account.made_chat} texts became chat{_way_back(account)}")
    if done.bare:
        _say_lost(done)
    else:
        common.say("note: provenance is in columns of its own, which the trainer passes over")
        if account.layout.terms:
            common.say(f"note: {account.layout.terms}")
    common.say(f"\nFor {form.about}:\n\n{form.snippet('data.jsonl' if output == STDOUT else output, done.kind)}")


def _say_lost(done: Converting) -> None:
    """What nobody can tell from a file without provenance, and what its rows may not be used for."""
    named = [f"{count} of {source}" for source, count in done.sources.most_common(SHOWN)]
    more = f" and {len(done.sources) - SHOWN} other sources" if len(done.sources) > SHOWN else ""
    synthetic = f", {done.synthetic} of them synthetic" if done.synthetic else ""
    *most, last = PROVENANCE
    common.say(
        f"note: --bare left out {', '.join(most)} and {last}: the file no longer says where its rows are from "
        f"({', '.join(named)}{more}{synthetic}), so that `ktodata push` could not name their licences"
    )
    for source in sorted(done.sources):
        found = origin_of(source)
        if not found.commercial:
            common.say(f"warning: {found.terms}; the file no longer says so")


def _way_back(account: Account) -> str:
    """What becomes of texts that became chats."""
    same = account.made_chat - account.altered
    told = f"; on the way back, --as text makes {same} of them the transcripts that they were" if same else ""
    if account.altered:
        told += (
            f"; {account.altered} will not be the text that they were: what is no transcript comes back as a chat of "
            "one user turn, and --as text would put Human: and Assistant: into it. --to trl and --to axolotl hold text"
        )
    return told
