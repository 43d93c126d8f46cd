"""Replies dealt out like cards: each as often as the next, wherever what is wrong for a row permits.

First every language gets as many cards as it has seats, then the cards are shuffled, and a card that may be right where
it fell changes places with another. What is left is settled one by one, by a search for a chain of rows that pass their
cards on, to the reply that was lent least (optimal semi-matching: Harvey, Ladner, Lovász and Tamir, "Semi-matchings for
bipartite graphs and load balancing", J. Algorithms 59, 2006).
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from ktodata.negatives.contamination.fits import NEARLY_SAME, NOBODY, UNRELATED, Fits

_LIMITS = (UNRELATED, 0.35, NEARLY_SAME)  # how similar prompts may be: the less related the better
_ROUNDS = 24  # of exchanges for each limit
_IDLE = 6  # rounds in a row without any, after which there are no more
_CHAIN = 60  # rows that are asked to pass their card on for one seat
_CELLS = 40_000_000  # pairs of a seat and a reply that the search may look at: some seconds
_ASKED = 512  # rows that are asked for one reply that was lent too little
_COSTLY = 50  # pairs of `Fits.all_of` that cost as much as one of `Fits.pairs`
_GUESSES = 64  # replies that are tried where the search is given up


def deal(fits: Fits, rng: random.Random) -> Any:
    """A reply for each seat, or `NOBODY`: an array of int. Seats of one language must stand together.

    Of one prompt no two seats get the same reply.
    """
    import numpy as np

    tongue = fits.seats.tongue
    decks = {int(code): np.flatnonzero(fits.replies.tongue == code).tolist() for code in np.unique(fits.replies.tongue)}
    got = np.full(len(fits.seats), NOBODY)
    wanted = Counter(tongue.tolist())
    for code, cards in sorted(cards_of(wanted, decks, rng).items()):
        (places,) = np.nonzero(tongue == code)
        got[rng.sample(places.tolist(), len(cards))] = cards
    bad = _exchanged(fits, got, rng)
    _settled(fits, got, bad, rng)
    return got


def cards_of(wanted: Mapping[int, int], decks: Mapping[int, Sequence[int]], rng: random.Random) -> dict[int, list[int]]:
    """Replies for so many seats of each language, each reply as often as the next as far as languages permit.

    Language 0 is none: its seats take any reply, and its replies go to any seat. A language without any reply to lend
    gets none.
    """
    shared = list(decks.get(0, ()))
    own = {code: list(decks.get(code, ())) for code in wanted if code}
    left = {code: wanted[code] if own[code] or shared else 0 for code in own}
    cards: dict[int, list[int]] = {code: [] for code in wanted}

    def take(code: int, some: list[int]) -> None:
        cards[code] += some
        left[code] -= len(some)

    def need(code: int) -> float:
        return left[code] / len(own[code]) if own[code] else float(left[code] > 0) * 1e18

    while any(left.values()):  # one round more for every reply
        for code in sorted(own):
            take(code, rng.sample(own[code], min(left[code], len(own[code]))))
        for card in rng.sample(shared, len(shared)):
            code = max(left, key=need)
            take(code, [card] if left[code] else [])
    cards[0] = _least_lent(decks, cards, wanted.get(0, 0), rng)
    return cards


def _least_lent(
    decks: Mapping[int, Sequence[int]], cards: Mapping[int, Sequence[int]], count: int, rng: random.Random
) -> list[int]:
    """So many replies of any language, those first that were lent least."""
    lent = Counter(card for some in cards.values() for card in some)
    by_times: dict[int, list[int]] = {}
    for card in sorted(card for deck in decks.values() for card in deck):
        by_times.setdefault(lent[card], []).append(card)
    found: list[int] = []
    low: list[int] = []
    times = min(by_times, default=0)
    while by_times and len(found) < count:
        low += by_times.get(times, [])
        found += rng.sample(low, min(len(low), count - len(found)))
        times += 1
    return found


def _exchanged(fits: Fits, got: Any, rng: random.Random) -> list[int]:
    """Let cards that may be right where they are change places with others of the language, each still lent as often.

    Returns the seats whose cards had to stay.
    """
    import numpy as np

    tongue = fits.seats.tongue
    first = np.searchsorted(tongue, tongue, "left")
    size = np.searchsorted(tongue, tongue, "right") - first
    held = Counter(fits.keys(np.arange(len(got)), got).tolist())
    bad = np.flatnonzero(got != NOBODY)
    for limit in _LIMITS:
        single = np.array([held[key] == 1 for key in fits.keys(bad, got[bad]).tolist()], dtype=bool)
        bad = bad[~(single & fits.pairs(bad, got[bad], limit))]
        idle = 0
        for _ in range(_ROUNDS):
            if not len(bad):
                return []
            if idle == _IDLE:
                break
            others = first[bad] + np.array([rng.randrange(most) for most in size[bad].tolist()])
            fine = got[others] != NOBODY
            fine[fine] = fits.pairs(bad[fine], got[others[fine]], limit)
            fine[fine] = fits.pairs(others[fine], got[bad[fine]], limit)
            moved = _swap(fits, got, held, bad[fine].tolist(), others[fine].tolist())
            bad = bad[~np.isin(bad, moved)]
            idle = 0 if moved else idle + 1
    return [int(seat) for seat in bad]


def _swap(fits: Fits, got: Any, held: Counter[int], ones: list[int], others: list[int]) -> list[int]:
    """Exchange cards between seats, where no prompt gets one twice; the seats that have another now."""
    moved: set[int] = set()
    for one, other in zip(ones, others, strict=True):
        if one in moved or other in moved:
            continue
        before = [int(fits.keys(seat, got[seat])) for seat in (one, other)]
        after = [int(fits.keys(seat, card)) for seat, card in ((one, got[other]), (other, got[one]))]
        if after[0] == after[1] or held[after[0]] or held[after[1]]:
            continue
        held.subtract(before)
        held.update(after)
        got[one], got[other] = got[other], got[one]
        moved |= {one, other}
    return sorted(moved)


def _settled(fits: Fits, got: Any, bad: Sequence[int], rng: random.Random) -> None:
    """Find replies for the seats that have none that fits, and lend replies more that were lent less than others."""
    import numpy as np

    got[list(bad)] = NOBODY
    search = _Search(fits, got)
    for seat in np.flatnonzero(got == NOBODY).tolist():
        search.fill(seat, rng)
    search.level()


class _Search:
    """Chains of rows that pass their cards on, each look at a row's replies counted against `_CELLS`."""

    def __init__(self, fits: Fits, got: Any) -> None:
        import numpy as np

        self.fits, self.got, self.left = fits, got, _CELLS
        self.lent = np.bincount(got[got != NOBODY], minlength=len(fits.replies))
        self.holders: dict[int, set[int]] = {}
        self.of_prompt: dict[int, set[int]] = {}
        for seat, card in enumerate(got.tolist()):
            self.of_prompt.setdefault(int(fits.seats.prompt[seat]), set()).add(seat)
            if card != NOBODY:
                self.holders.setdefault(card, set()).add(seat)
        self._hopeless: set[tuple[int, int]] = set()

    def fill(self, seat: int, rng: random.Random) -> None:
        """Give a reply to a seat that has none: the one lent least of those that chains can make free."""
        import numpy as np

        seats = self.fits.seats
        # Of rows that ask the same in the same language, the first that finds nothing finds it out for all.
        kind = (int(seats.here[seat]), int(seats.tongue[seat]))
        if kind in self._hopeless:
            return
        if self.left > 0 and not self._open_to(seat, whole=True).any():
            self._hopeless.add(kind)
            return
        came: dict[int, int] = {}
        seen = np.zeros(len(self.fits.replies), dtype=bool)
        best, asked, waiting = NOBODY, 0, deque([seat])
        while waiting and asked < _CHAIN and self.left > 0:
            giver = waiting.popleft()
            asked += 1
            new = np.flatnonzero(self._open_to(giver) & ~seen)
            if not len(new):
                continue
            seen[new] = True
            came |= dict.fromkeys(new.tolist(), giver)
            least = int(new[np.argmin(self.lent[new])])
            if best == NOBODY or self.lent[least] < self.lent[best]:
                best = least
            if self.lent[best] == self.lent.min():
                break
            holders = (holder for card in new[:_CHAIN].tolist() for holder in sorted(self.holders.get(card, ())))
            waiting.extend(list(holders)[:_CHAIN])
        if best == NOBODY:
            if self.left <= 0:
                self._guess(seat, rng)
            return
        card = best
        while True:
            giver = came[card]
            passed = int(self.got[giver])
            self._give(giver, card)
            if giver == seat:
                return
            card = passed

    def level(self) -> None:
        """Lend what was lent less than others to a row that has what was lent more, as long as there is one."""
        import numpy as np

        for card in np.argsort(self.lent, kind="stable").tolist():
            while self.left > 0 and len(self.got) and self.lent[card] + 2 <= self.lent.max():
                (seats,) = np.nonzero(self.got != NOBODY)
                more = self.lent[self.got[seats]] >= self.lent[card] + 2
                seats = seats[more & self.fits.spoken(seats, np.full(len(seats), card))]
                seats = seats[np.argsort(-self.lent[self.got[seats]], kind="stable")][:_ASKED]
                self.left -= _COSTLY * len(seats)
                fine = seats[self.fits.pairs(seats, np.full(len(seats), card))].tolist()
                free = [seat for seat in fine if not self._has(int(self.fits.seats.prompt[seat]), card)]
                if not free:
                    break
                self._give(free[0], card)

    def _open_to(self, seat: int, *, whole: bool = False) -> Any:
        """Whether each reply may be lent in a seat and, but for `whole`, no other of its prompt has it."""
        here = int(self.fits.seats.here[seat])
        # Replies that are right here cost more, unless what is like them is kept.
        right = int(self.fits.begins[here + 1] - self.fits.begins[here])
        self.left -= len(self.fits.replies) * max(1, min(right, 256) // 10)
        good = self.fits.all_of(seat)
        if whole:
            return good
        others = [int(self.got[other]) for other in self.of_prompt[int(self.fits.seats.prompt[seat])]]
        good[[card for card in others if card != NOBODY]] = False
        return good

    def _guess(self, seat: int, rng: random.Random) -> None:
        """The first of some replies that fits."""
        import numpy as np

        cards = np.array(rng.sample(range(len(self.fits.replies)), min(_GUESSES, len(self.fits.replies))))
        prompt = int(self.fits.seats.prompt[seat])
        for card in cards[self.fits.pairs(np.full(len(cards), seat), cards)].tolist():
            if not self._has(prompt, card):
                self._give(seat, card)
                return

    def _has(self, prompt: int, card: int) -> bool:
        return any(self.got[seat] == card for seat in self.of_prompt[prompt])

    def _give(self, seat: int, card: int) -> None:
        before = int(self.got[seat])
        if before != NOBODY:
            self.lent[before] -= 1
            self.holders[before].discard(seat)
        self.got[seat] = card
        self.lent[card] += 1
        self.holders.setdefault(card, set()).add(seat)
