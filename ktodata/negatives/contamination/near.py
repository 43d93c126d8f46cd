"""Replies of similar prompts, spread over the rows that may have them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
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
    return np.array(choice.got)


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

    def fill(self, order: Sequence[int]) -> None:
        """Give seats that have none what is lent least, and let all move to what is lent less by two."""
        for seat in order:
            if self.got[seat] == NOBODY and (free := self._free(seat)):
                self._give(seat, min(free, key=self.lent.__getitem__))
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
    keys = [clauses(text) for text in fits.replies.texts]
    by_prompt = [frozenset().union(*(keys[reply] for reply in replies)) for replies in mine]
    most = min(len(there), _LOOKED * neighbours)
    jitter = np.array([rng.random() for _ in there], dtype=np.float32)
    close: dict[int, list[int]] = {}
    for prompt, same, order in _ordered(fits, here, there, most, jitter):
        right: set[str] = set().union(*(by_prompt[place] for place in same))
        close[prompt] = _wrong((mine[place] for place in order), keys, right, neighbours)
    return _checked(fits, close, rng)


def _checked(fits: Fits, close: dict[int, list[int]], rng: random.Random) -> dict[int, list[int]]:
    """What is wrong also letter by letter, shuffled."""
    import numpy as np

    prompts = np.repeat(list(close), [len(replies) for replies in close.values()]).astype(np.int64)
    replies = np.array(list(itertools.chain.from_iterable(close.values())), dtype=np.int64)
    good = fits.wrong(prompts, replies)
    found: dict[int, list[int]] = {prompt: [] for prompt in close}
    for prompt, reply in zip(prompts[good].tolist(), replies[good].tolist(), strict=True):
        found[prompt].append(reply)
    for some in found.values():
        rng.shuffle(some)
    return found


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
        near = (block > 0) & (block < NEARLY_SAME)
        block *= _FINE
        same = block >= _FINE * NEARLY_SAME
        np.ceil(block, out=block)
        for line in range(len(block)):
            start = (begun * _STRIDE) % len(there)
            # Whole steps, and the jitter behind them; 0 for what is nearly the same or has nothing in common.
            band = (block[line] + twice[start : start + len(there)]) * near[line]
            top = np.argpartition(band, len(there) - most)[len(there) - most :]
            top = top[band[top] > 0]
            # Places settle what is left: argpartition's own order is not to be relied on.
            order = top[np.lexsort((top, -band[top]))].tolist()
            yield here[begun], np.flatnonzero(same[line]).tolist(), order
            begun += 1


def _wrong(prompts: Iterator[list[int]], keys: Sequence[frozenset[str]], right: set[str], neighbours: int) -> list[int]:
    """The replies of the first so many prompts that have any which is not right here."""
    chosen: list[int] = []
    count = 0
    for replies in prompts:
        wrong = [reply for reply in replies if keys[reply].isdisjoint(right)]
        chosen += wrong
        count += bool(wrong)
        if count == neighbours:
            break
    return list(dict.fromkeys(chosen))
