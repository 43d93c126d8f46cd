"""The strategy `contaminate`: a reply to somebody else's prompt.

Each reply is as good as any, so nothing in it gives it away; it is wrong only here. What might be right here too is
left out: replies to this prompt and to prompts that ask nearly the same, replies that say nearly the same as one of
those, and replies that suit any prompt.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Sequence
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
    `near` the replies of similar prompts, the nearest first (None where any may be drawn); `language` that of a text.
    """

    replies: list[_Reply]
    prompts: Prompts
    asked: dict[str, int]
    right: dict[int, list[list[str]]]
    language: dict[str, str]
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


def contaminate(row: Row, /, *, pool: Lent, rng: random.Random, **options: Any) -> str | Skip:
    """A reply from the pool, with the white space at both ends that this row's own reply has."""
    own = reply_of(row)
    if isinstance(own, Skip):
        return own
    before, core, after = edges(own)
    if not core:
        return Skip("empty")
    language = pool.language[core] if options["same_language"] else ""
    place = _drawn(pool, pool.asked[row.prompt_id], language, rng)
    if place is None:
        return Skip(NONE if pool.near is None else NONE_NEAR)
    text = pool.replies[place].text
    return before + (personal.mask(text) if options["mask"] else text) + after


def _drawn(pool: Lent, here: int, language: str, rng: random.Random) -> int | None:
    """The place of a reply that is wrong here: the first draw that is unrelated, else the least related one."""
    least, best = NEARLY_SAME, None
    for place in _draws(pool, here, rng):
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


def _draws(pool: Lent, here: int, rng: random.Random) -> Iterator[int]:
    if pool.near is not None:
        yield from rng.sample(near := pool.near[here], len(near))
        return
    count = len(pool.replies)
    if count <= _TRIES:
        yield from rng.sample(range(count), count)
        return
    for _ in range(_TRIES):
        yield rng.randrange(count)


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
        if isinstance(reply := reply_of(row), str):
            right[asked[row.prompt_id]].add(reply.strip())
    language = {text: lexicon.guess(text) for texts in right.values() for text in texts}
    replies = _usable(lenders, asked, language)
    if not replies and options["pool"]:
        raise SourceError(
            f"none of {len(lenders)} desirable rows has a reply that could be wrong anywhere",
            where=options["pool"],
            do="Replies such as `ok` or `thanks` suit any prompt: name another pool",
        )
    cores = {number: [words(text) for text in sorted(texts)] for number, texts in right.items()}
    lent = Lent(replies, Prompts(list(numbers)), asked, cores, language)
    if options["from"] == "similar":
        lent.near = _near(lent, sorted({asked[row.prompt_id] for row in desirable}), options["neighbours"])
    return lent


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
    whole=True,
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
