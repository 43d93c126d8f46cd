"""The model half of `paraphrase`, and the choice between it and the rules (`paraphrase.by`).

A model is told, in the language of the row, to make a correct reply longer, neutral or too professional. What it is
told is in generate/instructions.toml, and in docs/negatives-models.md; an instruction of one's own takes its place for
all manners and languages. Back ends, seeds and journal are those of `base`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from ktodata.errors import UsageError
from ktodata.generate.ask import Asker, open_asker, replies
from ktodata.generate.options import MODEL_OPTIONS
from ktodata.io.paths import local_path
from ktodata.negatives.contract import Ask, Option, Run, Skip, Strategy, reply_of
from ktodata.negatives.corruption.layout import edges
from ktodata.negatives.language import commonest, detect
from ktodata.negatives.paraphrase import PARAPHRASE as BY_RULES
from ktodata.negatives.template import NO_PACK, check_language
from ktodata.schema import Message, Row, Text, plain

SLOTS = ("prompt", "reply")
_SLOT = re.compile(r"\{(\w*)\}")
_QUOTES = ('""', "“”", "«»", "„“", "''")
_CALM: Mapping[str, Any] = {"temperature": 0.7, "max_tokens": 512}


@dataclasses.dataclass(frozen=True, slots=True)
class Rewriter:
    """The model, and what it is told: an instruction by language and manner, or one of the user's own for all."""

    asker: Asker
    instructions: Mapping[str, Mapping[str, str]]
    own: str
    common: str


def prepare(run: Run, **options: Any) -> Rewriter:
    """The instruction read and checked, and the model as for `base`.

    Raises:
        UsageError: an instruction without {reply} or with a slot that does not exist, or two of them, or a language
            that has none.
        KtodataError: see `open_asker`.
    """
    own = _own(options["instruction"], options["instruction_file"])
    standard = instructions()
    check_language(options["language"], options["fallback"], standard, name="paraphrase")
    told = own or hashlib.sha256(repr(sorted(standard.items())).encode()).hexdigest()[:12]
    common = commonest(run.sample, standard) if options["language"] == "auto" and not own else ""
    decisive = {name: options[name] for name in ("language", "fallback")} | {
        "manner": list(options["manner"]),
        "common": common,
    }
    asker = open_asker(run, options, strategy="paraphrase", instruction=told, **decisive)
    return Rewriter(asker, standard, own, common)


def rewrite(asks: Sequence[Ask], /, *, pool: Rewriter, **options: Any) -> Iterator[tuple[int, str | Skip]]:
    """The reply of each ask in one of the manners, by the model, as they finish; white space at both ends stays."""
    places: list[int] = []
    prompts: list[Text] = []
    for place, ask in enumerate(asks):
        told = _told(ask, pool, options)
        if isinstance(told, Skip):
            yield place, told
        else:
            message: Message = {"role": "user", "content": told}
            places.append(place)
            prompts.append([message])
    for index, said in replies([asks[place] for place in places], prompts, pool.asker, cut=options["cut"]):
        place = places[index]
        yield place, said if isinstance(said, Skip) else _in_place(said, asks[place].row)


@functools.cache
def instructions() -> Mapping[str, Mapping[str, str]]:
    """What a model is told, by language and manner."""
    file = resources.files("ktodata.generate") / "instructions.toml"
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return {code: {manner: text.strip() for manner, text in table.items()} for code, table in found.items()}


def _told(ask: Ask, pool: Rewriter, options: Mapping[str, Any]) -> str | Skip:
    reply = reply_of(ask.row)
    if isinstance(reply, Skip):
        return reply
    _, core, _ = edges(reply)
    if not core:
        return Skip("empty")
    manner = ask.rng.choice(options["manner"])
    text = pool.own
    if not text:
        code = options["language"]
        if code == "auto":
            code = detect(ask.row, core, pool.instructions, pool.common)
        code = code or options["fallback"]
        if not code:
            return Skip(NO_PACK)
        text = pool.instructions[code][manner]
    said = {"prompt": plain(ask.row.prompt[-1:] if isinstance(ask.row.prompt, list) else ask.row.prompt).strip()}
    # In one go: what is filled in may hold braces too.
    return _SLOT.sub(lambda slot: (said | {"reply": core})[slot[1]], text)


def _in_place(said: str, row: Row) -> str | Skip:
    """What the model said between the white space of the reply it replaces, without quotation marks put around it."""
    reply = reply_of(row)
    if isinstance(reply, Skip):
        return reply
    before, core, after = edges(reply)
    quoted = len(said) > 2 and said[0] + said[-1] in _QUOTES and core[0] != said[0]
    return before + (said[1:-1].strip() if quoted else said) + after


def _own(text: str, file: str | None) -> str:
    if text and file:
        raise UsageError("both paraphrase.instruction and paraphrase.instruction_file", do="Give one of them")
    name = "paraphrase.instruction"
    if file:
        name = file
        try:
            text = local_path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("the instruction cannot be read: it is no UTF-8 text", where=file) from error
    slots = _SLOT.findall(text)
    unknown = [slot for slot in slots if slot not in SLOTS]
    if unknown:
        raise UsageError(f"no slot {{{unknown[0]}}}", where=name, do="There are {prompt} and {reply}")
    if (text or file) and "reply" not in slots:
        raise UsageError("{reply} does not occur", where=name, do="It stands for the reply that is to be rewritten")
    return text


def _variant(options: Mapping[str, Any]) -> Strategy:
    if options["by"] == "model":
        return BY_MODEL
    given = [name for name in ("model", "url", "instruction", "instruction_file") if options[name]]
    if given:
        raise UsageError(
            f"paraphrase.{given[0]} is for a model, and the rules write here", do="Add --set paraphrase.by=model"
        )
    return BY_RULES


_OPTIONS: Mapping[str, Option] = {
    **BY_RULES.options,
    "instruction": Option(
        kind="text",
        default="",
        help="What the model is told instead of our text, in any language; {reply} and {prompt} are filled in.",
    ),
    "instruction_file": Option(kind="file", default=None, optional=True, help="The same from a file."),
    **{
        name: dataclasses.replace(entry, default=_CALM.get(name, entry.default))
        for name, entry in MODEL_OPTIONS.items()
    },
}
BY_MODEL = Strategy(
    name="paraphrase",
    summary=BY_RULES.summary,
    many=rewrite,
    prepare=prepare,
    finish=lambda pool: pool.asker.finish(),
    facts=lambda pool: {**pool.asker.facts(), **({"instruction": pool.own} if pool.own else {})},
    options=_OPTIONS,
)
PARAPHRASE = dataclasses.replace(
    BY_RULES,
    variant=_variant,
    options={
        "by": Option(
            kind="choice",
            default="rules",
            choices=("rules", "model"),
            help="Who does it: rules, offline, or a model that paraphrase.model or paraphrase.url names.",
        ),
        **_OPTIONS,
    },
)
