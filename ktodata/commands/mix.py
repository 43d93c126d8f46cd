"""`ktodata mix`."""

from __future__ import annotations

import click

from ktodata import cli_common as common
from ktodata.clean import ON_CONFLICT, OnConflict
from ktodata.commands.written import set_aside
from ktodata.io import room_beside, write_tables
from ktodata.mix import Mixed, mix, parse_part
from ktodata.schema import Kind


@click.command(
    "mix",
    cls=common.Command,
    epilog=common.example(
        "ktodata mix chats.parquet hh.parquet -o train.parquet",
        "ktodata mix chats.parquet=3 hh.parquet=1 -o train.parquet --rows 20000",
    ),
)
@click.argument("sources", nargs=-1, required=True, type=common.NAMED, metavar="SOURCE[=WEIGHT]...")
@common.output_option
@click.option(
    "--rows", type=click.IntRange(min=1), metavar="N", help="How many rows; as many as there can be if left out."
)
@click.option(
    "--on-conflict",
    type=click.Choice(ON_CONFLICT),
    default="drop",
    show_default=True,
    help="What to do with a completion that carries both labels for one prompt, in one file or in two.",
)
@common.kind_option
@common.seed_option
@common.workers_option
@common.quarantine_option
def mix_command(
    sources: tuple[str, ...],
    output: str | None,
    rows: int | None,
    on_conflict: OnConflict,
    kind: Kind | None,
    seed: int,
    workers: int,
    quarantine: str | None,
) -> None:
    """Put several files of rows together, each with its share.

    A weight is a share of the result: A=3 B=1 takes three rows of A for each of B, as many as there are without taking
    any twice; a weight that comes to no row at all is refused. Without weights all rows are taken. SOURCE is whatever
    `ktodata unpair` reads; a file or folder that is called NAME=3 is that file. Rows of several files are taken once;
    each keeps its provenance, and all are put in training order. Rows that weights leave out are counted, and not in
    the quarantine file.
    """
    parts = [parse_part(text) for text in sources]
    output = common.resolve_output(output, "mix")
    common.check_places(
        read=[("the input", part.source) for part in parts],
        written=[("the output", output), ("the quarantine file", quarantine)],
    )
    with (
        set_aside(quarantine) as (files, refused),
        common.progress("mixing") as advance,
        mix(
            parts,
            rows=rows,
            as_kind=kind,
            on_conflict=on_conflict,
            seed=seed,
            workers=workers,
            quarantine=refused,
            folder=room_beside(output),
            advance=advance,
        ) as found,
    ):
        write_tables(found.tables, found.kind, output, files)
    _summarise(found, output)


def _summarise(found: Mixed, output: str) -> None:
    written = found.account.written
    skipped = found.account.skipped.copy()
    for share in found.shares:
        skipped += share.account.skipped
        rest = share.rows - share.taken
        common.say(
            f"read    {share.account.read} {share.account.layout.unit} of {share.part.source}: {share.taken} rows, "
            f"{share.taken / written:.1%} of the result{f'; {rest} not taken' if rest else ''}"
        )
        if share.account.layout.terms:
            common.say(f"note: {share.part.source}: {share.account.layout.terms}")
    common.say(common.written_line(written, output, desirable=found.account.desirable))
    common.say(common.skipped_line(skipped))
    if found.account.desirable in (0, written):
        common.say(
            f"warning: no {'undesirable' if found.account.desirable else 'desirable'} rows; KTO needs both classes"
        )
