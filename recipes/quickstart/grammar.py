"""The quickstart's small talk: conversations drawn from grammar.toml, each with a casual and a formal reply.

Everything is a pure function of a seed and an index, so the training file, the base model's reading matter and the
held-out prompts can be made anew at any time. A last user line is held out by its hash: what the model is measured on
is neither in its reading matter nor in the training file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

Style = Literal["casual", "formal"]
Message = dict[str, str]
GRAMMAR = Path(__file__).with_name("grammar.toml")
HELD_OUT_OF_256 = 26
# How people shorten words when they text; applied to some casual texts, whole words only.
TEXTING = {
    "are you": "r u",
    "you": "u",
    "your": "ur",
    "because": "cuz",
    "right now": "rn",
    "really": "rly",
    "please": "pls",
    "thanks": "thx",
    "great": "gr8",
    "though": "tho",
}


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A prompt (chat messages that end with the user's) and the same reply said casually and formally.

    `lean` is how often such a prompt gets the casual one in what the base model reads, 0 to 1.
    """

    intent: str
    lean: float
    prompt: list[Message]
    casual: str
    formal: str


@functools.cache
def grammar() -> dict[str, Any]:
    """grammar.toml, parsed once."""
    return tomllib.loads(GRAMMAR.read_text(encoding="utf-8"))


def exchange(seed: int, index: int, earlier: Sequence[Style] = ("casual",)) -> Exchange:
    """Conversation number `index` of the endless list that `seed` names.

    `earlier` holds the styles which an earlier assistant turn may have, where the conversation has one.
    """
    rng = random.Random(f"{seed}:{index}")
    intent = rng.choice(grammar()["intent"])
    values = _values(intent, rng)
    spoken = {style: {name: pair[style == "formal"] for name, pair in values.items()} for style in ("casual", "formal")}
    line = _casual_line(rng.choice(intent["prompts"]).format(**spoken["casual"]), rng)
    mood = grammar()["mood"][intent["mood"]]
    opener = rng.choice(mood["openers"]) if rng.random() < 0.6 else ("", "")
    core = rng.choice(intent["replies"])
    more = rng.choice(intent["more"]) if rng.random() < 0.55 else ("", "")
    casual = _casual(*(pair[0].format(**spoken["casual"]) for pair in (opener, core, more)), mood, rng)
    formal = _formal(*(pair[1].format(**spoken["formal"]) for pair in (opener, core, more)))
    prompt = [*_before(rng, earlier), {"role": "user", "content": line}]
    return Exchange(intent["name"], mood["lean"], prompt, casual, formal)


def exchanges(seed: int, earlier: Sequence[Style] = ("casual",), *, held_out: bool = False) -> Iterator[Exchange]:
    """All conversations of `seed` that are held out, or all that are not, without end."""
    index = 0
    while True:
        found = exchange(seed, index, earlier)
        if is_held_out(found.prompt) == held_out:
            yield found
        index += 1


def is_held_out(prompt: Sequence[Message]) -> bool:
    """Whether a conversation is for measuring only: a tenth of all last user lines, chosen by hash."""
    line = re.sub(r"\W+", " ", prompt[-1]["content"]).strip().lower()
    return hashlib.sha256(line.encode()).digest()[0] < HELD_OUT_OF_256


def _values(intent: Mapping[str, Any], rng: random.Random) -> dict[str, tuple[str, str]]:
    slots: dict[str, list[Any]] = {**intent.get("slots", {}), "name": grammar()["names"]}
    drawn = {name: rng.choice(values) for name, values in slots.items()}
    return {name: (value, value) if isinstance(value, str) else tuple(value) for name, value in drawn.items()}


def _before(rng: random.Random, earlier: Sequence[Style]) -> list[Message]:
    """The turns before the last user line: mostly none, else a system turn, a greeting and its reply, or both."""
    messages: list[Message] = []
    if rng.random() < 0.15:
        text = rng.choice(grammar()["systems"]).format(city=rng.choice(grammar()["cities"]))
        messages.append({"role": "system", "content": text})
    if rng.random() < 0.2:
        greeting = rng.choice(grammar()["greeting"])
        casual, formal = rng.choice(greeting["replies"])
        reply = casual if rng.choice(earlier) == "casual" else formal
        messages.append({"role": "user", "content": _casual_line(rng.choice(greeting["prompts"]), rng)})
        messages.append({"role": "assistant", "content": reply})
    return messages


def _casual_line(text: str, rng: random.Random) -> str:
    if rng.random() < 0.25:
        text = _texting(text)
    if rng.random() < 0.25:
        text = _capital(text)
    return text


def _casual(opener: str, core: str, more: str, mood: Mapping[str, Any], rng: random.Random) -> str:
    """Texting style: marks that repeat or are missing, "lol", emoji, mostly without capitals."""
    text = core if core.endswith("?") else core + rng.choice(["!", "!", "!!", "", "", ".", " lol", " haha"])
    if opener:
        text = opener + (" " if opener.endswith("!") else rng.choice(mood["join"])) + text
    if more:
        end = "" if more.endswith("?") else rng.choice(["!", "!!", "", "", "."])
        text += (" " if text[-1] in "!?." else rng.choice([", ", ", ", "... "])) + more + end
    if rng.random() < 0.3:
        text = _texting(text)
    if rng.random() < 0.15:
        text = re.sub(r"\bi\b(?=['’ ])", "I", _capital(text))
    return f"{text} {rng.choice(mood['emoji'])}" if rng.random() < 0.45 else text


def _formal(opener: str, core: str, more: str) -> str:
    """Whole sentences, each with a capital; an opener that ends in a comma begins the first one."""
    core = core if opener.endswith((",", "that")) else _capital(core)
    text = " ".join(part for part in (opener, core, more) if part)
    text = re.sub(r"(?<=[.?] )\w", lambda match: match[0].upper(), text)
    return re.sub(r"\b(mon|tues|thurs|fri|satur|sun)day", lambda match: _capital(match[0]), text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _texting(text: str) -> str:
    for word, short in TEXTING.items():
        text = re.sub(rf"\b{word}\b(?!')", short, text)
    return text
