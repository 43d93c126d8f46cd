"""Logged outcomes to rows: conditions on columns, thumbs, users' edits. Chat exports are in `ktodata.chats`.

What decides is a `Judge`: `Outcomes` (a condition for each label), `Thumbs` (a column of thumbs), or `Edits` (the reply
as it was made, and as its user sent it).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ktodata.discover import restricted
from ktodata.encoded import decoded
from ktodata.errors import RowError, UsageError, listed, nearest
from ktodata.expressions import Expression
from ktodata.expressions.values import value_of
from ktodata.io import Raw, chain_parts, find_parts, suffix_of
from ktodata.peek import awaited, peek
from ktodata.schema import Text, kind_of, named
from ktodata.sources import Example, Record, Skip, Source
from ktodata.sources.contract import column, is_empty, single
from ktodata.sources.messages import as_messages
from ktodata.sources.system import after, system_turns
from ktodata.unpair import Unpaired, unpair_records

OnBoth: TypeAlias = Literal["error", "skip"]
ON_BOTH: tuple[str, ...] = get_args(OnBoth)


class Texts(NamedTuple):
    """Where prompt and completion are: in two columns, or in one of whole conversations, whose last turn is the
    completion. "" means in the first of the names below. A `user` is a prompt beside an `assistant` only, and
    somebody's name elsewhere."""

    prompt: str = ""
    completion: str = ""
    messages: str = ""


ANY = Texts()
PROMPTS = ("prompt", "question", "instruction", "input", "query", "request", "message", "user")
COMPLETIONS = ("completion", "response", "reply", "answer", "output", "assistant")
MESSAGES = ("messages", "conversations", "conversation")
TABLES = (".csv", ".parquet")


class Outcomes(NamedTuple):
    """A condition for each label; a record that both hold for is an error, or skipped and counted."""

    desirable: Expression | None
    undesirable: Expression | None
    on_both: OnBoth = "error"


class Thumbs(NamedTuple):
    """A column of thumbs; see `THUMBS`."""

    column: str


class Edits(NamedTuple):
    """The columns of the reply as it was made, which is undesirable, and as its user edited it, which is desirable."""

    original: str
    edited: str


Judge: TypeAlias = Outcomes | Thumbs | Edits
# How a thumb looks: its skin, and whether it is drawn in colour.
_LOOKS = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]|:skin-tone-[1-6]:")
_UP = (
    "up",
    "thumbs_up",
    "thumbs up",
    "thumbsup",
    "thumb_up",
    "👍",
    "+1",
    ":+1:",
    ":thumbsup:",
    "1",
    "like",
    "liked",
    "good",
    "positive",
)
_DOWN = (
    "down",
    "thumbs_down",
    "thumbs down",
    "thumbsdown",
    "thumb_down",
    "👎",
    "-1",
    ":-1:",
    ":thumbsdown:",
    "dislike",
)
THUMBS = {
    **dict.fromkeys((*_UP, "yes", "true", "1.0"), True),
    **dict.fromkeys((*_DOWN, "disliked", "bad", "negative", "no", "false", "-1.0"), False),
}


def label(
    source: str, judge: Judge, *, texts: Texts = ANY, split: str = "", limit: int | None = None, **rest: Any
) -> Unpaired:
    """The rows of logged outcomes.

    Args:
        source: a Hub id, a file, a folder, or "-" for JSONL on stdin.
        judge: what decides whether a completion was any good.
        texts: the columns of prompt and completion.
        split: which split of a folder or Hub dataset; "" is train.
        limit: read the first so many records only.
        rest: as for `ktodata.unpair.unpair_records`: seed, workers, quarantine and so on.

    Raises:
        SourceError: the source cannot be read; RowError (one of its kind) if it is a record.
        UsageError: a column that no record has; if there are many records, told when all have been read.
    """
    strict = rest.get("quarantine") is None
    layout, raws = outcome_records(source, judge, texts=texts, split=split, limit=limit, strict=strict)
    return unpair_records(layout, raws, **rest)


def outcome_records(
    source: str, judge: Judge, *, texts: Texts, split: str = "", limit: int | None = None, strict: bool = True
) -> tuple[Source, Iterator[Raw]]:
    """How to read the records of logged outcomes, and these; see `label`, and `ktodata.peek` on `strict`."""
    parts = find_parts(source, split=split or "train", limit=limit)
    columns, raws = peek(itertools.islice(chain_parts(parts), limit), strict=strict)
    wanted, check = _needed(judge, texts)
    if suffix_of(source).removesuffix(".gz") in TABLES:
        check(columns)  # all of its records have the same
    raws = awaited(raws, columns, wanted, check)
    chosen = _choose(texts, columns, own_completion=isinstance(judge, Edits))
    reads: dict[type, Callable[..., Iterable[Example | Skip]]] = {
        Outcomes: _read_outcome,
        Thumbs: _read_thumb,
        Edits: _read_edit,
    }
    read = partial(reads[type(judge)], judge, chosen)
    completions = 2 if isinstance(judge, Edits) else 1
    about = _guessed(texts, chosen, judge)
    layout = Source("label", about, (), read, unit="records", completions=completions, origin="feedback")
    known, raws = restricted(raws)
    if known:  # whatever is made of its records, their licence holds
        layout = dataclasses.replace(layout, hub_id=known.hub_id, licence=known.licence, detected=True)
    return layout, raws


def _needed(judge: Judge, texts: Texts) -> tuple[list[str], Callable[[Collection[str]], None]]:
    """The columns that some record has to have, and what raises UsageError if none has one of them."""
    flags = {"--prompt": texts.prompt, "--completion": texts.completion}
    expressions: list[Expression] = []
    if isinstance(judge, Thumbs):
        flags["--thumbs"] = judge.column
    elif isinstance(judge, Edits):
        flags |= {"--original": judge.original, "--edited": judge.edited}
    else:
        expressions = [one for one in (judge.desirable, judge.undesirable) if one is not None]

    def check(columns: Collection[str]) -> None:
        for expression in expressions:
            expression.check_columns(columns)
        for flag, name in flags.items():
            if name and name not in columns:
                raise UsageError(f"{flag}: no column {name!r}", do=nearest(name, columns))

    return [*filter(None, flags.values()), *(name for one in expressions for name in one.columns)], check


def _choose(texts: Texts, columns: list[str], *, own_completion: bool) -> Texts:
    """The columns of the texts, those left out by the names that are usual."""
    if texts.messages and texts.messages not in columns:  # what has none of it is unreadable, and all of the first are
        raise UsageError(f"--messages: no column {texts.messages!r}", do=nearest(texts.messages, columns))
    if texts.messages and (texts.prompt or texts.completion):
        raise UsageError("--messages holds prompt and completion both", do="Leave --prompt and --completion out")
    usual = [name for name in PROMPTS if name in columns and (name != "user" or "assistant" in columns)]
    prompt = texts.prompt or next(iter(usual), "")
    completion = texts.completion or next((name for name in COMPLETIONS if name in columns and name != prompt), "")
    messages = texts.messages or next((name for name in MESSAGES if name in columns), "")
    if texts.messages or (messages and not texts.prompt and not (prompt and (completion or own_completion))):
        return Texts(messages=messages)
    missing = "prompt" if not prompt else "completion" if not completion and not own_completion else ""
    if missing:
        raise UsageError(
            f"no column that could be the {missing} (columns: {listed(columns)})",
            do=f"Name it with --{missing}, or a column of conversations with --messages",
        )
    return Texts(prompt, completion)


def _guessed(texts: Texts, chosen: Texts, judge: Judge) -> str:
    """Which columns were chosen that nobody named, and that are not called after what they are."""
    told = chosen._asdict()
    if chosen.messages or isinstance(judge, Edits):
        del told["completion"]
    found = {field: name for field, name in told.items() if name and not getattr(texts, field)}
    if all(field == name for field, name in found.items()):
        return ""
    columns = " and ".join(f"{field} from column {name!r}" for field, name in found.items())
    return f"{columns}; {' and '.join(f'--{field}' for field in found)} can name another"


def _read_outcome(judge: Outcomes, texts: Texts, record: Record, where: str) -> Iterator[Example | Skip]:
    good, bad = (one is not None and one.holds(record, where) for one in (judge.desirable, judge.undesirable))
    if good and bad:
        if judge.on_both == "error":
            raise RowError(
                "both --desirable and --undesirable hold for it",
                where=where,
                do="Make them exclude each other, or count such records with --on-both skip",
            )
        yield Skip("both hold")
    elif not good and not bad:
        yield Skip("neither holds")
    else:
        yield _example(texts, record, where, good)


def _read_thumb(judge: Thumbs, texts: Texts, record: Record, where: str) -> Iterator[Example | Skip]:
    value = value_of(record.get(judge.column))
    value = float(value) if isinstance(value, Decimal) else value
    if value is None or (isinstance(value, str) and not value.strip()):
        yield Skip("no thumb")
        return
    verdict = (
        THUMBS.get(_LOOKS.sub("", str(value)).strip().casefold())
        if isinstance(value, str | bool | int | float)
        else None
    )
    if verdict is None:
        raise RowError(
            f"{judge.column} is {named(value)}, which is no thumb up or down",
            where=where,
            do=f'Say what it means: --desirable "{judge.column} == …" --undesirable "{judge.column} == …"',
        )
    yield _example(texts, record, where, verdict)


def _read_edit(judge: Edits, texts: Texts, record: Record, where: str) -> Iterator[Example | Skip]:
    original, edited = (_text(record, name, where) for name in judge)
    if is_empty(edited):  # nobody sends nothing: the reply was not used, which says little about it
        yield Skip("not edited", 1)
        return
    if _as_edited(original) == _as_edited(edited):
        yield Skip("not edited", 2)
        return
    for name, good in ((judge.edited, True), (judge.original, False)):
        yield _example(texts, record, where, good, reply=name)


def _as_edited(text: Text) -> object:
    """A reply as far as an edit can differ in it: spaces within lines and at ends are none, indentation and breaks are.

    Rows that differ in indentation alone are equal after normalising, and so contradict each other: `--on-conflict`.
    """
    if isinstance(text, str):
        lines = text.strip().expandtabs().splitlines()
        return [(len(line) - len(line.lstrip()), line.split()) for line in lines]
    return [(turn["role"], _as_edited(turn["content"])) for turn in text]


def _example(texts: Texts, record: Record, where: str, good: bool, *, reply: str = "") -> Example | Skip:
    """The prompt and completion of a record. With `reply`, the completion is that column, and all `messages` are the
    prompt, or those before the assistant's last turn."""
    if texts.messages:
        value = column(record, texts.messages, where)
        turns = as_messages([] if value is None else value, name=texts.messages, where=where)
        if reply:
            prompt: Text = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
            completion = _text(record, reply, where)
        elif not turns or turns[-1]["role"] != "assistant":
            return Skip("no reply at the end")
        else:
            prompt, completion = turns[:-1], turns[-1:]
    else:
        prompt, completion = _text(record, texts.prompt, where), _text(record, reply or texts.completion, where)
    if kind_of(prompt) != kind_of(completion):
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return after(system_turns(record, where), single(prompt, completion, good, which=reply), where=where)


def _text(record: Record, name: str, where: str) -> Text:
    value = decoded(value_of(record.get(name)), name=name, where=where)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list | dict):
        return as_messages(value, name=name, where=where)
    raise RowError(f"{name} is {named(value)}, not a string or messages", where=where)
