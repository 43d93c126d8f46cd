"""What a prompt is about: the values of the slots that `contextual` fills in.

Rules over the last user turn, with word lists of five languages (packs/words.toml). None of it understands anything:
the topic is the phrase of the most words that are not everyday words, quoted text and names first.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from ktodata.negatives.corruption import layout, tone
from ktodata.schema import Row, plain

TEXT_SLOTS: Mapping[str, str] = {
    "topic": "what the prompt is about: quoted text, a name, or its longest phrase",
    "keyword": "the first word of the topic that says something",
    "detail": "another phrase of the prompt, not the topic",
    "entity": "a name in the prompt",
    "quote": "text in quotation marks in the prompt",
    "excerpt": "the beginning of what the user wrote last, up to eight words",
    "time": "when: a day, an hour, tomorrow",
    "conclusion": "the first sentence of the reply that is replaced, made formal",
}
KINDS = ("when", "where", "who", "why", "how", "what", "yesno", "request", "greeting", "thanks", "statement")
GUARDS = frozenset(("is_question", *(f"is_{kind}" for kind in KINDS)))
_QUESTIONS = frozenset(("when", "where", "who", "why", "how", "what", "yesno"))
_LONGEST = 2000  # characters of the prompt that are read, from the end
_PHRASE = 4  # words of a topic
_EXCERPT = 8  # words of an excerpt


class Slots(dict[str, str]):
    """The slots that a row fills. The conclusion is worked out when it is asked for, since most templates do not."""

    def __init__(self, values: Mapping[str, str], sentence: str, language: str) -> None:
        super().__init__(values)
        self._sentence, self._language = sentence, language

    def __missing__(self, name: str) -> str:
        if name != "conclusion" or not self._sentence:
            raise KeyError(name)
        self[name] = _formal(self._sentence, self._language)
        return self[name]


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What `find` found: `values`, the names that have one (`given`), the kind of the prompt (one of `KINDS`), and the
    phrases in it, the topic first. `given` holds `is_question` and `is_KIND` too, where they hold."""

    kind: str
    values: Slots
    given: frozenset[str]
    phrases: tuple[str, ...] = ()


def find(row: Row, reply: str, *, language: str) -> Found:
    """What the slots of this row hold. A slot that nothing fills is left out."""
    asked = _asked(_last_turn(row), language)
    sentence = _statement(reply)
    given = {
        *asked.filled,
        f"is_{asked.kind}",
        *(["is_question"] if asked.kind in _QUESTIONS else []),
        *(["conclusion"] if sentence else []),
    }
    return Found(asked.kind, Slots(asked.filled, sentence, language), frozenset(given), asked.phrases)


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What a prompt alone says: its kind, the slots that it fills, its phrases."""

    kind: str
    filled: Mapping[str, str]
    phrases: tuple[str, ...]


@functools.lru_cache(maxsize=10_000)
def _asked(text: str, language: str) -> _Asked:
    """What the last turn of a prompt says. Kept, since many rows answer the same, and one may be asked for several."""
    known = _known(language)
    hidden = layout.hide(text)
    text = _bare(hidden[0] if hidden else text)
    quote = _first(_QUOTED, text)
    phrases = _phrases(text, known, language)
    times = known.times.search(text)
    names = [phrase.text for phrase in phrases if phrase.name]
    topic = next(filter(None, (quote, *names, *(phrase.text for phrase in phrases))), "")
    values = {
        "topic": topic,
        "keyword": next((m.group() for m in _TOKEN.finditer(topic) if _key(m) not in known.dull), ""),
        "detail": next((p.text for p in phrases if p.text not in topic and topic not in p.text), ""),
        "entity": names[0] if names else "",
        "quote": quote,
        "excerpt": _excerpt(text),
        "time": times.group().strip() if times else "",
    }
    filled = {name: value for name, value in values.items() if value}
    return _Asked(_kind(text, known), filled, tuple(dict.fromkeys(phrase.text for phrase in phrases)))


def _last_turn(row: Row) -> str:
    """What the user said last: of a plain-text prompt, the last paragraph that is no bare role such as "Assistant:"."""
    if isinstance(row.prompt, list):
        turns = [message["content"] for message in row.prompt if message["role"] == "user"]
        return turns[-1][-_LONGEST:] if turns else ""
    lines = [_ROLE.sub("", line).strip() for line in plain(row.prompt)[-_LONGEST:].split("\n\n")]
    return next((line for line in reversed(lines) if line), "")


_ROLE = re.compile(r"^\s*(?:Human|User|Assistant|AI|Bot|System)\s*:", re.IGNORECASE)
_QUOTED = re.compile(r"[“„«\"]\s*([^“”„«»\"\n]{3,60}?)\s*[”“»\"]")
_PLACE = re.compile(rf"[{layout.PLACE}-\U000fffff]")
_NOISE = re.compile(rf"{layout.EMOJI}|[{layout.PLACE}-\U000fffff{{}}<>|*_#~`\\^]|[:;=]['’\-]?[)(DPpOo/]+(?!\w)")


def _bare(text: str) -> str:
    """Without code, addresses, emoji and marks that mean something to a template or to Markdown; one line."""
    return " ".join(tone.without_laughter(_NOISE.sub(" ", text)).split())


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1].strip(" .,;:!?") if match else ""


def _phrases(text: str, known: _Known, language: str) -> list[_Phrase]:
    """Phrases of words that say something, the likeliest topic first. What says when is no part of one."""
    found: list[_Phrase] = []
    for start, clause in _clauses(known.times.sub(",", text)):
        run: list[re.Match[str]] = []
        before = ""
        for match in (*_TOKEN.finditer(clause), None):
            word = _key(match) if match else ""
            telling = match is not None and word not in known.dull and len(word) > 1
            # A word that may join two others stays in, if another comes.
            joins = bool(run) and word in known.links and match is not None
            # An article only after another such word: "casa de la playa", but not "funciona el ordenador".
            joins = joins and (word not in _ARTICLES or _key(run[-1]) in known.links)
            if match and (telling or joins):
                run.append(match)
                continue
            if run:
                german = language == "de"
                run = _noun(run) if german else run
                found.append(_rated(run, before, known, named=not german, first=start == 0))
            run, before = [], word
    return sorted((phrase for phrase in found if phrase.text), key=lambda phrase: phrase.rank)


@dataclasses.dataclass(frozen=True, slots=True)
class _Phrase:
    rank: tuple[int, int]
    text: str
    name: bool


def _rated(run: list[re.Match[str]], before: str, known: _Known, *, named: bool, first: bool) -> _Phrase:
    """The phrase that a run of words is, cut to length. After an article it is a noun, more likely than not."""
    run = run[: _PHRASE + 1]
    while run and (_key(run[-1]) in known.dull or (len(run) > 1 and known.verbal.search(_key(run[-1])))):
        run = run[:-1]
    words = [match for match in run if _key(match) not in known.dull]
    text = run[0].string[run[0].start() : run[-1].end()] if run else ""
    if not any(len(match.group()) > 2 and match.group().isalpha() for match in words):
        return _Phrase((0, 0), "", False)
    # Names: a sentence begins with a capital anywhere, and in German every noun does.
    name = named and all(m.group()[0].isupper() and not (first and m.start() == 0) for m in words)
    points = 2 * len(words[:3]) + 3 * (before in known.articles) - 3 * bool(known.verbal.search(_key(words[0])))
    return _Phrase((-points, run[0].start()), text, name and not run[0].string.isupper())


def _noun(run: list[re.Match[str]]) -> list[re.Match[str]]:
    """A German run from its noun on: the adjective before it, which the article decided, would be wrong alone."""
    large = [place for place, match in enumerate(run) if match.group()[0].isupper()]
    return run[large[0] :] if large else run


def _key(match: re.Match[str]) -> str:
    """A word as the lists have it: without what English joins to it ("what's"), or the apostrophe of an elision."""
    return _bare_word(match.group())


@functools.lru_cache(maxsize=50_000)
def _bare_word(word: str) -> str:
    return _JOINED.sub("", word.lower().replace("’", "'"))


_ARTICLES = frozenset(("el", "la", "los", "las", "le", "les", "l"))
_JOINED = re.compile(r"(?:'(?:s|m|re|ve|ll|d)?|n't)$")
# An elided article or pronoun ("l'ora", "j'arrive") is a word of its own.
_TOKEN = re.compile(
    r"(?:[cdjlmnst]|qu|un|dell|all|nell|sull|dall|quell|quest|anch|com|dov|cos)['’](?=[^\W\d_]{2})"
    r"|[^\W_]+(?:['’\-][^\W_]+)*['’]?",
    re.IGNORECASE,
)


def _clauses(text: str) -> Iterator[tuple[int, str]]:
    place = 0
    for match in _BREAK.finditer(text):
        yield place, text[place : match.start()]
        place = match.end()
    yield place, text[place:]


_BREAK = re.compile(r"[.,;:!?…()\[\]“”„«»\"¿¡/]+|\s[-–—]+\s")


def _excerpt(text: str) -> str:
    """Whole words from the beginning of the last sentence, one of two words at least if there is one."""
    sentences = [part for part in re.split(r"(?<=[.!?…])\s+", text) if any(char.isalpha() for char in part)]
    sentences = [part for part in sentences if " " in part] or sentences
    if not sentences:
        return ""
    words = sentences[-1].split()
    excerpt = " ".join(words[:_EXCERPT]).strip(" .,;:!?…¿¡\"“”„«»()-–—'’")
    if len(words) > _EXCERPT:
        return excerpt + "…"
    # "mi ordenador no enciende, ¿alguna idea?" loses its last mark alone.
    return excerpt + "".join(close for opening, close in ("¿?", "¡!") if excerpt.count(opening) > excerpt.count(close))


def _kind(text: str, known: _Known) -> str:
    bare = text.lower().replace("’", "'").lstrip("¿¡ ")
    asks = bare.rstrip(" )\"'”»").endswith("?")
    sentences = [part.lstrip("¿¡ ") for part in re.split(r"[.!?…]+\s*|,\s+", bare) if part.strip()]
    for sentence in reversed(sentences):
        for kind in ("when", "where", "who", "why", "how", "what"):
            if (asks or len(sentences) == 1) and known.begins[kind].match(sentence):
                return kind
    if any(known.begins["request"].match(sentence) for sentence in sentences):
        return "request"
    if asks:
        return "yesno"
    for kind in ("thanks", "greeting", "yesno"):
        if sentences and known.begins[kind].match(sentences[0]):
            return kind if kind != "yesno" else "statement"
    return "statement"


def _statement(reply: str) -> str:
    """The first sentence of the reply that states something and holds no code."""
    hidden = layout.hide(reply[:_LONGEST])
    for sentence in layout.sentences(hidden[0]).words[:4] if hidden else ():
        words = _NOISE.sub(" ", tone.without_laughter(sentence)).split()
        if not sentence.endswith("?") and 2 <= len(words) <= 25 and not _PLACE.search(sentence):
            return sentence
    return ""


def _formal(sentence: str, language: str) -> str:
    """The sentence in formal words, without its full stop."""
    # Nothing is left to chance at full intensity.
    flat = tone.flatten(sentence, rng=random.Random(0), intensity=1.0, language=language) or sentence
    return _bare(flat).strip(" .,;:!?…¿¡")


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """The word lists of a language. `dull` words are no part of a topic, save `links` within one."""

    dull: frozenset[str]
    links: frozenset[str]
    articles: frozenset[str]
    verbal: re.Pattern[str]
    times: re.Pattern[str]
    begins: Mapping[str, re.Pattern[str]]


@functools.cache
def _known(language: str) -> _Known:
    table = _tables().get(language) or _tables()["en"]
    days, at = "|".join(map(re.escape, table["days"])), "|".join(map(re.escape, table["at"]))
    hour = r"\d{1,2}(?:[:.h]\d{2}|h)?(?:\s?[ap]m)?(?:\s+uhr)?"
    times = "|".join(map(re.escape, table["times"]))
    begins = {kind: table[kind] for kind in ("when", "where", "who", "why", "how", "what", "yesno", "thanks")}
    begins |= {"request": table["asks"], "greeting": table["hello"]}
    return _Known(
        dull=frozenset(f"{table['stop']} {table['verbs']}".split()),
        links=frozenset(table["links"].split()),
        articles=frozenset(table["articles"].split()),
        verbal=re.compile(table["verbal"]),
        times=re.compile(
            rf"(?<!\w)(?:{times}|(?:(?:{at}) )?(?:{days})(?!\w)|(?:{at}) {hour}(?![\w.,%€$£]))(?!\w)", re.IGNORECASE
        ),
        begins={kind: re.compile(rf"(?:{'|'.join(map(re.escape, words))})(?!\w)") for kind, words in begins.items()},
    )


@functools.cache
def _tables() -> dict[str, dict[str, Any]]:
    file = resources.files(__package__) / "packs" / "words.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
