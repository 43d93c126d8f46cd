"""The strategy `template`: a canned reply, in the language of the row, that no friend would send.

A reply is put together from the parts of a pack (`ktodata.negatives.pack`): ours are in packs/, a user's own is a TOML
file. It knows nothing of the prompt; `contextual` does.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Mapping, Sequence

from ktodata.errors import UsageError, nearest, sentences
from ktodata.negatives.contract import Option, Run, Skip, Strategy, reply_of
from ktodata.negatives.corruption.layout import edges
from ktodata.negatives.language import commonest, detect
from ktodata.negatives.pack import Grammar, Pack, own_pack, read_pack
from ktodata.schema import Row

OWN = ("formal", "neutral", "bureaucratic")
NO_PACK = "no pack for its language"


@dataclasses.dataclass(frozen=True, slots=True)
class Packs:
    """What `template` draws from: for each language, the packs that have it.

    `common` is the language of rows that say too little to tell theirs.
    """

    languages: Mapping[str, tuple[Grammar, ...]]
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    common: str = ""


def facts(pool: Packs) -> Mapping[str, Mapping[str, str]]:
    """What a user's packs held, for the card: a path says little when the file changes."""
    return {"packs_sha256": pool.digests} if pool.digests else {}


def prepare(run: Run, *, pack: Sequence[str], language: str, fallback: str | None) -> Packs:
    """The packs, read and checked.

    Raises:
        UsageError: a pack that does not exist or is not right, a language that none of them has.
    """
    packs = [own_pack(name) if name in OWN else _read(name) for name in pack]
    codes = sorted({code for each in packs for code in each.languages})
    check_language(language, fallback, codes, name="template")
    digests = {each.where: each.digest for each in packs if each.digest}
    languages = {code: tuple(each.languages[code] for each in packs if code in each.languages) for code in codes}
    return Packs(languages, digests, commonest(run.sample, languages) if language == "auto" else "")


def template(
    row: Row,
    /,
    *,
    pool: Packs,
    rng: random.Random,
    pack: Sequence[str],
    language: str,
    fallback: str | None,
) -> str | Skip:
    """A canned reply; of two that are drawn, the one closer in length to the reply it replaces.

    White space at both ends stays as it is.
    """
    said = opened(row, pool.languages, language=language, fallback=fallback, common=pool.common)
    if isinstance(said, Skip):
        return said
    drafts = [rng.choice(pool.languages[said.code]).write(rng) for _ in range(2)]
    return said.before + min(drafts, key=lambda draft: abs(len(draft) - len(said.core))) + said.after


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A reply between the white space at its ends, and the language to write in."""

    before: str
    core: str
    after: str
    code: str


def opened(row: Row, known: Collection[str], *, language: str, fallback: str | None, common: str) -> Opened | Skip:
    """The reply of a row that is to be replaced, or why it cannot be: none, empty, or in a language not in `known`.

    The language is the one given, or the row's own (`common`, where few letters leave it open), or else `fallback`.
    """
    reply = reply_of(row)
    if isinstance(reply, Skip):
        return reply
    before, core, after = edges(reply)
    if not core:
        return Skip("empty")
    code = (detect(row, core, known, common) if language == "auto" else language) or fallback or Skip(NO_PACK)
    return code if isinstance(code, Skip) else Opened(before, core, after, code)


def check_language(language: str, fallback: str | None, known: Collection[str], *, name: str) -> None:
    """Whether both options name a language that can be written.

    Raises:
        UsageError: one does not.
    """
    for key, code in (("language", language), ("fallback", fallback)):
        if code not in (None, *known) and not (key == "language" and code == "auto"):
            raise UsageError(
                f"{name}.{key} is {code!r}, and no pack has it", do=f"There are {', '.join(sorted(known))}"
            )


def language_options(noun: str) -> dict[str, Option]:
    """The options `language` and `fallback`, for a strategy that writes in the language of the row."""
    return {
        "language": Option(
            kind="text",
            default="auto",
            help=f"Language of the {noun}, such as it; auto tells it from each reply and prompt.",
        ),
        "fallback": Option(
            kind="text",
            default=None,
            optional=True,
            help="Language for rows in one that has none; left out, they are skipped and counted.",
        ),
    }


def _read(name: str) -> Pack:
    if "/" not in name and "\\" not in name and "." not in name:
        raise UsageError(
            f"template.pack: no pack {name!r}", do=sentences(nearest(name, OWN), "A file of yours ends in .toml")
        )
    return read_pack(name)


TEMPLATE = Strategy(
    name="template",
    summary="A canned reply in the language of the row: formal, neutral or bureaucratic, put together from parts.",
    one=template,
    prepare=prepare,
    facts=facts,
    options={
        "pack": Option(
            kind="list",
            default=OWN,
            reads=True,
            help=f"Packs to draw from, of {', '.join(OWN)} and TOML files of yours (docs/templates.md).",
        ),
        **language_options("reply"),
    },
)
