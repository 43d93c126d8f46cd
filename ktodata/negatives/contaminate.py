"""The strategy `contaminate`: a reply to somebody else's prompt.

Each reply is as good as any, so nothing in it gives it away; it is wrong only here. What might be right here too is
left out: replies to this prompt and to prompts that ask nearly the same, replies that say nearly the same as one of
those, and replies that suit any prompt.

Replies are dealt out, not drawn: each is lent as often as the next. A reply that is lent to many would be learnt as
such. All of that is done once, for all rows; workers are sent what their rows were dealt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ktodata import personal
from ktodata.errors import SourceError, UsageError
from ktodata.negatives.contamination.deal import deal
from ktodata.negatives.contamination.fits import NOBODY, Fits, Replies, Seats
from ktodata.negatives.contamination.near import spread
from ktodata.negatives.contamination.prompts import Prompts, last_said
from ktodata.negatives.contamination.replies import MANY, Shapes, is_generic, words_of
from ktodata.negatives.contamination.tongues import Tongues
from ktodata.negatives.contract import Option, Run, Skip, Strategy, reply_of
from ktodata.negatives.corruption.layout import edges
from ktodata.schema import Row, normalise

NONE = "no reply of another prompt that would be wrong here"
NONE_NEAR = "no reply of a similar prompt that would be wrong here"
NONE_SPOKEN = "no reply of another prompt in its language"
_NEIGHBOURS = 20
NO_MORE = "no reply left that it was not lent already"


@dataclasses.dataclass(frozen=True, slots=True)
class Lent:
    """What was dealt: replies by the id of the row, without white space at their ends, in the order of their turns.

    `none` is said of a row that was dealt none, unless it is one of `unspoken`: nobody else speaks its language.
    `digest` names what is in a pool of its own.
    """

    hands: Mapping[str, Sequence[str]]
    none: str = NONE
    unspoken: frozenset[str] = frozenset()
    digest: str = ""


def contaminate(row: Row, /, *, pool: Lent, rng: random.Random, turn: int = 0, **options: Any) -> str | Skip:
    """What the row was dealt, with the white space at both ends that its own reply has. Nothing is drawn here."""
    own = reply_of(row)
    if isinstance(own, Skip):
        return own
    before, core, after = edges(own)
    if not core:
        return Skip("empty")
    hand = pool.hands.get(row.id, ())
    if turn >= len(hand):
        return Skip(NO_MORE if hand else NONE_SPOKEN if row.id in pool.unspoken else pool.none)
    return before + (personal.mask(hand[turn]) if options["mask"] else hand[turn]) + after


def part(pool: Lent, rows: Iterable[Row]) -> Lent:
    """What some rows were dealt."""
    ids = {row.id for row in rows}
    hands = {row_id: pool.hands[row_id] for row_id in ids if row_id in pool.hands}
    return dataclasses.replace(pool, hands=hands, unspoken=pool.unspoken & ids)


def prepare(run: Run, **options: Any) -> Lent:
    """The replies that each row gets.

    Raises:
        SourceError: the pool cannot be read, or has no reply that could be wrong anywhere.
        UsageError: the pool would be overwritten, or is stdin.
    """
    similar = options["from"] == "similar"
    desirable = [row for row in run.rows if row.label]
    lenders = _read(options["pool"]) if options["pool"] else desirable
    said = _Said(desirable, lenders, same_language=options["same_language"])
    replies = said.replies()
    if not len(replies) and options["pool"]:
        raise SourceError(
            f"none of {len(lenders)} desirable rows has a reply that could be wrong anywhere",
            where=options["pool"],
            do="Replies such as `ok` or `thanks` suit any prompt: name another pool",
        )
    none = NONE_NEAR if similar else NONE
    ids = "\n".join(sorted(row.id for row in lenders)) if options["pool"] else ""
    digest = hashlib.sha256(ids.encode()).hexdigest() if ids else ""
    seats = said.seats(desirable, run.asked)
    if not len(seats) or not len(replies):
        return Lent({}, none, digest=digest)
    fits = said.fits(seats, replies, run.rows)
    rng = random.Random(f"{run.seed}/contaminate/{options['from']}")
    got = spread(fits, options["neighbours"] or _NEIGHBOURS, rng) if similar else deal(fits, rng)
    hands: dict[str, list[str]] = {}
    for row_id, reply in zip(seats.rows, got.tolist(), strict=True):
        if reply != NOBODY:
            hands.setdefault(row_id, []).append(replies.texts[reply])
    return Lent(hands, none, _unspoken(seats, replies, set(seats.rows).difference(hands)), digest)


def _unspoken(seats: Seats, replies: Replies, rows: Collection[str]) -> frozenset[str]:
    """Those of the rows whose language no reply is in, but replies to what they ask themselves, where others are."""
    kinds: dict[tuple[int, int], list[str]] = {}
    for row_id, here, tongue in zip(seats.rows, seats.here.tolist(), seats.tongue.tolist(), strict=True):
        if row_id in rows and tongue:
            kinds.setdefault((here, tongue), []).append(row_id)
    found: set[str] = set()
    for (here, tongue), ids in kinds.items():
        others = (replies.owners != here).all(axis=1)
        spoken = (replies.tongue == tongue) | (replies.tongue == 0)
        if others.any() and not (others & spoken).any():
            found.update(ids)
    return frozenset(found)


def facts(pool: Lent) -> Mapping[str, str]:
    """What was in a pool of its own, for the card: its path says little when the file changes."""
    return {"pool_sha256": pool.digest} if pool.digest else {}


class _Said:
    """What was said in the rows and in the pool, everything once: prompts, and replies by their normalised text."""

    def __init__(self, desirable: Sequence[Row], lenders: Sequence[Row], *, same_language: bool) -> None:
        asked = {row.prompt_id: last_said(row.prompt) for row in (*desirable, *lenders)}
        self.said = sorted(set(asked.values()))
        numbers = {text: number for number, text in enumerate(self.said)}
        self.asked = {prompt_id: numbers[text] for prompt_id, text in asked.items()}
        self.whole = {prompt_id: number for number, prompt_id in enumerate(sorted(asked))}
        self.own = _texts(desirable)
        theirs = self.own if lenders is desirable else _texts(lenders)
        keys = {text: normalise(text) for text in {*theirs.values(), *self.own.values()}}
        # Of two that differ in their capitals only, the same one whatever the order; the pool's before the file's.
        spelled = {keys[text]: text for some in (self.own, theirs) for text in sorted(set(some.values()), reverse=True)}
        self.lent: dict[str, set[int]] = {}
        for row in lenders:
            if row.id in theirs:
                self.lent.setdefault(keys[theirs[row.id]], set()).add(self.asked[row.prompt_id])
        self.keys_of_lenders = {row_id: keys[text] for row_id, text in theirs.items()}
        self.keys = {row_id: keys[text] for row_id, text in self.own.items()}
        self.spelled = dict(sorted(spelled.items()))
        self.cores = {key: words_of(key) for key in self.spelled}
        self.places = {key: place for place, key in enumerate(self.spelled)}
        self.tongues = Tongues(self.spelled if same_language else {})
        self._lenders = lenders

    def replies(self) -> Replies:
        """The different replies that can be lent: those that do not suit any prompt."""
        import numpy as np

        joined = {key: " ".join(self.cores[key]) for key in self.lent}
        times: dict[str, set[int]] = {}
        for key, prompts in self.lent.items():
            times.setdefault(joined[key], set()).update(prompts)
        usable = [
            key for key in sorted(self.lent) if len(times[joined[key]]) < MANY and not is_generic(self.cores[key])
        ]
        # What says too little is told from the prompt too, the first of those that got it.
        asked: dict[str, str] = {}
        for row in self._lenders if self.tongues.unsure else ():
            key = self.keys_of_lenders.get(row.id, "")
            if key in self.tongues.unsure:
                text = self.said[self.asked[row.prompt_id]]
                asked[key] = min(asked.get(key, text), text)
        return Replies(
            [self.spelled[key] for key in usable],
            usable,
            # One that more than two prompts got suits any, so there are no more than two columns.
            np.array([(min(self.lent[key]), max(self.lent[key])) for key in usable], dtype=np.int64).reshape(-1, 2),
            np.array([self.places[key] for key in usable], dtype=np.int64),
            np.array([self.tongues.of(key, asked.get(key, "")) for key in usable], dtype=np.int64),
        )

    def seats(self, desirable: Iterable[Row], asked: Mapping[str, int]) -> Seats:
        """A seat for each negative that is wanted of a row, those of one language together."""
        import numpy as np

        prompts = {row.id: row.prompt_id for row in desirable if row.id in self.keys}
        tongues = {
            row_id: self.tongues.of(self.keys[row_id], self.said[self.asked[prompt_id]])
            for row_id, prompt_id in prompts.items()
        }
        order = sorted(prompts, key=lambda row_id: (tongues[row_id], row_id))
        rows = [row_id for row_id in order for _ in range(asked.get(row_id, 0))]
        return Seats(
            rows,
            np.array([self.asked[prompts[row_id]] for row_id in rows], dtype=np.int64),
            np.array([self.whole[prompts[row_id]] for row_id in rows], dtype=np.int64),
            np.array([tongues[row_id] for row_id in rows], dtype=np.int64),
        )

    def fits(self, seats: Seats, replies: Replies, rows: Iterable[Row]) -> Fits:
        """What may be lent where. `rows` are all of the file: what a prompt has already is not lent to it."""
        import numpy as np

        right = sorted({(self.asked[row.prompt_id], self.places[self.keys[row.id]])
                        for row in rows if row.label and row.id in self.keys})  # fmt: skip
        heres = np.array([here for here, _ in right], dtype=np.int64)
        known = {key: reply for reply, key in enumerate(replies.keys)}
        taken = {
            self.whole[row.prompt_id] * len(replies) + known[text]
            for row in rows
            if not row.label and row.prompt_id in self.whole
            if isinstance(reply := reply_of(row), str) and (text := normalise(reply)) in known
        }
        return Fits(
            seats,
            replies,
            Prompts(self.said),
            Shapes(list(self.cores.values())),
            np.array([place for _, place in right], dtype=np.int64),
            np.searchsorted(heres, np.arange(len(self.said) + 1)),
            np.array(sorted(taken), dtype=np.int64),
        )


def _texts(rows: Iterable[Row]) -> dict[str, str]:
    """Replies by the id of their row, without white space at their ends; those that are nothing else left out."""
    replies = ((row.id, reply_of(row)) for row in rows)
    return {row_id: text for row_id, reply in replies if isinstance(reply, str) and (text := reply.strip())}


def _read(pool: str) -> list[Row]:
    from ktodata.unpair import unpair

    if pool == "-":
        raise UsageError("contaminate.pool is stdin", do="Name a file, a folder or a Hub id")
    rows = [row for row in unpair(pool, on_conflict="keep").rows if row.label]
    if not rows:
        raise SourceError("no desirable rows", where=pool, do="contaminate lends desirable replies")
    return rows


def _checked(options: Mapping[str, Any]) -> Strategy:
    if options["neighbours"] is not None and options["from"] != "similar":
        raise UsageError("contaminate.neighbours is for similar prompts", do="Add --set contaminate.from=similar")
    return CONTAMINATE


CONTAMINATE = Strategy(
    name="contaminate",
    summary="A reply to somebody else's prompt: a good one, but not here.",
    one=contaminate,
    prepare=prepare,
    part=part,
    facts=facts,
    whole=True,
    turns=True,
    variant=_checked,
    options={
        "pool": Option(
            kind="text",
            default="",
            reads=True,
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
            kind="int",
            default=None,
            optional=True,
            low=1,
            high=1000,
            help=f"With from=similar, how many prompts are drawn from; none is {_NEIGHBOURS}.",
        ),
        "same_language": Option(
            kind="bool", default=True, help="Only replies in the language of this one, of the 139 that py3langid knows."
        ),
        "mask": Option(
            kind="bool",
            default=True,
            help="Replace e-mail addresses, telephone, card, account, tax and identity numbers by made-up ones.",
        ),
    },
)
