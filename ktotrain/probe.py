"""Which layout a model can be trained in: found out at start-up, by looking and by trying, never assumed.

The shared layout is exact only for models whose tokens meet in attention alone, whose positions may restart, and
whose attention can be replaced. A model that ignores the replacement gives wrong numbers without an error, so:
the structure is looked at, the attention calls are counted, tokens of one completion are changed to see that no
other completion's score moves, and where precision allows it the scores are compared with the padded layout's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ktotrain.attention import RAGGED, Ragged, register
from ktotrain.batch import Branch, PackedBatch
from ktotrain.errors import ModelError
from ktotrain.logps import Head
from ktotrain.packing import Layout, continuation, pack
from ktotrain.scorer import Scorer, find_head, no_grad_scores

# Two orders of summation in float32 differ by about 1e-6 relative; a token that sees a wrong one, by far more.
PARITY = 1e-4


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


def choose_layout(model: Any, *, attention: str, seed: int = 0) -> LayoutChoice:
    """Set `model` to the attention that serves, and say which layout it may be fed.

    Args:
        model: a causal language model of transformers, not wrapped, in its final place and type, adapters included.
        attention: the recipe's `model.attention`: auto, ragged, or padded.

    Raises:
        ModelError: ragged attention was asked for by name and this model cannot use it, or the kind asked for
            does not exist on this machine.
    """
    if attention in ("flex", "varlen"):
        raise ModelError(
            f"attention {attention!r} is not available on {_device(model).type}",
            where="model.attention",
            do='Use "auto", "ragged" or "padded"',
        )
    usual = model.config._attn_implementation
    if attention == "padded":
        return LayoutChoice("padded", usual, "asked for", verified_head(model))
    trouble = structural_trouble(model)
    layouts: tuple[Layout, ...] = ("shared", "packed")
    if not trouble:
        register()
        model.set_attn_implementation(RAGGED)
        if model.config.get_text_config()._attn_implementation != RAGGED:
            trouble = "its attention cannot be replaced"
    for layout in layouts if not trouble else ():
        found = numerical_trouble(model, layout, usual=usual, seed=seed)
        if not found:
            reason = "exact by probe" if layout == "shared" else f"prefix sharing is not exact: {trouble}"
            head = verified_head(model)
            follows = layout == "shared" and head is not None and _can_follow(model, head, seed)
            return LayoutChoice(layout, RAGGED, reason, head, follows)
        trouble = found
    if attention == "ragged":
        raise ModelError(f"this model cannot use ragged attention: {trouble}", where="model.attention", do='Use "auto"')
    if model.config._attn_implementation != usual:
        model.set_attn_implementation(usual)
    return LayoutChoice("padded", usual, trouble, verified_head(model))


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


def numerical_trouble(model: Any, layout: Layout, *, usual: str, seed: int) -> str:
    """What goes wrong when a few random rows are scored in `layout`, or "".

    Expects the model to be set to `RAGGED`, and leaves it so.
    """
    rng = np.random.default_rng(seed)
    branches = _probe_branches(model, rng)
    # Without experts it is exact in every precision: the same numbers take the same way, whatever lies beside them.
    # Experts see other numbers of tokens, and so other orders of summation.
    isolation = 5e-3 if _is_mixture_of_experts(model.config.get_text_config()) else 0.0
    scorer = Scorer(model, find_head(model))
    if not scorer.takes_positions:
        return "it takes no position ids"
    try:
        (batch,) = pack(branches, pack_tokens=10_000, layout=layout)
        scores, calls = _counted(scorer, batch.to(_device(model)))
        layers = model.config.get_text_config().num_hidden_layers
        if calls != layers:
            return f"its {layers} layers called the attention {calls} times"
        for changed in range(len(branches)):
            (other,) = pack(_with_other_tokens(branches, changed), pack_tokens=10_000, layout=layout)
            moved = (_counted(scorer, other.to(_device(model)))[0] - scores).abs() / scores.abs()
            moved[changed] = 0
            if bool((moved > isolation).any()):
                return "a completion's score depends on another completion in the pack"
    except (TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        return f"it failed in the {layout} layout ({type(error).__name__}: {str(error).splitlines()[0][:100]})"
    if next(model.parameters()).dtype != torch.float32:
        return ""  # half precision cannot tell a wrong mask from rounding
    model.set_attn_implementation(usual)
    try:
        (padded,) = pack(branches, pack_tokens=10_000, layout="padded")
        expected = no_grad_scores(scorer, padded.to(_device(model)))
    finally:
        model.set_attn_implementation(RAGGED)
    difference = (scores - _by_row(padded, expected)).abs() / scores.abs()
    worst = float(difference.max())
    return "" if worst <= PARITY else f"scores differ from padded ones by {worst:.1e} relative"


def _can_follow(model: Any, head: Head, seed: int) -> bool:
    """Whether completions that follow remembered prompts score as in a pass of their own.

    With dropout (an adapter's) they do not: the graded pass remembers what dropout has left.
    """
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return False
    scorer = Scorer(model, head)
    branches = _probe_branches(model, np.random.default_rng(seed))
    # The second completion of the first prompt, and the last prompt's own: each follows its prompt's first pass.
    others = [dataclasses.replace(branches[1], row=0), branches[3]]
    (batch,) = pack([branches[0], branches[3]], pack_tokens=10_000, layout="shared")
    (alone,) = pack([branches[1], branches[3]], pack_tokens=10_000, layout="shared")
    following = continuation(batch, others).to(_device(model))
    try:
        with torch.no_grad():
            _, memory = scorer.remembering(batch.to(_device(model)))
            scores = scorer.following(following, memory)
            expected = scorer(alone.to(_device(model)))
    except (TypeError, RuntimeError, KeyError, AttributeError):
        return False
    tolerance = PARITY if next(model.parameters()).dtype == torch.float32 else 2e-2
    return torch.allclose(scores, expected, rtol=tolerance)


def verified_head(model: Any) -> Head | None:
    """`find_head` if the model's own logits agree with it on a few tokens, else None."""
    head = find_head(model)
    if head is None:
        return None
    branches = _probe_branches(model, np.random.default_rng(0))[:1]
    ragged = model.config.get_text_config()._attn_implementation == RAGGED
    (batch,) = pack(branches, pack_tokens=10_000, layout="shared" if ragged else "padded")
    ours = no_grad_scores(Scorer(model, head), batch.to(_device(model)))
    theirs = no_grad_scores(Scorer(model, None), batch.to(_device(model)))
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 2e-2
    return head if torch.allclose(ours, theirs, rtol=tolerance) else None


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
