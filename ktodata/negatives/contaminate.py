"""The strategy `contaminate`: a reply to somebody else's prompt.

Each reply is as good as any, so nothing in it gives it away; it is wrong only here. What might be right here too is
left out: replies to this prompt and to prompts that ask nearly the same, replies that say nearly the same as one of
those, and replies that suit any prompt.

Replies are dealt out, not drawn: each is lent about once where there are as many as rows. A reply that is lent to many
would be learnt as such.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ktodata import personal
from ktodata.errors import SourceError, UsageError
from ktodata.io.paths import is_input
from ktodata.negatives.contamination.prompts import Prompts, last_said
from ktodata.negatives.contamination.replies import MANY, Triples, alike, is_generic, sentence_keys, triples, words
from ktodata.negatives.contract import Option, Run, Skip, Strategy, reply_of
from ktodata.negatives.corruption import lexicon
from ktodata.negatives.corruption.layout import edges
from ktodata.schema import Row, normalise

NEARLY_SAME = 0.5  # similarity of prompts from which a reply to one may be right for the other
UNRELATED = 0.2  # and up to which they have nothing to do with each other
_TRIES = 64
NONE = "no reply of another prompt that would be wrong here"
NONE_NEAR = "no reply of a similar prompt that would be wrong here"


@dataclasses.dataclass(frozen=True, slots=True)
class _Reply:
    """A reply of the pool: its text without white space at the ends, its words, the prompts that got it."""

    text: str
    core: list[str]
    prompts: tuple[int, ...]
    language: str


@dataclasses.dataclass(slots=True)
class Lent:
    """What is drawn from: replies, in an order that their content decides, and the prompts of rows and pool.

    `asked` gives the number of a prompt by its `prompt_id`; `right` the words of the replies that are right for it;
    `near` the replies of similar prompts in the order in which they are lent (None where any may be); `language` that
    of a text; `decks` the replies by the language that they can be lent in, shuffled, "" for any; `seats` the place of
    a row, by its id, among those of its language, and among those of its prompt; `rows` how many the languages have;
    `digest` names what is in a pool of its own.
    """

    replies: list[_Reply]
    prompts: Prompts
    asked: dict[str, int]
    right: dict[int, list[list[str]]]
    language: dict[str, str]
    decks: dict[str, list[int]]
    seats: dict[str, tuple[int, int]]
    rows: Counter[str]
    digest: str = ""
    near: dict[int, list[int]] | None = None
    _shapes: dict[int, Triples] = dataclasses.field(default_factory=dict)
    _right_shapes: dict[int, list[Triples]] = dataclasses.field(default_factory=dict)

    def shape(self, place: int) -> Triples:
        """`triples` of a reply, made once."""
        if place not in self._shapes:
            self._shapes[place] = triples(self.replies[place].core)
        return self._shapes[place]

    def right_shapes(self, here: int) -> list[Triples]:
        """`triples` of what is right for a prompt, made once."""
        if here not in self._right_shapes:
            self._right_shapes[here] = [triples(core) for core in self.right[here]]
        return self._right_shapes[here]


def contaminate(row: Row, /, *, pool: Lent, rng: random.Random, turn: int = 0, **options: Any) -> str | Skip:
    """A reply from the pool, with the white space at both ends that this row's own reply has.

    Nothing is left to chance here: the seed shuffled the pool, and what row and `turn` get of it is fixed.
    """
    own = reply_of(row)
    if isinstance(own, Skip):
        return own
    before, core, after = edges(own)
    if not core:
        return Skip("empty")
    language = pool.language[core] if options["same_language"] else ""
    place = _wrong_here(pool, pool.asked[row.prompt_id], language, _dealt(pool, row, language, turn))
    if place is None:
        return Skip(NONE if pool.near is None else NONE_NEAR)
    text = pool.replies[place].text
    return before + (personal.mask(text) if options["mask"] else text) + after


def _wrong_here(pool: Lent, here: int, language: str, dealt: Iterable[int]) -> int | None:
    """The place of a reply that is wrong here: the first dealt that is unrelated, else the least related one."""
    least, best = NEARLY_SAME, None
    for place in dealt:
        reply = pool.replies[place]
        if language and reply.language and language != reply.language:
            continue
        related = max(pool.prompts.cosine(here, there) if here != there else 1.0 for there in reply.prompts)
        if related >= least or any(alike(pool.shape(place), right) for right in pool.right_shapes(here)):
            continue
        if related <= UNRELATED or pool.near is not None:
            return place
        least, best = related, place
    return best


def _dealt(pool: Lent, row: Row, language: str, turn: int) -> Iterator[int]:
    """The places of replies for a row, each once: first its own card, then those that nobody else gets if there are."""
    seat, among = pool.seats[row.id]
    if pool.near is not None:
        near = pool.near[pool.asked[row.prompt_id]]
        start = (among + turn) % max(1, len(near))
        yield from near[start:] + near[:start]
        return
    deck = pool.decks.get(language) or pool.decks[""]
    rows, cards = pool.rows[language], len(deck)
    # Steps of as many cards as there are rows, so that another row's card comes late; moved on by one when they come
    # round to where they began, so that all cards come.
    around = cards // math.gcd(rows, cards) if cards else 1
    for step in range(turn, turn + min(cards, _TRIES)):
        yield deck[(seat + step * rows + step // around) % cards]


def prepare(run: Run, **options: Any) -> Lent:
    """The replies to draw from, and, for `from = similar`, whose they are.

    Raises:
        SourceError: the pool cannot be read, or has no reply that could be wrong anywhere.
        UsageError: the pool would be overwritten, or is stdin.
    """
    desirable = [row for row in run.rows if row.label]
    lenders = _read(options["pool"], run.output) if options["pool"] else desirable
    said = {row.prompt_id: last_said(row.prompt) for row in (*desirable, *lenders)}
    numbers = {text: number for number, text in enumerate(sorted(set(said.values())))}
    asked = {prompt_id: numbers[text] for prompt_id, text in said.items()}
    right: dict[int, set[str]] = {number: set() for number in numbers.values()}
    for row in desirable:
        if core := _core(row):
            right[asked[row.prompt_id]].add(core)
    language = {text: lexicon.guess(text) for texts in right.values() for text in texts}
    replies = _usable(lenders, asked, language)
    if not replies and options["pool"]:
        raise SourceError(
            f"none of {len(lenders)} desirable rows has a reply that could be wrong anywhere",
            where=options["pool"],
            do="Replies such as `ok` or `thanks` suit any prompt: name another pool",
        )
    cores = {number: [words(text) for text in sorted(texts)] for number, texts in right.items()}
    spoken = {row.id: language.get(_core(row), "") if options["same_language"] else "" for row in desirable}
    seats, rows = _seats(desirable, spoken, run.seed)
    decks = _decks(replies, run.seed)
    lent = Lent(replies, Prompts(list(numbers)), asked, cores, language, decks, seats, rows)
    if options["pool"]:
        lent.digest = hashlib.sha256("\n".join(sorted(row.id for row in lenders)).encode()).hexdigest()
    if options["from"] == "similar":
        lent.near = _near(lent, sorted({asked[row.prompt_id] for row in desirable}), options["neighbours"])
        _spread(lent.near, Counter(asked[row.prompt_id] for row in desirable), run.seed)
    return lent


def facts(pool: Lent) -> Mapping[str, str]:
    """What was in a pool of its own, for the card: its path says little when the file changes."""
    return {"pool_sha256": pool.digest} if pool.digest else {}


def _decks(replies: Sequence[_Reply], seed: int) -> dict[str, list[int]]:
    """The replies that rows of a language may get, shuffled: those in it, and those in no known one."""
    order = random.Random(f"{seed}/contaminate").sample(range(len(replies)), len(replies))
    languages = {reply.language for reply in replies} - {""}
    decks = {code: [place for place in order if replies[place].language in ("", code)] for code in languages}
    return decks | {"": order}


def _seats(
    desirable: Iterable[Row], spoken: Mapping[str, str], seed: int
) -> tuple[dict[str, tuple[int, int]], Counter[str]]:
    """Each row's places, in an order that the seed and its id decide, and how many rows each language has."""
    prompts = {row.id: row.prompt_id for row in desirable}
    keys = {row_id: zlib.crc32(f"{seed}/{row_id}".encode()) for row_id in prompts}
    rows: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    seats: dict[str, tuple[int, int]] = {}
    for row_id in sorted(prompts, key=lambda row_id: (keys[row_id], row_id)):
        code, prompt = spoken[row_id], prompts[row_id]
        seats[row_id] = rows[code], seen[prompt]
        rows[code] += 1
        seen[prompt] += 1
    return seats, rows


def _spread(near: dict[int, list[int]], rows: Mapping[int, int], seed: int) -> None:
    """Put what was lent least first among the replies of similar prompts: the same few would be lent to all."""
    lent: Counter[int] = Counter()
    rng = random.Random(f"{seed}/similar")
    for here in rng.sample(sorted(near), len(near)):
        places = rng.sample(near[here], len(near[here]))
        places.sort(key=lambda place: lent[place])
        near[here] = places
        lent.update(places[: rows[here]])


def _core(row: Row) -> str:
    """The reply without white space at its ends; "" where there is none."""
    reply = reply_of(row)
    return reply.strip() if isinstance(reply, str) else ""


def _read(pool: str, output: str) -> list[Row]:
    from ktodata.unpair import unpair

    if pool == "-":
        raise UsageError("contaminate.pool is stdin", do="Name a file, a folder or a Hub id")
    if output and is_input(output, pool):
        raise UsageError(f"{output} is contaminate.pool: it would be overwritten", do="Name another file with -o")
    rows = [row for row in unpair(pool, on_conflict="keep").rows if row.label]
    if not rows:
        raise SourceError("no desirable rows", where=pool, do="contaminate lends desirable replies")
    return rows


def _usable(lenders: Iterable[Row], asked: dict[str, int], language: dict[str, str]) -> list[_Reply]:
    """Different replies that some prompt got and that do not suit all prompts."""
    found: dict[str, tuple[str, set[int]]] = {}
    for row in lenders:
        reply = reply_of(row)
        if isinstance(reply, str) and reply.strip():
            text, prompts = found.setdefault(normalise(reply), (reply.strip(), set()))
            prompts.add(asked[row.prompt_id])
            # Of two that differ in their capitals only, the same one whatever the order.
            found[normalise(reply)] = (min(text, reply.strip()), prompts)
    cores = {key: words(key) for key in found}
    times: dict[str, set[int]] = {}
    for key, (_, prompts) in found.items():
        times.setdefault(" ".join(cores[key]), set()).update(prompts)
    return [
        _Reply(text, cores[key], tuple(sorted(prompts)), language.get(text) or lexicon.guess(text))
        for key, (text, prompts) in sorted(found.items())
        if len(times[" ".join(cores[key])]) < MANY and not is_generic(cores[key])
    ]


def _near(lent: Lent, here: Sequence[int], neighbours: int) -> dict[int, list[int]]:
    """For each prompt, the replies of the most similar prompts that do not ask nearly the same.

    A reply that has a clause in common with a reply of a nearly equal prompt may be right here, and is left out.
    """
    import numpy as np

    owners: dict[int, list[int]] = {}
    for place, reply in enumerate(lent.replies):
        for prompt in reply.prompts:
            owners.setdefault(prompt, []).append(place)
    there = sorted(owners)
    keys = [sentence_keys(reply.text) for reply in lent.replies]
    near: dict[int, list[int]] = {}
    most = min(len(there), 8 * neighbours)
    for prompt, similar in zip(here, lent.prompts.each(here, there), strict=True):
        same = [owners[there[place]] for place in np.flatnonzero(similar >= NEARLY_SAME)]
        right: set[int] = set().union(*(keys[place] for places in same for place in places))
        band = np.where(similar < NEARLY_SAME, similar, 0)
        top = np.argpartition(-band, most - 1)[:most].tolist() if most else []
        # Equally similar ones by their number: argpartition's own choice is not to be relied on.
        order = sorted((place for place in top if band[place] > 0), key=lambda place: (-band[place], place))
        near[prompt] = _wrong((owners[there[place]] for place in order), keys, right, neighbours)
    return near


def _wrong(prompts: Iterable[list[int]], keys: Sequence[frozenset[int]], right: set[int], neighbours: int) -> list[int]:
    """The replies of the first so many prompts that have any which is not right here."""
    chosen: list[int] = []
    count = 0
    for places in prompts:
        wrong = [place for place in places if keys[place].isdisjoint(right)]
        chosen += wrong
        count += bool(wrong)
        if count == neighbours:
            break
    return list(dict.fromkeys(chosen))


CONTAMINATE = Strategy(
    name="contaminate",
    summary="A reply to somebody else's prompt: a good one, but not here.",
    one=contaminate,
    prepare=prepare,
    facts=facts,
    whole=True,
    turns=True,
    options={
        "pool": Option(
            kind="text",
            default="",
            help="Whose replies: any SOURCE; its desirable ones are lent. Left empty, the file itself.",
        ),
        "from": Option(
            kind="choice",
            default="random",
            choices=("random", "similar"),
            help="Replies of prompts that have nothing to do with this one, or of similar ones (TF-IDF neighbours that "
            "do not ask nearly the same), which are harder to tell.",
        ),
        "neighbours": Option(
            kind="int", default=10, low=1, high=1000, help="With from=similar, how many prompts are drawn from."
        ),
        "same_language": Option(
            kind="bool", default=True, help="Only replies in the language of this one, as far as that is known."
        ),
        "mask": Option(
            kind="bool",
            default=True,
            help="Replace e-mail addresses, telephone, card, account, tax and identity numbers by made-up ones.",
        ),
    },
)
