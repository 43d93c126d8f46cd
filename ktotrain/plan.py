"""The plan: which rows form each optimizer step, in which order, and which pairs are mismatched.

All of it is known before anything runs, and is a pure function of the rows' prompts and labels, the seed, the epoch
and the batch size. Length, packs, processes and devices have no part in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from itertools import count

import numpy as np
import numpy.typing as npt

from ktotrain.mixing import mix_steps
from ktotrain.pairing import mismatched_pairs


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    `rows` index the training rows. `pairs` are the mismatched ones: (place within `rows`, training row), where the
    row at that place lends its prompt and the training row its completion. There are none if all rows share one
    prompt. `epoch` counts from 0.
    """

    rows: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    epoch: int


def plan_epoch(
    prompts: Sequence[int], labels: Sequence[bool], *, batch_size: int, seed: int, epoch: int, shuffle: bool
) -> list[Step]:
    """The steps of one epoch; only the last may have fewer than `batch_size` rows.

    Args:
        prompts: the prompt group of each row.
        labels: True for desirable rows.
        shuffle: False keeps the exact file order.
    """
    if shuffle:
        rng = np.random.default_rng([seed, epoch])
        dealt = _Dealer(np.asarray(prompts), np.asarray(labels, dtype=bool), rng).deal(batch_size)
        chunks = mix_steps(dealt, prompts, labels, seed=int(rng.integers(2**32)))
    else:
        order = range(len(prompts))
        chunks = [list(order[start : start + batch_size]) for start in range(0, len(prompts), batch_size)]
    return [Step(tuple(rows), _pairs(rows, prompts), epoch) for rows in chunks]


def plan_run(
    prompts: Sequence[int],
    labels: Sequence[bool],
    *,
    batch_size: int,
    seed: int,
    shuffle: bool,
    epochs: int,
    max_steps: int,
    pair_share: float = 1.0,
    fixed_pairs: bool = False,
) -> list[Step]:
    """The steps of a whole run: `epochs` epochs, or exactly `max_steps` steps if that is over 0.

    Args:
        pair_share: the share of mismatched pairs that is kept, at least one a step, evenly spread over its rows.
        fixed_pairs: every epoch's rows keep the partners of the first, wherever those are now.
    """
    steps: list[Step] = []
    partners: _Partners | None = None
    for epoch in count() if max_steps else range(epochs):
        planned = plan_epoch(prompts, labels, batch_size=batch_size, seed=seed, epoch=epoch, shuffle=shuffle)
        shared = [dataclasses.replace(step, pairs=_share(step.pairs, pair_share)) for step in planned]
        if partners:
            shared = partners.given_to(planned, pair_share)
        elif fixed_pairs:
            partners = _Partners.of(planned, shared)
        steps += shared
        if max_steps and len(steps) >= max_steps:
            return steps[:max_steps]
    return steps


@dataclasses.dataclass(frozen=True, slots=True)
class _Partners:
    """With whom each row was paired in the first epoch, and the rows whose pairs were kept."""

    every: dict[int, int]
    kept: frozenset[int]

    @classmethod
    def of(cls, planned: Sequence[Step], shared: Sequence[Step]) -> _Partners:
        """The pairs of an epoch's steps, as planned and as far as they were kept."""
        every = {step.rows[place]: lender for step in planned for place, lender in step.pairs}
        return cls(every, frozenset(step.rows[place] for step in shared for place, _ in step.pairs))

    def given_to(self, planned: Sequence[Step], share: float) -> list[Step]:
        """The steps of another epoch with the same rows paired, with the same partners.

        A step that has none of the rows whose pairs were kept takes what `share` leaves it of all its rows' pairs.
        """
        steps = []
        for step in planned:
            pairs = tuple((place, self.every[row]) for place, row in enumerate(step.rows) if row in self.every)
            some = tuple(pair for pair in pairs if step.rows[pair[0]] in self.kept)
            steps.append(dataclasses.replace(step, pairs=some or _share(pairs, share)))
        return steps


def _pairs(rows: Sequence[int], prompts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The step's own mismatched pairs, by rotation."""
    places = mismatched_pairs([prompts[row] for row in rows])
    return tuple((place, rows[other]) for place, other in enumerate(places))


def _share(pairs: tuple[tuple[int, int], ...], share: float) -> tuple[tuple[int, int], ...]:
    """So many of the pairs, evenly spread."""
    kept = math.ceil(share * len(pairs))
    return tuple(pairs[place * len(pairs) // kept] for place in range(kept))


class _Dealer:
    """Deals shuffled prompt groups into steps that hold both classes, or nearly all do: see `mixing` for the rest.

    A group lies together; only the last group of a step may go on in the next one. Groups with a row of the rarer
    class ("bearing") are dealt out so that each step gets its share of such rows, and at least one as long as there
    are enough. Within a step the order of the groups is random again.
    """

    def __init__(self, prompts: npt.NDArray[np.int_], labels: npt.NDArray[np.bool_], rng: np.random.Generator) -> None:
        self.rng = rng
        self.rare = labels == bool(labels.sum() * 2 < len(labels))
        self.carried: list[int] = []
        self.bearing: deque[list[int]] = deque()
        self.plain: deque[list[int]] = deque()
        groups: dict[int, list[int]] = {}
        for row in rng.permutation(len(prompts)).tolist():
            groups.setdefault(int(prompts[row]), []).append(row)
        for group in groups.values():
            (self.bearing if self.rare[group].any() else self.plain).append(group)

    def deal(self, batch_size: int) -> list[list[int]]:
        """All steps of the epoch, as row indices."""
        steps = []
        left, left_rare = len(self.rare), int(self.rare.sum())
        while left:
            size, steps_left = min(batch_size, left), -(-left // batch_size)
            # In proportion; at least one while any is left, but one kept back for each later step.
            share = min(round(left_rare * size / left), left_rare - (steps_left - 1))
            rows = self._step(size, max(share, min(left_rare, 1)), scarce=len(self.bearing) < steps_left)
            left, left_rare = left - size, left_rare - self._rare_rows(rows)
            steps.append(rows)
        return steps

    def _step(self, size: int, target: int, *, scarce: bool) -> list[int]:
        """`size` rows, `target` of them rare (more if groups are large)."""
        rows, self.carried = self.carried[:size], self.carried[size:]
        room, missing = size - len(rows), target - self._rare_rows(rows)
        last = self._straddler() if scarce and missing > 0 and room else []
        if last:
            chosen = self._draw(room - 1, 0, whole=True)
            if sum(map(len, chosen)) + len(last) < room:  # too short to reach the end: an ordinary group after all
                chosen.append(last)
                last = []
        else:
            chosen = []
        if not last:
            chosen += self._draw(room - sum(map(len, chosen)), missing if not chosen else 0, whole=False)
            if sum(map(len, chosen)) > room:
                last = chosen.pop()
        # Drawn in order of need, so shuffled again: neighbours lend each other completions.
        for index in self.rng.permutation(len(chosen)):
            rows += chosen[index]
        room = size - len(rows)
        self.carried += last[room:]
        return rows + last[:room]

    def _draw(self, room: int, missing: int, *, whole: bool) -> list[list[int]]:
        """Groups that fill `room`, the first ones with `missing` rare rows; the last may exceed it unless `whole`."""
        chosen: list[list[int]] = []
        while room > 0 and (self.bearing or self.plain):
            queue = self.bearing if (missing > 0 and self.bearing) or not self.plain else self.plain
            if whole and (queue is self.bearing or len(queue[0]) > room):
                break
            chosen.append(queue.popleft())
            room -= len(chosen[-1])
            missing -= self._rare_rows(chosen[-1])
        return chosen

    def _straddler(self) -> list[int]:
        """A group to lie across a step's end so that both steps get a rare row, or nothing.

        Where such groups are fewer than the steps that need one, each that holds two rare rows can serve two steps.
        """
        if not self.bearing or self._rare_rows(self.bearing[0]) < 2:
            return []
        group = sorted(self.bearing.popleft(), key=lambda row: not self.rare[row])
        return [group[0], *group[2:], group[1]]

    def _rare_rows(self, rows: list[int]) -> int:
        return int(self.rare[rows].sum())
