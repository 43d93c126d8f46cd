"""What every `ktodata` command shares. Import it from a command's module; it imports nothing heavy itself.

    @click.command(epilog=example("ktodata negatives train.jsonl -o out.parquet --strategy corrupt"), cls=Command)
    @source_argument
    @output_option
    @seed_option
    def negatives(source: str | None, output: str | None, seed: int) -> None:
        source = resolve_source(source)            # stdin where it is left out and piped, else a UsageError
        output = resolve_output(output, source)    # stdout where it is piped, else NAME.kto.parquet, said aloud
        with progress("making negatives", total) as advance:
            ...                                    # advance(1) per row; a bar on a terminal, nothing in a pipe
        Summary(read=10, unit="rows", written=12, skipped=Counter({"no change": 3})).show(output, desirable=6)

Raise `KtodataError`s; the group in `ktodata.cli` (and `Command`, where a command is run alone, as tests do) turns
them, bad options, Ctrl-C and SIGTERM into one line on stderr and an exit code: 0 done, 1 the data or the check says no,
2 usage, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP. (A closed pipe ends quietly, with 1: that is click.)
Everything that is not the result itself goes to stderr: use `say`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from ktodata.engine import ENGINES
from ktodata.errors import KtodataError, UsageError, sentences
from ktodata.io.paths import STDIN, is_input, is_there, local_path, real_path
from ktodata.io.together import STDOUT, Files
from ktodata.io.write import check_output, check_writable
from ktodata.redact import printable
from ktodata.stop import Stopped, stopping

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MOST_RECORDS = 10**12  # that --limit can ask for
MOST_WORKERS = 1024
_written: list[str] = []  # the places in which the command that runs has put something


class Named(click.types.StringParamType):
    """A file, folder or Hub id. "" is none: an unset variable of a script gives that."""

    def __init__(self, *, streams: bool = True) -> None:
        """`streams` says whether `-` stands for stdin or stdout."""
        self._streams = streams

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself.

        Raises:
            UsageError: it is none.
        """
        if value == "" or (value == STDOUT and not self._streams):
            if isinstance(param, click.Option):
                raise UsageError(f"{max(param.opts, key=len)} is {value!r}", do="Name a file")
            raise _no_source()
        return str(value)


NAMED = Named()
FILE = Named(streams=False)
source_argument = click.argument("source", required=False, metavar="[SOURCE]", type=NAMED)
output_option = click.option(
    "-o",
    "--output",
    type=NAMED,
    metavar="OUT",
    help="Where to write: .jsonl .jsonl.gz .json .csv .parquet, or - for JSONL on stdout. "
    "Left out: stdout in a pipe, NAME.kto.parquet here on a terminal.",
)
seed_option = click.option("--seed", default=0, show_default=True, help="Decides every random choice, order included.")
workers_option = click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1, max=MOST_WORKERS),
    help="Processes. The output is the same.",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="local",
    show_default=True,
    help="Where the workers are: processes of this machine, or a Ray cluster (RAY_ADDRESS; extra `ray`). The output is "
    "the same.",
)
preset_option = click.option(
    "--preset", default="", metavar="NAME", help="How to read SOURCE; left out, its columns tell."
)
split_option = click.option(
    "--split", default="", metavar="NAME", help="Which split of a folder or Hub dataset; train, or the preset's own."
)
kind_option = click.option(
    "--as",
    "kind",
    type=click.Choice(["text", "chat"]),
    help="The kind of rows: chat is what a chat (instruction-tuned) model needs, text a base model. "
    "Left out: SOURCE's own.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1, max=MOST_RECORDS), metavar="N", help="Read only the first N records."
)
quarantine_option = click.option(
    "--quarantine",
    type=FILE,
    metavar="FILE",
    help="Write what was read but not written here, as JSONL, with the reasons.",
)


def example(*commands: str) -> str:
    """The epilog of a command's help: how it is used."""
    lines = "\n".join(f"  {command}" for command in commands)
    return f"\b\nExamples:\n{lines}"


def say(text: str) -> None:
    """A line for the user, on stderr, fit to be shown: see `ktodata.redact`."""
    click.echo(printable(text), err=True)


def resolve_source(source: str | None) -> str:
    """SOURCE, or stdin where it was left out and something is piped in.

    Raises:
        UsageError: it was left out on a terminal, or is a stdin that is closed.
    """
    if source is None and _on_terminal("stdin"):
        raise _no_source()
    if source in (None, STDIN) and sys.stdin is None:
        raise UsageError("stdin is closed", do="Name a file, folder or Hub id, or pipe JSONL in")
    return STDIN if source is None else source


def _no_source() -> UsageError:
    return UsageError("no SOURCE", do="Name a file, folder or Hub id, or pipe JSONL in")


def resolve_output(output: str | None, source: str) -> str:
    """OUT, checked; where it was left out, stdout in a pipe, and on a terminal `NAME.kto.parquet`, said aloud.

    Raises:
        UsageError: an unknown suffix, or no name without the input's.
        WriteError: no file can be made there.
    """
    if output is None:
        output = STDOUT if not _on_terminal("stdout") else default_output(source)
        if output != STDOUT:
            say(f"writing {output}")
    check_output(output)
    return output


def check_places(*, read: Iterable[tuple[str, str]], written: Iterable[tuple[str, str | None]]) -> None:
    """Refuse files to write that cannot be made, or would take the place of what is read or of each other.

    Args:
        read: all that the command reads: what it is, and its name.
        written: the same of what it writes; None is nothing.

    Raises:
        UsageError: one is in another's way, or no file.
        WriteError: one cannot be made.
    """
    read = list(read)
    taken: dict[str | Path, str] = {}
    for what, place in written:
        if place is None:
            continue
        if place != STDOUT:
            check_writable(local_path(place))
        where = place if place == STDOUT else real_path(place)
        if where in taken:
            raise UsageError(f"{place} is both {taken[where]} and {what}", do="Name two files")
        taken[where] = what
        for name, source in read if place != STDOUT else ():
            if is_input(place, source):
                raise UsageError(f"{place} is {name}, or in it: it would be overwritten", do="Name another file")


def files() -> Files:
    """What a command writes, to take its places together; an end that comes later tells of it."""
    return Files(_written.append)


def written(place: str) -> None:
    """Note that something was put in its place: an end that comes later tells of it."""
    _written.append(place)


def _outcome() -> str:
    """What the command has written so far."""
    places = [place for place in _written if place != STDOUT]
    told = [f"{' and '.join(places)} {'was' if len(places) == 1 else 'were'} written"] if places else []
    told += ["stdout may have got some rows"] if STDOUT in _written else []
    return ", ".join(told) or "nothing was written"


def _on_terminal(stream: str) -> bool:
    """Whether stdin, stdout or stderr is a terminal. A stream that is closed counts as one: nothing is piped."""
    file = getattr(sys, stream)
    return file is None or file.isatty()


def default_output(source: str) -> str:
    """`NAME.kto.parquet` for SOURCE, in the current folder.

    Raises:
        UsageError: that would be SOURCE itself.
    """
    name = "stdin" if source == "-" else re.split(r"[/\\]", source.rstrip("/\\"))[-1].replace(":", "-")
    name = re.sub(r"(\.kto)?(\.jsonl|\.json|\.csv|\.parquet)?(\.gz)?$", "", name) or "rows"
    output = f"{name}.kto.parquet"
    if Path(output).absolute() == local_path(source).absolute():
        raise UsageError(f"{output} is the input itself", do="Name another file with -o")
    return output


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while the block runs, if that is a terminal. Gives the function that moves it on by n."""
    if not _on_terminal("stderr"):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def written_line(rows: int, output: str, *, desirable: int, before: str = "written", after: str = "rows") -> str:
    """What a summary says of a file that was written."""
    place = "stdout" if output == STDOUT else output
    return f"{before} {rows} {after} to {place}: {desirable} desirable, {rows - desirable} undesirable"


def skipped_line(skipped: Mapping[str, int]) -> str:
    """What a summary says of what was skipped: the reasons, the usual ones first."""
    reasons = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    why = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"skipped {sum(skipped.values())}{f': {why}' if why else ''}"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The counts of a command: `read` of `unit`, rows `written`, and what was `skipped`, by reason."""

    read: int
    unit: str
    written: int
    skipped: Mapping[str, int] = dataclasses.field(default_factory=Counter)

    def lines(self, output: str, *, desirable: int, note: str = "") -> list[str]:
        """The summary as lines. `note` says what one of the unit stands for."""
        return [
            f"read    {self.read} {self.unit}{f' ({note})' if note else ''}",
            written_line(self.written, output, desirable=desirable),
            skipped_line(self.skipped),
        ]

    def show(self, output: str, *, desirable: int, note: str = "") -> None:
        """Print it on stderr."""
        for line in self.lines(output, desirable=desirable, note=note):
            say(line)


def run(call: Callable[[], Any]) -> NoReturn:
    """Run a click command that does not handle its own errors, and leave with one line and an exit code."""
    _written.clear()
    with stopping():
        _run(call)


def _run(call: Callable[[], Any]) -> NoReturn:
    try:
        code = call()
    except KtodataError as error:
        told = str(error).replace("\n", "\\n")  # the name of a file may have a line feed
        say(f"error: {told}")
        sys.exit(error.exit_code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "ktodata"
        say(f"error: {sentences(error.format_message(), f'See `{path} --help`')}")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        sys.exit(error.exit_code)
    except MemoryError:
        say(f"error: there is not enough memory; {_outcome()}. Use --limit, or look for an enormous line")
        sys.exit(KtodataError.exit_code)
    except OSError as error:  # of stdout, above all: a full disk behind it
        place = f"{error.filename}: " if isinstance(error.filename, str | Path) else ""
        say(f"error: {place}{error.strerror or error}")
        sys.exit(KtodataError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say(f"interrupted; {_outcome()}")
        sys.exit(INTERRUPTED)
    except Stopped as stopped:
        with contextlib.suppress(OSError):  # of a terminal that is no more
            say(f"stopped by {stopped.name}; {_outcome()}")
        raise
    sys.exit(code if isinstance(code, int) else 0)


def _is_file(source: str) -> bool:
    return is_there(source) and local_path(source).is_file()


def _is_split(source: str, split: str) -> bool:
    """Whether a file's name says that it is this split; where a name tells none, it is `train`."""
    from ktodata.io.resolve import ALIASES, split_of

    if source == STDIN:
        return split == "train"
    name = local_path(source).name
    return name.partition(".")[0] == split or (split_of(name) or "train") == ALIASES.get(split, split)


def given(ctx: click.Context, *names: str) -> list[str]:
    """The flags of those parameters that are on the command line."""
    return [
        param.opts[0]
        for param in ctx.command.params
        if param.name in names and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    ]


def refuse_given(names: Sequence[str], why: str, *, do: str = "Leave it out") -> None:
    """Raises UsageError if one of these parameters is on the command line of the command that runs, to no effect."""
    if flags := given(click.get_current_context(), *names):
        raise UsageError(f"{' and '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect {why}", do=do)


class Command(click.Command):
    """A command, or a group of them, whose errors are one line each; see `run`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, unless it is to read a split of what has none."""
        source, split = ctx.params.get("source", ""), ctx.params.get("split")
        source = STDIN if source is None else str(source)
        single = source == STDIN or (bool(source) and _is_file(source))
        if single and isinstance(split, str) and given(ctx, "split") and not _is_split(source, split):
            where = "stdin" if source == STDIN else source
            do = "Leave --split out; it is for a folder or a dataset on the Hub"
            raise UsageError(f"no split {split!r} in a single file, which is read whole", where=where, do=do)
        return super().invoke(ctx)

    def main(  # type: ignore[override]  # click overloads it on standalone_mode
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run it, and leave with its exit code."""
        call = partial(super().main, args, prog_name, standalone_mode=False, **extra)
        return run(call) if standalone_mode else call()
