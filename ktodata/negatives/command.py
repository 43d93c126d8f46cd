"""`ktodata negatives` and `ktodata strategies`."""

from __future__ import annotations

import contextlib
import itertools
import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import click

from ktodata import cli_common as common
from ktodata.cli_common import say
from ktodata.engine import Engine
from ktodata.errors import NothingLeftError
from ktodata.io import (
    STDOUT,
    Files,
    Quarantine,
    iter_rows,
    read_rows,
    room_beside,
    write_tables,
)
from ktodata.negatives.card import Made, card_path, write_card
from ktodata.negatives.choose import Use, parse_uses, read_besides
from ktodata.negatives.contract import Option, Strategy
from ktodata.negatives.examples import EXAMPLES, example_of, row_of, shown
from ktodata.negatives.registry import STRATEGIES
from ktodata.negatives.stream import REPEATED_ROW, negatives_of
from ktodata.schema import Row, to_record

MOST_PER_ROW = 1000


@click.command(
    cls=common.Command,
    epilog=common.example(
        "ktodata negatives rows.jsonl -o train.parquet --strategy corrupt",
        "ktodata negatives chats.jsonl -o train.jsonl --strategy corrupt --set corrupt.operations=tone "
        "--set corrupt.intensity=1",
        "ktodata negatives chats.jsonl -o train.jsonl --strategy corrupt=0.4 --strategy contaminate=0.6",
        "ktodata unpair hh-rlhf | ktodata negatives --strategy corrupt --per-row 2 --only > negatives.jsonl",
        'ktodata negatives --try "are you coming?" "yeah sure, gonna be there at 8 lol"',
    ),
)
@common.source_argument
@common.output_option
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="How negatives are made; see `ktodata strategies`. Several without weights each make K per row; with weights "
    "they are a mix: each negative is made by one of them, drawn by weight from the row's own generator.",
)
@click.option(
    "--per-row",
    default=1,
    show_default=True,
    type=click.IntRange(min=1, max=MOST_PER_ROW),
    metavar="K",
    help="Negatives for each desirable row.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.key=value",
    help="An option of a strategy, such as corrupt.intensity=0.5. Lists are written a,b.",
)
@click.option("--only", is_flag=True, help="Write only the negatives, not the rows that were read.")
@click.option(
    "--try",
    "trial",
    nargs=2,
    type=str,
    metavar="PROMPT REPLY",
    help="Write nothing: show what each strategy (all that need no model, if none is named) does to this one row. "
    "SOURCE is what contaminate draws from; left out, examples of our own.",
)
@click.option("--leakage/--no-leakage", default=True, help="Measure how easily negatives are told from real replies.")
@click.option("--split", default="train", show_default=True, help="Which split of a folder or Hub dataset.")
@common.limit_option
@common.workers_option
@common.engine_option
@common.seed_option
@click.option(
    "--quarantine",
    type=common.FILE,
    metavar="FILE",
    help="Write what could not be read, and each row once for every negative that could not be made of it (the row "
    "itself is in the output), as JSONL, with the reasons. Left out, the first unreadable record is an error.",
)
def negatives(
    source: str | None,
    output: str | None,
    strategies: tuple[str, ...],
    per_row: int,
    settings: tuple[str, ...],
    only: bool,
    trial: tuple[str, str] | None,
    leakage: bool,
    split: str,
    limit: int | None,
    workers: int,
    engine: Engine,
    seed: int,
    quarantine: str | None,
) -> None:
    """Add synthetic undesirable rows to the rows of SOURCE.

    Each desirable row gets K undesirable completions to its own prompt. None equals, after normalising, a completion
    that the prompt already has. What is made depends on the seed and the rows alone, not on their order or on the
    number of workers. How it was made is told by a card beside the output, OUT.card.md.
    """
    if trial is not None:
        common.refuse_given(("output", "quarantine", "only"), "with --try, which writes nothing")
        read = partial(read_rows, split=split, limit=limit)
        others = read(source) if source else []
        _try(trial, _trial_uses(strategies, settings), others, source or "", per_row=per_row, seed=seed)
        return
    uses = parse_uses(strategies, settings)
    source = common.resolve_source(source)
    output = common.resolve_output(output, source)
    card = None if output == STDOUT else card_path(output)
    common.check_places(
        read=[("the input", source), *read_besides(uses)],
        written=[("the output", output), ("the card", card), ("the quarantine file", quarantine)],
    )
    with (
        common.files() as files,
        _Refused(quarantine, files) as refused,
        contextlib.ExitStack() as bars,
        negatives_of(
            _rows(source, split, limit, refused if quarantine else None),
            uses,
            per_row=per_row,
            only=only,
            seed=seed,
            workers=workers,
            engine=engine,
            output="" if output == STDOUT else output,
            folder=room_beside(output),
            refuse=lambda row, reason: refused.add(reason, where=row.source, record=to_record(row)),
            begin=lambda jobs: bars.enter_context(common.progress("making negatives", jobs)),
        ) as found,
    ):
        unreadable, why = refused.count, refused.commonest()
        write_tables(found.tables, found.kind, output, files)
        made = Made(
            output=output,
            found=found,
            unreadable=unreadable,
            per_row=per_row,
            only=only,
            seed=seed,
            leakage=found.leakage() if leakage else {},
        )
        if card:
            write_card(made, files)
    found.work.finish()
    _report(made, quarantine, why)


class _Refused(Quarantine):
    """A quarantine that knows which reason is given most often."""

    def __init__(self, path: str | None, files: Files) -> None:
        super().__init__(path, files)
        self._reasons: Counter[str] = Counter()

    def add(self, reason: str, *, where: str, record: object, **more: object) -> None:
        self._reasons[reason] += 1
        super().add(reason, where=where, record=record, **more)

    def __enter__(self) -> _Refused:
        super().__enter__()
        return self

    def commonest(self) -> str:
        """The reason given most often so far, "" for none."""
        return min(self._reasons, key=lambda reason: (-self._reasons[reason], reason), default="")


def _rows(source: str, split: str, limit: int | None, quarantine: _Refused | None) -> Iterator[Row]:
    """The rows of SOURCE.

    Raises:
        NothingLeftError: not one of the records can be read.
    """
    rows = iter_rows(source, split=split, limit=limit, quarantine=quarantine)
    first = next(rows, None)
    if first is None:
        assert quarantine is not None, "without one, the first unreadable record is an error"
        told = f"{quarantine.count} records read, all unreadable (most often: {quarantine.commonest()})"
        raise NothingLeftError(f"nothing to work on: {told}", where=source)
    return itertools.chain([first], rows)


def _report(made: Made, quarantine: str | None, why: str) -> None:
    found = made.found
    left_out = {f"unreadable (most often: {why})": made.unreadable, REPEATED_ROW: found.repeated}
    skipped = dict(found.work.skipped) | {reason: count for reason, count in left_out.items() if count}
    summary = common.Summary(read=found.read + made.unreadable, unit="rows", written=found.written, skipped=skipped)
    summary.show(made.output, desirable=found.desirable, note=f"{found.read_desirable} desirable")
    for name, count in found.work.made.items():
        say(f"made    {count} by {name}")
    for name, leakage in made.leakage.items():
        say(f"leakage {name}: {leakage}")
    if made.output != STDOUT:
        say(f"card    {card_path(made.output)}")
    if found.empty and not made.only:
        say(
            f"warning: {found.empty} of the desirable rows are empty and stay in the output; `ktodata check` finds "
            "them, `ktodata unpair` leaves them out"
        )
    if quarantine and sum(skipped.values()):
        say(f"skipped ones are in {quarantine}")
    if not found.work.made.total():
        say("warning: no negatives were made; the reasons are above")


def _trial_uses(names: Sequence[str], settings: Sequence[str]) -> list[Use]:
    """The strategies named, or all that can be run as they are."""
    if names:
        return parse_uses(names, settings)
    # A setting of one that needs a model is what makes it able to run.
    set_for = {setting.partition(".")[0] for setting in settings}
    return parse_uses([name for name, entry in STRATEGIES.items() if not entry.needs or name in set_for], settings)


def _try(
    trial: tuple[str, str], uses: Sequence[Use], others: list[Row], source: str, *, per_row: int, seed: int
) -> None:
    row = row_of(*trial, kind=others[0].kind if others else "text")
    _say_block("prompt", trial[0])
    _say_block("reply", trial[1])
    for made in shown(row, uses, others=others, source=source, per_row=per_row, seed=seed):
        for reply in made.replies:
            _say_block(made.name, reply)
        if made.pool and made.replies:
            _say_block("", f"(lent from {made.pool})")
        for reason in made.skipped:
            _say_block(made.name, f"(none: {reason})")


def _say_block(name: str, text: str) -> None:
    """A name, and a text beside it that may have several lines."""
    lines = textwrap.indent(text.strip("\n"), " " * 13, lambda line: True)
    click.echo(f"{name:<12} {lines[13:]}")


@click.command(cls=common.Command, epilog=common.example("ktodata strategies", "ktodata strategies --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def strategies(as_json: bool) -> None:
    """List the ways of making negatives: an example of each, its options and defaults."""
    if as_json:
        click.echo(json.dumps({name: _described(entry) for name, entry in STRATEGIES.items()}, indent=2))
        return
    prompt, reply = EXAMPLES[0]
    click.echo(f"The examples are of this row, at the defaults:\n  {prompt}\n  {reply}")
    for name, entry in STRATEGIES.items():
        click.echo(f"\n{name}: {entry.summary}")
        click.echo(f"  example: {example_of(entry)}")
        if entry.needs:
            click.echo(f"  needs:   {entry.needs}")
        for key, option in entry.options.items():
            click.echo(f"  --set {name}.{key}={_default(option)}")
            click.echo(f"      {option.help} It is {option.allowed()}.")
            for choice, note in option.notes.items():
                click.echo(f"      {choice:<12} {note}")


def _default(option: Option) -> str:
    return "" if option.secret else option.spell(option.default)


def _described(entry: Strategy) -> dict[str, object]:
    options = {
        key: {"default": option.default, "help": option.help, "allowed": option.allowed(), "notes": dict(option.notes)}
        for key, option in entry.options.items()
    }
    return {"summary": entry.summary, "needs": entry.needs, "example": example_of(entry), "options": options}
