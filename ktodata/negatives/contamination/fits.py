"""Which replies are wrong for which rows: all pairs that `contaminate` thinks of are asked about here, many at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ktodata.negatives.contamination.prompts import Prompts
from ktodata.negatives.contamination.replies import Shapes

NEARLY_SAME = 0.5  # similarity of prompts from which a reply to one may be right for the other
UNRELATED = 0.2  # and up to which they have nothing to do with each other
_KEPT = 256  # replies that are right for a prompt from which on what says the same is kept
NOBODY = -1  # in the place of a reply: there is none


@dataclasses.dataclass(frozen=True, slots=True)
class Seats:
    """Negatives that are wanted, a seat each; arrays of one number a seat.

    `rows` has the ids of their rows, `here` what is asked there, as a place in `Prompts`, `prompt` a number of the
    whole prompt, `tongue` that of the row's language (0: none, or any will do).
    """

    rows: Sequence[str]
    here: Any
    prompt: Any
    tongue: Any

    def __len__(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True, slots=True)
class Replies:
    """What can be lent; arrays of one number a reply. `texts` are without white space at their ends, `keys` normalised.

    `owners`, of shape (replies, 2), are the prompts that got it (one of them twice if it is the only one), `shape` its
    place in `Shapes`, `tongue` its language (0: none that is known).
    """

    texts: Sequence[str]
    keys: Sequence[str]
    owners: Any
    shape: Any
    tongue: Any

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True, slots=True)
class Fits:
    """Whether a reply is wrong in a seat, and in its language.

    `right` are the places in `Shapes` of all replies that are right for some prompt, one prompt's after another's, and
    prompt p's begin at `begins[p]`; `taken` are the pairs (number of a prompt, reply) that its rows have already, as
    `prompt * len(replies) + reply`.
    """

    seats: Seats
    replies: Replies
    prompts: Prompts
    shapes: Shapes
    right: Any
    begins: Any
    taken: Any
    _kept: dict[int, Any] = dataclasses.field(default_factory=dict)

    def pairs(self, seats: Any, replies: Any, limit: float = NEARLY_SAME) -> Any:
        """For each pair of a seat and a reply, whether it may be lent there: an array of bool.

        It must be `wrong` there, in the seat's language, and nothing that the prompt has already.
        """
        import numpy as np

        good = self.spoken(seats, replies) & ~np.isin(self.keys(seats, replies), self.taken)
        good[good] = self.wrong(self.seats.here[seats[good]], replies[good], limit)
        return good

    def wrong(self, here: Any, replies: Any, limit: float = NEARLY_SAME) -> Any:
        """For each pair of a prompt and a reply, whether it is plainly wrong there: an array of bool.

        The prompts that got it must be less similar than `limit`, and no reply that the prompt has may say nearly the
        same.
        """
        import numpy as np

        owners = self.replies.owners[replies]
        good = (owners != here[:, None]).all(axis=1)
        for owner in (0, 1):
            (left,) = np.nonzero(good & (owner == 0 or owners[:, 0] != owners[:, 1]))
            good[left] = self.prompts.cosines(here[left], owners[left, owner]) < limit
        (left,) = np.nonzero(good)
        many = self.begins[here[left] + 1] - self.begins[here[left]] > _KEPT
        for one in np.unique(here[left[many]]).tolist():
            (pair,) = np.nonzero(good & (here == one))
            good[pair] = ~self._alike_to(one)[replies[pair]]
        left = left[~many]
        begins = self.begins[here[left]]
        counts = self.begins[here[left] + 1] - begins
        pair = np.repeat(left, counts)
        right = self.right[np.arange(len(pair)) + np.repeat(begins - np.cumsum(counts) + counts, counts)]
        good[pair[self.shapes.alike(right, self.replies.shape[replies[pair]])]] = False
        return good

    def all_of(self, seat: int) -> Any:
        """For one seat, whether each reply may be lent there: an array of bool."""
        import numpy as np

        here = self.seats.here[seat]
        everywhere = np.full(len(self.replies), seat)
        good = self.spoken(everywhere, np.arange(len(self.replies)))
        similar = self.prompts.to_all(here)
        similar[here] = 1.0
        good &= (similar[self.replies.owners] < NEARLY_SAME).all(axis=1)
        good &= ~np.isin(self.keys(everywhere, np.arange(len(self.replies))), self.taken)
        (left,) = np.nonzero(good)
        if self.begins[here + 1] - self.begins[here] > _KEPT:
            good[left] = ~self._alike_to(here)[left]
        else:
            good[left] = ~self.shapes.alike_any(self._right_of(here), self.replies.shape[left])
        return good

    def _right_of(self, here: int) -> Any:
        return self.right[self.begins[here] : self.begins[here + 1]]

    def _alike_to(self, here: int) -> Any:
        """Whether each reply says nearly the same as one that is right for a prompt; found out once."""
        if here not in self._kept:
            self._kept[here] = self.shapes.alike_any(self._right_of(here), self.replies.shape)
        return self._kept[here]

    def keys(self, seats: Any, replies: Any) -> Any:
        """A number for each pair of a seat's prompt and a reply."""
        return self.seats.prompt[seats] * len(self.replies) + replies

    def spoken(self, seats: Any, replies: Any) -> Any:
        """Whether each reply is in its seat's language, as far as both are known."""
        here, there = self.seats.tongue[seats], self.replies.tongue[replies]
        return (here == 0) | (there == 0) | (here == there)
