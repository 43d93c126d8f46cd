"""`ktodata`: the commands by name. Each is imported when it is called, so `--help` answers at once."""

from __future__ import annotations

import gc
import importlib
from typing import NamedTuple

import click

from ktodata import __version__
from ktodata.cli_common import Command, example, say
from ktodata.errors import UsageError, nearest, sentences


class Lazy(NamedTuple):
    """Where a command lives, and the line that `ktodata --help` prints about it."""

    target: str
    help: str


COMMANDS = {
    "unpair": Lazy("ktodata.commands.unpair:unpair", "Turn preference pairs into rows."),
    "label": Lazy("ktodata.commands.label:label", "Turn logged outcomes, edits and chats into rows."),
    "negatives": Lazy("ktodata.negatives.command:negatives", "Add synthetic undesirable rows."),
    "split": Lazy("ktodata.commands.split:split_command", "Split rows by prompt, to train and to evaluate."),
    "mix": Lazy("ktodata.commands.mix:mix_command", "Put several files together, each with its share."),
    "convert": Lazy("ktodata.commands.convert:convert", "Write other trainers' formats, and read them back."),
    "check": Lazy("ktodata.commands.check:check_command", "Look for what spoils training, before it does."),
    "push": Lazy("ktodata.commands.push:push", "Put rows on the Hugging Face Hub, with a dataset card."),
    "balance": Lazy("ktodata.balance_command:balance", "Count both classes and give the weights of the paper's rule."),
    "presets": Lazy("ktodata.commands.presets:presets", "List the datasets and layouts that unpair can read."),
    "strategies": Lazy("ktodata.negatives.command:strategies", "List the ways of making negatives."),
}


class LazyGroup(Command, click.Group):
    """A group whose commands are imported when they run, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name].target} is not a click command")
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without arguments, the help on stderr, which is no error message."""
        if not args:
            say(ctx.get_help())
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a misspelt one names the nearest."""
        name = args[0] if args else ""
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(sentences(f"no command {name!r}", nearest(name, COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example(
        "ktodata unpair hh-rlhf -o hh.parquet",
        "ktodata unpair pairs.jsonl | ktodata negatives --strategy corrupt > train.jsonl",
        "ktodata balance train.jsonl",
    ),
)
@click.version_option(__version__, prog_name="ktodata", message="%(prog)s %(version)s")
def main() -> None:
    """Make KTO datasets: unpair preferences, synthesize negatives, balance the classes."""
    # Rows come by the hundred thousand and go without cycles among them: looking for any takes a tenth of the time.
    gc.set_threshold(100_000, 50, 50)
