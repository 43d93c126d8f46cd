"""Sampling whose draws depend on a request's own seed and nothing else: not on its batch, its place in it, the device.

Adding independent Gumbel noise to log-probabilities and taking the largest is a draw from them (the Gumbel-max trick).
The noise for token `v` at place `p` of a reply is a hash of (seed, p, v): so no generator has a state that batches
could share, and static and continuous batching draw the same. What is left to differ between batches are the logits
themselves, by rounding: about 1e-6 in float32, 1e-2 in bfloat16, and only where the two best tokens are that close does
a reply change. Longest-first batches cut from the whole list of requests (`ktodata.generate.transformers`) exclude that
too, for runs of the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ktodata.generate.contract import Sampling

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF
_REACH = 20.0  # noise lies between -2.82 and 16.64: no token that is further behind the best can win


def counters(seed: int, place: int) -> tuple[int, int]:
    """Two numbers below 2**31 for one place of a reply: what `gumbel` hashes with every token."""
    digest = hashlib.blake2b(f"{seed}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4]) >> 1, int.from_bytes(digest[4:]) >> 1


def gumbel(counters_B2: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise, [B, vocabulary], float32, from the counters [B, 2] of each row.

    Uniform numbers come in steps of 2**-23, which float32 holds exactly, so none is 0 or 1 and all noise is finite.
    """
    import torch

    tokens = torch.arange(vocabulary, device=counters_B2.device, dtype=torch.int64)
    first, second = counters_B2.to(torch.int64).unbind(1)
    return _noise(tokens[None], first[:, None], second[:, None])


def _noise(tokens: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The noise of tokens by the two counters of their row, all int64 and of shapes that go together."""
    bits = _mixed(_mixed((tokens * 0x9E3779B1 + first) & _MASK) ^ second)
    uniform = ((bits >> 9).float() + 0.5) * 2.0**-23
    return -(-uniform.log()).log()


def _mixed(x: Tensor) -> Tensor:
    """An integer hash of 32 bits (Wellons' lowbias32), in int64 so that every device has it."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


class SeededChoice:
    """A logits processor that makes the largest score a draw. Comes last, before a greedy choice.

    Row i of a batch draws by `seeds[i]`; `start` is the length of the (padded) prompts.
    """

    def __init__(self, seeds: Sequence[int], start: int) -> None:
        self.seeds, self.start = seeds, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        place = input_ids.shape[1] - self.start
        first, second = torch.tensor([counters(seed, place) for seed in self.seeds], device=scores.device).unbind(1)
        scores = scores.float()
        # Of a large vocabulary that top_p has cut most are out of reach: the same draw at a tenth of the time.
        rows, tokens = (scores > scores.amax(1, keepdim=True) - _REACH).nonzero(as_tuple=True)
        drawn = torch.full_like(scores, -torch.inf)
        drawn[rows, tokens] = scores[rows, tokens] + _noise(tokens, first[rows], second[rows])
        return drawn


class UnpaddedRepetition:
    """transformers' repetition penalty, which would take the padding of a shorter prompt for a token that was said.

    `padding[i]` is how many positions at the beginning of row i are padding.
    """

    def __init__(self, penalty: float, padding: Sequence[int]) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        self.inner, self.padding = RepetitionPenaltyLogitsProcessor(penalty), padding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        padding = torch.tensor(self.padding, device=input_ids.device)[:, None]
        first = input_ids.gather(1, padding)  # the first token that is none: it is penalised anyway
        penalised: Tensor = self.inner(torch.where(places[None] < padding, first, input_ids), scores)
        return penalised


def warpers(sampling: Sampling) -> list[Callable[..., Any]]:
    """What the distribution goes through before the draw, in transformers' order; the repetition penalty not."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    found: list[Callable[..., Any]] = []
    if sampling.temperature not in (0.0, 1.0):
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(float(sampling.top_p)))
    if sampling.min_p > 0:
        found.append(MinPLogitsWarper(float(sampling.min_p)))
    return found
