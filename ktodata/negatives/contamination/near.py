"""Replies of similar prompts, spread over the rows that may have them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ktodata.negatives.contamination.fits import NEARLY_SAME, NOBODY, Fits
from ktodata.negatives.contamination.replies import clauses

_FINE = 200  # steps of similarity: what differs by less is equally similar, and the seed decides
_STRIDE = 7919  # a prime: from one prompt to the next, the jitter moves on by so many places
_LOOKED = 4  # times as many prompts are looked at as are drawn from
_MOVES = 3  # passes in which rows leave what is lent more often for what is lent less


def spread(fits: Fits, neighbours: int, rng: random.Random) -> Any:
    """A reply of a similar prompt for each seat, or `NOBODY`: an array of int.

    Each seat takes, of the replies of so many `neighbours`, what is lent least.
    """
    import numpy as np

    choice = _Choice(fits, near(fits, sorted(set(fits.seats.here.tolist())), neighbours, rng))
    order = rng.sample(range(len(fits.seats)), len(fits.seats))
    # Those with little choice first: the others can still get out of their way.
    order.sort(key=lambda seat: len(choice.of(seat)))
    choice.fill(order)
    choice.even(order)
    # What seats took is compared letter by letter, which for all that they may take would be ten times as much.
    new = order
    while new:
        seats = np.array([seat for seat in new if choice.got[seat] != NOBODY], dtype=np.int64)
        good = fits.pairs(seats, np.array([choice.got[seat] for seat in seats.tolist()], dtype=np.int64))
        new = seats[~good].tolist()
        for seat in new:
            choice.refuse(seat)
        choice.fill(new)
    return np.array(choice.got, dtype=np.int64)


class _Choice:
    """What each seat may have, what it has, and how often each reply is lent."""

    def __init__(self, fits: Fits, close: dict[int, list[int]]) -> None:
        self.here, self.tongue = fits.seats.here.tolist(), fits.seats.tongue.tolist()
        self.prompt, self.spoken = fits.seats.prompt.tolist(), fits.replies.tongue.tolist()
        self.got = [NOBODY] * len(self.here)
        self.lent = [0] * len(fits.replies)
        self.has: dict[int, set[int]] = {prompt: set() for prompt in self.prompt}
        for prompt, card in (divmod(key, len(fits.replies)) for key in fits.taken.tolist()):
            self.has.setdefault(prompt, set()).add(card)
        self._close = close
        self._known: dict[tuple[int, int], list[int]] = {}

    def of(self, seat: int) -> list[int]:
        """The replies that a seat may have."""
        key = self.here[seat], self.tongue[seat]
        if key not in self._known:
            tongue, close = key[1], self._close[key[0]]
            self._known[key] = [card for card in close if not tongue or self.spoken[card] in (0, tongue)]
        return self._known[key]

    def fill(self, order: Iterable[int]) -> None:
        """Give seats what is lent least."""
        for seat in order:
            if free := self._free(seat):
                self._give(seat, min(free, key=self.lent.__getitem__))

    def even(self, order: Sequence[int]) -> None:
        """Let seats move to what is lent less by two."""
        for _ in range(_MOVES):
            moved = False
            for seat in order:
                before = self.got[seat]
                if before == NOBODY or self.lent[before] < 2 or not (free := self._free(seat)):
                    continue
                best = min(free, key=self.lent.__getitem__)
                if self.lent[best] + 2 <= self.lent[before]:
                    self._give(seat, best)
                    moved = True
            if not moved:
                break

    def refuse(self, seat: int) -> None:
        """Take from a seat what may be right there; no seat that asks the same in the language gets it from now on."""
        card = self.got[seat]
        if card in self.of(seat):
            self.of(seat).remove(card)
        self._give(seat, NOBODY)

    def _free(self, seat: int) -> list[int]:
        has = self.has[self.prompt[seat]]
        return [card for card in self.of(seat) if card not in has] if has else self.of(seat)

    def _give(self, seat: int, card: int) -> None:
        before, has = self.got[seat], self.has[self.prompt[seat]]
        if before != NOBODY:
            self.lent[before] -= 1
            has.discard(before)
        if card != NOBODY:
            self.lent[card] += 1
            has.add(card)
        self.got[seat] = card


def near(fits: Fits, here: Sequence[int], neighbours: int, rng: random.Random) -> dict[int, list[int]]:
    """For each prompt of `here`, the replies of the most similar prompts that do not ask nearly the same, shuffled.

    A reply that has a clause in common with a reply of a nearly equal prompt may be right here, and is left out.
    """
    import numpy as np

    owners: dict[int, list[int]] = {}
    for reply, (one, other) in enumerate(fits.replies.owners.tolist()):
        owners.setdefault(one, []).append(reply)
        if other != one:
            owners.setdefault(other, []).append(reply)
    there = sorted(owners)
    mine = [owners[prompt] for prompt in there]
    keys = [clauses(text) for text in fits.replies.keys]
    by_prompt = [frozenset().union(*(keys[reply] for reply in replies)) for replies in mine]
    jitter = np.array([rng.random() for _ in there], dtype=np.float32)
    close: dict[int, list[int]] = {}
    for prompt, same, order in _ordered(fits, here, there, _LOOKED * neighbours, jitter):
        right: set[str] = set().union(*(by_prompt[place] for place in same))
        close[prompt] = _wrong(order, mine, keys, by_prompt, right, neighbours)
        rng.shuffle(close[prompt])
    return close


def _ordered(
    fits: Fits, here: Sequence[int], there: Sequence[int], most: int, jitter: Any
) -> Iterator[tuple[int, list[int], list[int]]]:
    """Each prompt, the places in `there` of those that ask nearly the same, and of the most similar others in order.

    `jitter`, a number in [0, 1) a place, says which of equally similar prompts comes first: it is rolled on from prompt
    to prompt, or the same few would be near to many.
    """
    import numpy as np

    twice, begun = np.concatenate([jitter, jitter]), 0
    for block in fits.prompts.blocks(here, there):
        for line in block:
            moved = twice[(begun * _STRIDE) % len(there) :]
            # With those alone that have something in common: partitioning a line of zeros takes ten times as long.
            (close,) = np.nonzero(line)
            similar = line[close]
            same = close[similar >= NEARLY_SAME].tolist()
            close, similar = close[similar < NEARLY_SAME], similar[similar < NEARLY_SAME]
            # Whole steps, and the jitter behind them.
            far = -(np.ceil(similar * _FINE) + moved[close])
            top = np.argpartition(far, most)[:most] if len(close) > most else np.arange(len(close))
            # Places settle what is left: argpartition's own order is not to be relied on.
            order = close[top[np.lexsort((top, far[top]))]].tolist()
            yield here[begun], same, order
            begun += 1


def _wrong(
    order: Iterable[int],
    mine: Sequence[list[int]],
    keys: Sequence[frozenset[str]],
    by_prompt: Sequence[frozenset[str]],
    right: set[str],
    neighbours: int,
) -> list[int]:
    """The replies of the first so many prompts that have any which is not right here."""
    chosen: dict[int, None] = {}
    count = 0
    for place in order:
        wrong = mine[place]
        if not by_prompt[place].isdisjoint(right):
            wrong = [reply for reply in wrong if keys[reply].isdisjoint(right)]
        chosen |= dict.fromkeys(wrong)
        count += bool(wrong)
        if count == neighbours:
            break
    return list(chosen)
