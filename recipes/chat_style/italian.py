"""Italian small talk: casual conversations drawn from italian.toml, as ../quickstart/grammar.py draws English ones."""

from __future__ import annotations

import functools
import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Message = dict[str, str]
GRAMMAR = Path(__file__).with_name("italian.toml")
# How people shorten words when they text; applied to some texts, whole words only.
TEXTING = {"perché": "xké", "non": "nn", "comunque": "cmq", "che": "ke", "qualcosa": "qlc", "per": "x", "grazie": "grz"}
MARKS = ("!", "!!", "", "", "", ".", " ahah", " lol", "...")


@functools.cache
def grammar() -> dict[str, Any]:
    """italian.toml, parsed once."""
    return tomllib.loads(GRAMMAR.read_text(encoding="utf-8"))


def exchanges(seed: int) -> Iterator[tuple[list[Message], str]]:
    """The endless list of conversations that `seed` names: a prompt (messages, the user's last) and a casual reply."""
    index = 0
    while True:
        yield exchange(random.Random(f"it:{seed}:{index}"))
        index += 1


def exchange(rng: random.Random) -> tuple[list[Message], str]:
    """One conversation."""
    intent = rng.choice(grammar()["intent"])
    slots = {**intent.get("slots", {}), "name": grammar()["names"]}
    values = {name: rng.choice(options) for name, options in slots.items()}
    line = _texted(rng.choice(intent["prompts"]).format(**values), rng)
    reply = _reply(intent, values, rng)
    return [*_before(rng), {"role": "user", "content": line}], reply


def _before(rng: random.Random) -> list[Message]:
    """The turns before the last user line: mostly none, else a system turn, a greeting and its reply, or both."""
    messages: list[Message] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(grammar()["systems"])})
    if rng.random() < 0.2:
        greeting = rng.choice(grammar()["greeting"])
        messages.append({"role": "user", "content": rng.choice(greeting["prompts"])})
        messages.append({"role": "assistant", "content": rng.choice(greeting["replies"])})
    return messages


def _reply(intent: dict[str, Any], values: dict[str, str], rng: random.Random) -> str:
    """Texting style: marks that repeat or are missing, laughter, emoji, mostly without capitals."""
    mood = grammar()["mood"][intent["mood"]]
    text = rng.choice(intent["replies"]).format(**values)
    if not text.endswith("?"):
        text += rng.choice(MARKS)
    if rng.random() < 0.55:
        text = rng.choice(mood["openers"]) + rng.choice(mood["join"]) + text
    if rng.random() < 0.5:
        more = rng.choice(intent["more"]).format(**values)
        text += (" " if text[-1] in "!?." else ", ") + more + ("" if more.endswith("?") else rng.choice(MARKS[:6]))
    text = _texted(text, rng)
    return f"{text} {rng.choice(mood['emoji'])}" if rng.random() < 0.45 else text


def _texted(text: str, rng: random.Random) -> str:
    if rng.random() < 0.25:
        for word, short in TEXTING.items():
            text = re.sub(rf"\b{word}\b", short, text)
    return text[:1].upper() + text[1:] if rng.random() < 0.2 else text
