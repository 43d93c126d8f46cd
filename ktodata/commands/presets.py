"""`ktodata presets`."""

from __future__ import annotations

import click

from ktodata import cli_common as common
from ktodata.sources import SOURCES


@click.command(cls=common.Command, epilog=common.example("ktodata presets"))
def presets() -> None:
    """List the datasets and layouts that `ktodata unpair` can read."""
    for source in SOURCES.values():
        click.echo(f"{source.name}\n    {source.about}")
        click.echo(f"    columns: {' | '.join(' + '.join(columns) for columns in source.columns)}")
        click.echo(f"    rows: {source.kind or 'text or chat, as they come'}")
        if source.hub_id:
            click.echo(f"    on the Hub: {source.hub_id} ({source.licence})")
            click.echo(f"    folders: {', '.join(source.folders)}")
