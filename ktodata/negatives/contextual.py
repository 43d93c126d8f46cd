"""The strategy `contextual`: a canned reply that takes something up from the prompt, and so looks as if it listened.

Templates whose slots are filled by `ktodata.negatives.slots`. A template that asks for a slot which the row does not
fill is not chosen, so no slot is ever left open. Ours are put together like those of `template`
(packs/contextual.toml); a user's own are Jinja, in `ktodata.negatives.sandbox`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
from collections.abc import Mapping
from typing import Any

from ktodata.io.paths import local_path
from ktodata.negatives.contract import Option, Run, Skip, Strategy
from ktodata.negatives.language import commonest
from ktodata.negatives.pack import Grammar, own_pack
from ktodata.negatives.sandbox import Source, read_templates, render
from ktodata.negatives.slots import GUARDS, KINDS, TEXT_SLOTS, Found, find
from ktodata.negatives.template import check_language, language_options, opened
from ktodata.schema import Row

_OURS = frozenset(TEXT_SLOTS) | GUARDS
# What a template of a user's may name besides, and does not have to be filled.
_MORE = {"keywords": "the phrases of the prompt, a list", "kind": f"what the prompt is: {', '.join(KINDS)}"}
SLOTS: Mapping[str, str] = {**TEXT_SLOTS, **_MORE}


@dataclasses.dataclass(frozen=True, slots=True)
class Templates:
    """A user's templates by language, and the SHA-256 of their file; without any, ours are meant."""

    own: Mapping[str, tuple[Source, ...]] | None = None
    digest: str = ""
    common: str = ""

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(own_pack("contextual", _OURS).languages if self.own is None else self.own)


def prepare(run: Run, *, templates: str | None, language: str, fallback: str | None) -> Templates:
    """The templates, read and checked.

    Raises:
        UsageError: a template that is not right or not allowed, a language that there is none in.
    """
    found = Templates()
    if templates is not None:
        digest = hashlib.sha256(local_path(templates).read_bytes()).hexdigest()
        found = Templates(read_templates(templates, SLOTS), digest)
    check_language(language, fallback, found.languages, name="contextual")
    common = commonest(run.sample, found.languages) if language == "auto" else ""
    return dataclasses.replace(found, common=common)


def facts(pool: Templates) -> Mapping[str, str]:
    """What a user's templates were, for the card: their path says little when the file changes."""
    return {"templates_sha256": pool.digest} if pool.digest else {}


def contextual(
    row: Row,
    /,
    *,
    pool: Templates,
    rng: random.Random,
    templates: str | None,
    language: str,
    fallback: str | None,
) -> str | Skip:
    """A reply on the prompt's topic; of two that are drawn, the one closer in length to the reply it replaces.

    White space at both ends stays as it is.
    """
    said = opened(row, pool.languages, language=language, fallback=fallback, common=pool.common)
    if isinstance(said, Skip):
        return said
    found = find(row, said.core, language=said.code)
    draft = _ours(found, said.code, said.core, rng) if pool.own is None else _own(found, pool.own[said.code], rng)
    return said.before + draft + said.after if draft else Skip("nothing in it fills a template")


def _ours(found: Found, code: str, core: str, rng: random.Random) -> str | None:
    grammar = _usable(code, found.given)
    if grammar is None:
        return None
    return min((grammar.write(rng, found.values) for _ in range(2)), key=lambda draft: abs(len(draft) - len(core)))


def _own(found: Found, sources: tuple[Source, ...], rng: random.Random) -> str | None:
    slots: dict[str, Any] = {name: found.values[name] for name in TEXT_SLOTS if name in found.given}
    slots["kind"] = found.kind
    if found.phrases:
        slots["keywords"] = list(found.phrases)
    for source in rng.sample(sources, len(sources)):
        text = render(source, slots)
        if text is not None:
            return text
    return None


@functools.cache
def _usable(code: str, given: frozenset[str]) -> Grammar | None:
    """Our pack, as far as these slots fill it."""
    return own_pack("contextual", _OURS).languages[code].within(given)


CONTEXTUAL = Strategy(
    name="contextual",
    summary="A canned reply that takes up the topic, the time or the wording of the prompt, and says nothing about it.",
    one=contextual,
    prepare=prepare,
    facts=facts,
    options={
        "templates": Option(
            kind="file",
            default=None,
            optional=True,
            help="Templates of yours: TOML with Jinja, see docs/templates.md. Left out, ours are used.",
        ),
        **language_options("templates"),
    },
)
