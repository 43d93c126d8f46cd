"""Which layout a model can be trained in: found out at start-up, by looking and by trying, never assumed.

The shared layout is exact only for models whose tokens meet in attention alone, whose positions may restart, and
whose attention can be replaced. A model that ignores the replacement gives wrong numbers without an error, so:
the structure is looked at, the attention calls are counted, tokens of one completion are changed to see that no
other completion's score moves, and where precision allows it the scores are compared with the padded layout's.

A model that passes has its attention put on one of the kernels of `ktotrain.attention`: on a GPU the fastest as
measured, after the same trials once more with that kernel in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ktotrain.attention import IMPLEMENTATIONS, KERNELS, Kernel, Ragged, refusal, register
from ktotrain.attention_choice import TYPICAL, Asks, ask_counts, kernel_trouble, rank_kernels
from ktotrain.batch import Branch, PackedBatch, Unit
from ktotrain.errors import ModelError
from ktotrain.logps import Head
from ktotrain.packing import Layout, continuation, pack
from ktotrain.scorer import Scorer, find_head, no_grad_scores, spare_last_layer

# Two orders of summation in float32 differ by about 1e-6 relative; a token that sees a wrong one, by far more.
PARITY = 1e-4
HALF_PARITY = 5e-2
# On a GPU the sum over a completion's tokens is taken in no fixed order.
SUMMATION = 2e-6

LOOP = KERNELS["ragged"]


@dataclasses.dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The layout to use, the attention implementation that the model was set to, and why.

    `head` is the LM head as plain tensors, None if the model must compute logits itself. `follows` says whether
    completions may follow prompts of an earlier pass, whose keys and values were remembered.
    """

    layout: Layout
    attention: str
    reason: str
    head: Head | None = None
    follows: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Trial:
    """A model on trial: `usual` is the attention it came with, `precision` what autocast will compute in, if it is on.

    The loop is tried in the weights' own type, where differences show sharpest. Other kernels have been held against it
    already and are tried as the run will use them, under its autocast.
    """

    model: Any
    usual: str
    seed: int
    precision: torch.dtype | None

    @property
    def device(self) -> torch.device:
        return _device(self.model)

    @property
    def on_gpu(self) -> bool:
        """Whether there are kernels to choose from."""
        return self.device.type == "cuda"

    @property
    def weights(self) -> torch.dtype:
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def computed(self) -> torch.dtype:
        """What attention computes in during the run."""
        return self.precision or self.weights

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


def choose_layout(
    model: Any,
    *,
    attention: str,
    seed: int = 0,
    precision: torch.dtype | None = None,
    units: tuple[Unit, ...] = TYPICAL,
) -> LayoutChoice:
    """Set `model` to the attention that serves, and say which layout it may be fed.

    Args:
        model: a causal language model of transformers, not wrapped, in its final place and type, adapters included.
        attention: the recipe's `model.attention`: auto, ragged, varlen, flex, or padded. `auto` measures on a GPU.
        precision: what autocast will compute in during the run, None without autocast.
        units: a pack as the run will have them, to measure on.

    Raises:
        ModelError: a kind of attention was asked for by name that this model or this machine cannot use.
    """
    trial = _Trial(model, model.config._attn_implementation, seed, precision)
    if trouble := refusal(attention, trial.device, trial.computed):
        raise ModelError(trouble, where="model.attention")
    if attention == "padded":
        return LayoutChoice("padded", trial.usual, "asked for", verified_head(model))
    trouble = structural_trouble(model)
    layouts: tuple[Layout, ...] = ("shared", "packed")
    if not trouble:
        register()
        trial.use(LOOP)
        if model.config.get_text_config()._attn_implementation != LOOP.implementation:
            trouble = "its attention cannot be replaced"
    for layout in layouts if not trouble else ():
        found = _numerical_trouble(trial, layout, LOOP)
        if not found:
            reason = "exact by probe" if layout == "shared" else f"prefix sharing is not exact: {trouble}"
            kernel, why = _kernel_for(trial, layout, attention, units)
            with trial.context(kernel):
                head = verified_head(model)
                why += _sparing(trial, head, layout)
                follows = layout == "shared" and head is not None and _can_follow(trial, head)
            return LayoutChoice(layout, kernel.implementation, reason + why, head, follows)
        trouble = found
    if attention in KERNELS:
        raise ModelError(
            f"this model cannot use {attention} attention: {trouble}",
            where="model.attention",
            do='Use "auto" or "padded"',
        )
    if model.config._attn_implementation != trial.usual:
        model.set_attn_implementation(trial.usual)
    return LayoutChoice("padded", trial.usual, trouble, verified_head(model))


def _kernel_for(trial: _Trial, layout: Layout, attention: str, units: tuple[Unit, ...]) -> tuple[Kernel, str]:
    """The kernel to run attention on, to which the model is then set, and what is to be said about the choice.

    On anything but a GPU the loop is the one there is.
    """
    if attention == "ragged" or (attention == "auto" and not trial.on_gpu):
        return LOOP, ""
    asks = layer_asks(trial.model, trial.seed)
    if attention != "auto":
        if trouble := refusal(attention, trial.device, trial.computed, asks):
            raise ModelError(f"for this model {trouble}", where="model.attention")
        kernel = next(kernel for name, kernel in KERNELS.items() if name == attention)
        trouble = kernel_trouble(kernel, asks, dtype=trial.computed, device=trial.device)
        trouble = trouble or _numerical_trouble(trial, layout, kernel)
        if trouble:
            raise ModelError(
                f"{attention} attention is wrong here: {trouble}", where="model.attention", do='Use "auto" or "ragged"'
            )
        trial.use(kernel)
        return kernel, f"; attention by {attention}, as asked for"
    choice = rank_kernels(asks, units, dtype=trial.computed, device=trial.device)
    why = f"; {choice.figures}"
    for name in choice.names:
        kernel = KERNELS[name]
        trouble = "" if kernel is LOOP else _numerical_trouble(trial, layout, kernel)
        if not trouble:
            trial.use(kernel)
            return kernel, why
        why += f"; not {name} after all: {trouble}"
    trial.use(LOOP)
    return LOOP, why


def layer_asks(model: Any, seed: int = 0) -> Asks:
    """What the layers of a model ask of attention, found out by a pass; the model must be set to one of the kernels."""
    (batch,) = pack(_probe_branches(model, np.random.default_rng(seed)), pack_tokens=10_000, layout="packed")
    ragged = Ragged(batch.units)
    ragged.asks = []
    no_grad_scores(Scorer(model, find_head(model)), batch.to(_device(model)), ragged)
    return ask_counts(ragged.asks)


def _sparing(trial: _Trial, head: Head | None, layout: Layout) -> str:
    """Let the last layer leave out what no score needs, where that is exact; what is to be said about it."""
    if head is None:
        return ""
    branches = _probe_branches(trial.model, np.random.default_rng(trial.seed))
    (batch,) = pack(branches, pack_tokens=10_000, layout=layout)
    trouble = spare_last_layer(trial.model, head, batch.to(trial.device))
    return f"; the last layer computes prompts in full ({trouble})" if trouble else ""


def structural_trouble(model: Any) -> str:
    """Why the model's class or config rules ragged packs out, or ""."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} has no replaceable attention"
    if not model._can_set_attn_implementation():
        return f"{type(model).__name__} does not let its attention be set"
    if getattr(model, "_is_stateful", False) or kinds:
        return f"tokens meet outside of attention ({', '.join(sorted(kinds)) or 'stateful layers'})"
    if getattr(config, "alibi", False) or getattr(config, "position_embedding_type", "") == "alibi":
        return "ALiBi counts positions within attention"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    return ""


def _numerical_trouble(trial: _Trial, layout: Layout, kernel: Kernel) -> str:
    """What goes wrong when a few random rows are scored in `layout` with `kernel`, which stays set, or ""."""
    model, device = trial.model, trial.device
    rng = np.random.default_rng(trial.seed)
    branches = _probe_branches(model, rng)
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
            scores, calls = _counted(scorer, batch.to(device))
            layers = model.config.get_text_config().num_hidden_layers
            if calls != layers:
                return f"its {layers} layers called the attention {calls} times"
            for changed in range(len(branches)):
                (other,) = pack(_with_other_tokens(branches, changed), pack_tokens=10_000, layout=layout)
                moved = (_counted(scorer, other.to(device))[0] - scores).abs() / scores.abs()
                moved[changed] = 0
                if bool((moved > isolation).any()):
                    return "a completion's score depends on another completion in the pack"
    except (TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        return f"it failed in the {layout} layout ({type(error).__name__}: {str(error).splitlines()[0][:100]})"
    return _disparity(trial, kernel, scorer, branches, batch, scores)


def _disparity(
    trial: _Trial, kernel: Kernel, scorer: Scorer, branches: list[Branch], batch: PackedBatch, scores: Tensor
) -> str:
    """How a kernel's scores differ from the padded layout's, or in half precision from the loop's; or "".

    The loop itself has nothing to be compared with there: half precision cannot tell a wrong mask from rounding.
    """
    exact = trial.weights == torch.float32 and not trial.needs_autocast(kernel)
    if exact:
        trial.model.set_attn_implementation(trial.usual)
        try:
            (padded,) = pack(branches, pack_tokens=10_000, layout="padded")
            expected = _by_row(padded, no_grad_scores(scorer, padded.to(trial.device)))
        finally:
            trial.use(kernel)
    elif kernel is not LOOP:
        trial.use(LOOP)
        with trial.context(kernel):
            expected = _counted(scorer, batch.to(trial.device))[0]
        trial.use(kernel)
    else:
        return ""
    worst = float(((scores - expected).abs() / scores.abs()).max())
    other = "padded ones" if exact else "the loop's"
    return "" if worst <= (PARITY if exact else HALF_PARITY) else f"scores differ from {other} by {worst:.1e} relative"


def _can_follow(trial: _Trial, head: Head) -> bool:
    """Whether completions that follow remembered prompts score as in a pass of their own.

    With dropout (an adapter's) they do not: the graded pass remembers what dropout has left.
    """
    model = trial.model
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return False
    scorer = Scorer(model, head)
    branches = _probe_branches(model, np.random.default_rng(trial.seed))
    # The second completion of the first prompt, and the last prompt's own: each follows its prompt's first pass.
    others = [dataclasses.replace(branches[1], row=0), branches[3]]
    (batch,) = pack([branches[0], branches[3]], pack_tokens=10_000, layout="shared")
    (alone,) = pack([branches[1], branches[3]], pack_tokens=10_000, layout="shared")
    following = continuation(batch, others).to(trial.device)
    try:
        with torch.no_grad():
            _, memory = scorer.remembering(batch.to(trial.device))
            scores = scorer.following(following, memory)
            expected = scorer(alone.to(trial.device))
    except (TypeError, RuntimeError, KeyError, AttributeError):
        return False
    return torch.allclose(scores, expected, rtol=_tolerance(model))


def verified_head(model: Any) -> Head | None:
    """`find_head` if the model's own logits agree with it on a few tokens, else None."""
    head = find_head(model)
    if head is None:
        return None
    branches = _probe_branches(model, np.random.default_rng(0))[:1]
    ragged = model.config.get_text_config()._attn_implementation in IMPLEMENTATIONS
    (batch,) = pack(branches, pack_tokens=10_000, layout="shared" if ragged else "padded")
    ours = no_grad_scores(Scorer(model, head), batch.to(_device(model)))
    theirs = no_grad_scores(Scorer(model, None), batch.to(_device(model)))
    return head if torch.allclose(ours, theirs, rtol=_tolerance(model)) else None


def _tolerance(model: Any) -> float:
    """Relative difference of scores that rounding explains."""
    autocast = torch.is_autocast_enabled(_device(model).type)
    return PARITY if next(model.parameters()).dtype == torch.float32 and not autocast else 2e-2


def _counted(scorer: Scorer, batch: PackedBatch) -> tuple[Tensor, int]:
    """Scores by row of the probe, and how often the attention function was called for them."""
    ragged = Ragged(batch.units)
    scores = no_grad_scores(scorer, batch, ragged)
    return _by_row(batch, scores), ragged.calls


def _by_row(batch: PackedBatch, scores: Tensor) -> Tensor:
    """Scores in the order of the probe's rows, in whichever order a layout has put them."""
    ordered = torch.empty_like(scores)
    ordered[list(batch.rows)] = scores
    return ordered


def _probe_branches(model: Any, rng: np.random.Generator) -> list[Branch]:
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


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
