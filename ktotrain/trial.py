"""The trials that a model goes through before it is fed packs: a few random rows, scored in a layout and otherwise.

Attention calls are counted; tokens of one completion are changed to see that no other completion's score moves; and
the result is held against the model's own attention over padded rows, in float32 whatever the weights are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ktotrain.attention import KERNELS, Kernel, NotServedError, Ragged
from ktotrain.attention_mask import OWN_MASKS, Window, noted_masks
from ktotrain.batch import Branch, PackedBatch
from ktotrain.failures import FAILURES, failure
from ktotrain.packing import Layout, pack
from ktotrain.scorer import Scorer, find_head, last_hidden, no_grad_scores
from ktotrain.upcast import in_float32

# Two orders of summation in float32 differ by about 1e-6 relative; a token that sees a wrong one, by far more.
PARITY = 1e-4
HALF_PARITY = 5e-2
# On a GPU the sum over a completion's tokens is taken in no fixed order.
SUMMATION = 2e-6

LOOP = KERNELS["ragged"]


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """A model on trial: `usual` is the attention it came with, `precision` what autocast will compute in, if it is on.

    The loop is tried without autocast, since differences show sharpest there. Other kernels have been held against it
    already and are tried as the run will use them, under its autocast.
    """

    model: Any
    usual: str
    seed: int
    precision: torch.dtype | None

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def on_gpu(self) -> bool:
        """Whether there are kernels to choose from."""
        return self.device.type == "cuda"

    @property
    def computed(self) -> torch.dtype:
        """What attention computes in during the run."""
        weights: torch.dtype = next(self.model.parameters()).dtype
        return self.precision or weights

    @property
    def exact(self) -> bool:
        """Whether all weights are float32."""
        floating = (weight for weight in self.model.parameters() if weight.is_floating_point())
        return all(weight.dtype == torch.float32 for weight in floating)

    def needs_autocast(self, kernel: Kernel) -> bool:
        return self.precision is not None and kernel is not LOOP

    def context(self, kernel: Kernel) -> contextlib.AbstractContextManager[object]:
        """What a kernel is tried in."""
        needed = self.needs_autocast(kernel)
        return torch.autocast(self.device.type, self.precision) if needed else contextlib.nullcontext()

    def use(self, kernel: Kernel) -> None:
        """Set the model to a kernel."""
        if self.model.config._attn_implementation != kernel.implementation:
            self.model.set_attn_implementation(kernel.implementation)


def numerical_trouble(trial: Trial, layout: Layout, kernel: Kernel) -> str:
    """What goes wrong when a few random rows are scored in `layout` with `kernel`, which stays set, or ""."""
    model, device = trial.model, trial.device
    branches = probe_branches(model, np.random.default_rng(trial.seed))
    # Without experts it is exact in every precision: the same numbers take the same way, whatever lies beside them.
    # Experts see other numbers of tokens, and so other orders of summation.
    isolation = 5e-3 if _is_mixture_of_experts(model.config.get_text_config()) else 0.0
    isolation = max(isolation, SUMMATION if device.type != "cpu" else 0.0)
    scorer = Scorer(model, find_head(model))
    if not scorer.takes_positions:
        return "it takes no position ids"
    trial.use(kernel)
    try:
        with trial.context(kernel):
            (batch,) = pack(branches, pack_tokens=10_000, layout=layout)
            ragged = Ragged(batch.units)
            scores = _by_row(batch, no_grad_scores(scorer, batch.to(device), ragged))
            layers = model.config.get_text_config().num_hidden_layers
            if ragged.calls != layers:
                return f"its {layers} layers called the attention {ragged.calls} times"
            if ragged.unmasked:
                return "its layers ask for a window that their masks do not have"
            if trouble := _mask_trouble(scorer, branches):
                return trouble
            for changed in range(len(branches)):
                (other,) = pack(_with_other_tokens(branches, changed), pack_tokens=10_000, layout=layout)
                moved = (_scores(scorer, other.to(device)) - scores).abs() / scores.abs()
                moved[changed] = 0
                if bool((moved > isolation).any()):
                    return "a completion's score depends on another completion in the pack"
    except NotServedError as error:
        return error.what
    except FAILURES as error:
        if f"'{Window.__name__}' object" in str(error):  # they take it for the tensor that it stands for
            return OWN_MASKS
        return f"it failed in the {layout} layout ({failure(error)})"
    return _disparity(trial, kernel, scorer, branches, batch, scores)


def _disparity(
    trial: Trial, kernel: Kernel, scorer: Scorer, branches: list[Branch], batch: PackedBatch, scores: Tensor
) -> str:
    """How a kernel's scores differ from what they should be, or ""."""
    if trial.needs_autocast(kernel) or (kernel is not LOOP and not trial.exact):
        trial.use(LOOP)
        with trial.context(kernel):
            expected = _scores(scorer, batch.to(trial.device))
        trial.use(kernel)
        return _too_far(scores, expected, HALF_PARITY, "scores differ from the loop's")

    def padded(read: Callable[[PackedBatch], Tensor]) -> Tensor:
        """The same of padded rows, by the model's own attention."""
        trial.model.set_attn_implementation(trial.usual)
        try:
            (rows,) = pack(branches, pack_tokens=10_000, layout="padded")
            return read(rows.to(trial.device))
        finally:
            trial.use(kernel)

    if trial.exact:
        return _too_far(scores, padded(lambda rows: _scores(scorer, rows)), PARITY, "scores differ from padded ones")
    if not scorer.sharded:  # weights in shards are not ours to exchange
        try:
            with in_float32(trial.model):
                expected = padded(lambda rows: _hidden_by_row(scorer, rows))
                hidden = _hidden_by_row(scorer, batch.to(trial.device))
            return _too_far(hidden, expected, PARITY, "hidden states differ from padded ones'")
        except FAILURES as error:
            failure(error)
    # A model that casts what it is given: only what is far beyond rounding can be told from it.
    return _too_far(scores, padded(lambda rows: _scores(scorer, rows)), HALF_PARITY, "scores differ from padded ones")


def _too_far(ours: Tensor, expected: Tensor, most: float, what: str) -> str:
    """`what` and by how much if numbers [R], or vectors [N, H], differ by more than `most` relative; else ""."""
    if ours.ndim > 1:
        apart, size = (ours - expected).norm(dim=1), expected.norm(dim=1)
    else:
        apart, size = (ours - expected).abs(), expected.abs()
    worst = float((apart / size).max())
    return "" if worst <= most else f"{what} by {worst:.1e} relative"  # also where it is not a number


def _mask_trouble(scorer: Scorer, branches: Sequence[Branch]) -> str:
    """What a model asks of its mask that packs cannot give, or "": chunks, blocks, also beyond the length of the probe.

    Found out on one row, whose positions do not restart: otherwise transformers puts that into the mask as well.
    """
    (row,) = pack(branches[:1], pack_tokens=10_000, layout="packed")
    with noted_masks() as asked:
        no_grad_scores(scorer, row.to(device_of(scorer.model)))
    return next(filter(None, (one.trouble(device_of(scorer.model)) for one in asked)), "")


def _scores(scorer: Scorer, batch: PackedBatch) -> Tensor:
    """Scores by row of the probe, without gradient."""
    return _by_row(batch, no_grad_scores(scorer, batch))


def _by_row(batch: PackedBatch, scores: Tensor) -> Tensor:
    """Scores in the order of the probe's rows, in whichever order a layout has put them."""
    ordered = torch.empty_like(scores)
    ordered[list(batch.rows)] = scores
    return ordered


def _hidden_by_row(scorer: Scorer, batch: PackedBatch) -> Tensor:
    """Last hidden states where scored tokens are read, in the order of the probe's rows: float32 [N, H].

    Of a model without a decoder of its own, logits.
    """
    hidden, place_N = last_hidden(scorer, batch)
    row_N = torch.tensor(batch.rows, device=hidden.device)[batch.branch_N]
    return hidden[place_N][row_N.argsort(stable=True)].float()


def probe_branches(model: Any, rng: np.random.Generator) -> list[Branch]:
    """Two prompts, the first with three completions, longer than a short sliding window."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    most = getattr(config, "max_position_embeddings", None) or 512
    length = max(8, min(most // 4, max(24, window + 8 if window < 256 else 24)))

    def tokens(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return rng.integers(0, config.vocab_size, count, dtype=np.int32)

    prompts = [tokens(length), tokens(length // 2)]
    lengths = [(0, length // 2), (0, length // 3), (0, length // 2 + 1), (1, length // 2)]
    return [Branch(row, p, prompts[p], tokens(count)) for row, (p, count) in enumerate(lengths)]


def _with_other_tokens(branches: Sequence[Branch], changed: int) -> list[Branch]:
    """The same lengths, with one completion's tokens in another order."""
    other = np.roll(branches[changed].completion_ids, 1)
    return [
        dataclasses.replace(branch, completion_ids=other) if index == changed else branch
        for index, branch in enumerate(branches)
    ]


def _is_mixture_of_experts(config: Any) -> bool:
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any((getattr(config, name, None) or 0) > 1 for name in names)


def device_of(model: Any) -> torch.device:
    """Where a model's weights lie."""
    device: torch.device = next(model.parameters()).device
    return device
