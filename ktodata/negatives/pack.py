"""Packs: texts put together from parts, in several languages, read from TOML and checked before anything is made.

A pack has a table for each language. Its `shapes` are whole texts with parts in braces; `parts` lists what may stand
for each, and parts may hold parts. docs/templates.md describes the format, and the packs in packs/ are examples.

    [en]
    shapes = ["{thanks} {answer}"]
    [en.parts]
    thanks = ["thank you for {message}.", ""]
    message = ["your message", "writing"]
    answer = ["we will reply in due course."]

What a part becomes gets a capital where a sentence begins. A *slot* is a part that comes from outside, such as
`{topic}`; an alternative that needs a slot which a row does not fill is never chosen. `{?name}` writes nothing and asks
only that `name` is there.
"""

from __future__ import annotations

import dataclasses
import functools
import graphlib
import random
import re
import string
import tomllib
from collections.abc import Collection, Mapping
from hashlib import sha256
from importlib import resources
from typing import Any

from ktodata.errors import UsageError, nearest, nearest_of
from ktodata.io.paths import local_path
from ktodata.negatives.language import check_code

Text = tuple[tuple[str, str], ...]
"""A compiled text: what is written, then the name of a part ("" at the end, `?name` for a guard), over and over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Grammar:
    """One language of a pack, compiled."""

    shapes: tuple[Text, ...]
    parts: Mapping[str, tuple[Text, ...]]

    def names(self) -> set[str]:
        """All names that are written in braces, guards without their mark."""
        texts = (*self.shapes, *(text for texts in self.parts.values() for text in texts))
        return {name.removeprefix("?") for text in texts for _, name in text if name}

    def within(self, given: Collection[str]) -> Grammar | None:
        """What of it can be written with these slots; None if no shape can."""
        parts = dict(self.parts)
        while True:
            known = {*given, *parts}
            kept = {name: tuple(text for text in texts if _fits(text, known)) for name, texts in parts.items()}
            kept = {name: texts for name, texts in kept.items() if texts}
            if kept == parts:
                break
            parts = kept
        shapes = tuple(text for text in self.shapes if _fits(text, {*given, *parts}))
        return Grammar(shapes, parts) if shapes else None

    def write(self, rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
        """A text drawn from it. All its slots have to be given: see `within`."""
        out: list[str] = []
        self._write(_drawn(self.shapes, rng), rng, {} if slots is None else slots, out)
        return _SPACES.sub(" ", "".join(out)).strip()

    def _write(self, text: Text, rng: random.Random, slots: Mapping[str, str], out: list[str]) -> None:
        for literal, name in text:
            if literal:
                out.append(capital(literal) if _begins(out, literal) else literal)
            if not name or name[0] == "?":
                continue
            if name in self.parts:
                self._write(_drawn(self.parts[name], rng), rng, slots, out)
            elif value := slots[name]:
                out.append(capital(value) if _begins(out, value) else value)


def _drawn(texts: tuple[Text, ...], rng: random.Random) -> Text:
    return texts[int(rng.random() * len(texts))]  # three times as fast as rng.choice


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """A pack by language code. `digest` is the SHA-256 of a user's file."""

    where: str
    languages: Mapping[str, Grammar]
    digest: str = ""


def read_pack(path: str, *, slots: Collection[str] = ()) -> Pack:
    """A user's pack.

    Raises:
        UsageError: it cannot be read, or something in it is not right: file, key, and what to do.
    """
    try:
        content = local_path(path).read_bytes()
        table = tomllib.loads(content.decode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", do="Name a pack (a TOML file)") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML file in UTF-8: {error}", do=_SEE) from None
    pack = _compiled(table, str(path), frozenset(slots))
    for code, grammar in pack.languages.items():
        if unused := sorted(set(grammar.parts) - _used(grammar)):
            raise UsageError(
                f"{path}: [{code}] parts.{unused[0]} is in no shape, nor in a part of one",
                do=f"Write {{{unused[0]}}} where it belongs, or take it out",
            )
    return dataclasses.replace(pack, digest=sha256(content).hexdigest())


@functools.cache
def own_pack(name: str, slots: frozenset[str] = frozenset()) -> Pack:
    """One of ours, `packs/NAME.toml`."""
    file = resources.files(__package__) / "packs" / f"{name}.toml"
    return _compiled(tomllib.loads(file.read_text(encoding="utf-8")), f"packs/{name}.toml", slots)


_SEE = "docs/templates.md describes packs"
_SPACES = re.compile(r" {2,}")
# What somebody means who knows Jinja: "{{ topic }}" is a brace written twice here.
_OPEN = re.compile(r"\{\s*\??(\w+)\s*\}")
_LONGEST = 20_000  # characters that a text may become, every brace counted as one; so long may a template be, too
_DEEPEST = 100  # parts inside one another
_NAME = re.compile(r"\??[a-z][a-z0-9_]*")


def _compiled(table: Mapping[str, Any], where: str, slots: frozenset[str]) -> Pack:
    if not table:
        raise UsageError(f"{where} has no language", do=f"Write a table such as [en] with `shapes`. {_SEE}")
    languages = {}
    for code, entry in table.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: {code} is no table", do=f"All of it goes into tables such as [en]. {_SEE}")
        check_code(code, name=where)
        languages[code] = _grammar(entry, f"{where}: [{code}]", slots)
    return Pack(where, languages)


def _grammar(entry: Mapping[str, Any], where: str, slots: frozenset[str]) -> Grammar:
    for key in entry:
        if key not in ("shapes", "parts"):
            raise UsageError(f"{where} has a key {key!r}", do=f"{nearest(key, ('shapes', 'parts'))} {_SEE}")
    lists = entry.get("parts", {})
    if not isinstance(lists, dict):
        raise UsageError(f"{where} parts is no table", do="Write it as NAME = [texts]")
    shapes = _texts(entry.get("shapes"), f"{where} shapes")
    parts: dict[str, tuple[Text, ...]] = {}
    for name, texts in lists.items():
        if not _NAME.fullmatch(name) or name in slots:
            why = "is a slot, which rows fill" if name in slots else "is no name of a part"
            raise UsageError(f"{where} parts.{name}: {name!r} {why}", do="Use another: letters a-z, digits and _")
        parts[name] = _texts(texts, f"{where} parts.{name}", empty=True)
    grammar = Grammar(shapes, parts)
    _check_names(grammar, where, slots)
    _check_size(grammar, where)
    return grammar


def _texts(value: Any, where: str, *, empty: bool = False) -> tuple[Text, ...]:
    if not isinstance(value, list) or not value:
        shown = "missing" if value is None else "empty" if value == [] else "no list"
        raise UsageError(f"{where} is {shown}", do='It must be a list of texts: ["…", "…"]')
    for index, text in enumerate(value, 1):
        if not isinstance(text, str) or not (empty or text.strip()):
            raise UsageError(f"{where}, text {index}: {text!r} is no text", do='Write it as "…"')
    return tuple(_text(text, f"{where}, text {index}") for index, text in enumerate(value, 1))


def _text(text: str, where: str) -> Text:
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"{where}: {text!r} ({error})", do="A brace itself is written twice: {{ or }}") from None
    found = []
    for literal, name, spec, conversion in pieces:
        if name is not None and (spec or conversion or not _NAME.fullmatch(name)):
            raise UsageError(f"{where}: {text!r}", do="Braces hold the name of a part or slot: letters a-z, digits, _")
        found.append((literal, name or ""))
    return tuple(found)


def _check_names(grammar: Grammar, where: str, slots: frozenset[str]) -> None:
    known = sorted({*grammar.parts, *slots})
    for place, texts in (("shapes", grammar.shapes), *((f"parts.{name}", t) for name, t in grammar.parts.items())):
        for text in texts:
            for name in (name.removeprefix("?") for _, name in text if name):
                if name not in known:
                    raise UsageError(
                        f"{where} {place}: no part or slot {{{name}}}",
                        do=nearest_of(name, known) if known else f"Add parts.{name}. {_SEE}",
                    )
            for brace in _OPEN.finditer("".join(literal for literal, _ in text)):
                if brace[1] in known:
                    raise UsageError(
                        f"{where} {place}: {{{brace.group()}}} would be written with a brace, and {brace[1]} is a part",
                        do=f"Parts have one brace each: {{{brace[1]}}}",
                    )


def _check_size(grammar: Grammar, where: str) -> None:
    """Refuse parts that hold themselves, and those that would be written for ever."""
    held = {
        part: {name for text in texts for _, name in text if name in grammar.parts}
        for part, texts in grammar.parts.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(held).static_order())
    except graphlib.CycleError as error:
        loop = error.args[1][::-1]
        raise UsageError(f"{where} parts.{loop[0]} holds itself: {' > '.join(loop)}", do="Break the circle") from None
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}

    def check(place: str, texts: tuple[Text, ...]) -> int:
        longest = max(sum(len(literal) + bool(name) + sizes.get(name, 0) for literal, name in text) for text in texts)
        if longest > _LONGEST:
            raise UsageError(
                f"{where} {place} can become more than {_LONGEST} characters",
                do="Leave parts out of it, or of those that it holds",
            )
        return longest

    for part in order:
        sizes[part] = check(f"parts.{part}", grammar.parts[part])
        depths[part] = 1 + max((depths[name] for name in held[part]), default=0)
        if depths[part] > _DEEPEST:
            raise UsageError(
                f"{where} parts.{part} holds parts {depths[part]} deep", do=f"At most {_DEEPEST} are allowed"
            )
    check("shapes", grammar.shapes)


def _used(grammar: Grammar) -> set[str]:
    """The parts that texts can come to hold."""
    used: set[str] = set()
    waiting = [grammar.shapes]
    while waiting:
        new = {name for text in waiting.pop() for _, name in text if name in grammar.parts} - used
        used |= new
        waiting += [grammar.parts[name] for name in new]
    return used


def _fits(text: Text, known: Collection[str]) -> bool:
    return all(not name or name.removeprefix("?") in known for _, name in text)


_ENDS = (".", "!", "?", "…", "\n")
_OPENING = " “„«\"'(¿¡*_"


def _begins(out: list[str], text: str) -> bool:
    """Whether a sentence begins with `text` after what is written so far."""
    if out:
        last = out[-1][-1]
        if last == " ":
            last = out[-1][-2:-1]
        if last.isalnum() or last == ",":
            return False  # as most often
    # A mark with no space after it is inside something, such as the address of a page.
    apart = text[0] in " \n¿¡"
    for piece in reversed(out):
        if bare := piece.rstrip(_OPENING):
            return bare[-1] == "\n" or (bare[-1] in _ENDS and (apart or bare != piece))
        apart = True
    return True


def capital(text: str) -> str:
    """The text with its first letter large, unless something other than opening marks comes before that."""
    for place, char in enumerate(text):
        if char.isalpha():
            return text[:place] + char.upper() + text[place + 1 :]
        if char not in _OPENING:
            return text
    return text
