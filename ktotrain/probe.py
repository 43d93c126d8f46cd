"""Which layout a model can be trained in: found out at start-up, by looking and by trying, never assumed.

The shared layout is exact only for models whose tokens meet in attention alone, whose positions may restart, and
whose attention can be replaced. A model that ignores the replacement gives wrong numbers without an error, so:
the structure is looked at, and a few rows are scored both ways (`ktotrain.trial`).

A model that passes has its attention put on one of the kernels of `ktotrain.attention`: on a GPU the fastest as
measured, after the same trials once more with that kernel in place.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from ktotrain.attention import IMPLEMENTATIONS, KERNELS, Kernel, Ragged, refusal, register
from ktotrain.attention_choice import TYPICAL, Asks, ask_counts, kernel_trouble, rank_kernels
from ktotrain.batch import Unit
from ktotrain.errors import ModelError
from ktotrain.failures import FAILURES, failure
from ktotrain.logps import Head
from ktotrain.packing import Layout, continuation, pack
from ktotrain.rotary import length_dependence
from ktotrain.scorer import Scorer, find_decoder, find_head, no_grad_scores, spare_last_layer
from ktotrain.trial import LOOP, PARITY, Trial, device_of, numerical_trouble, probe_branches

WITH_THE_HEAD = "as the model computes its LM head"


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


def choose_layout(
    model: Any,
    *,
    attention: str,
    seed: int = 0,
    precision: torch.dtype | None = None,
    units: tuple[Unit, ...] = TYPICAL,
    longest: int | None = None,
) -> LayoutChoice:
    """Set `model` to the attention that serves, and say which layout it may be fed.

    Args:
        model: a causal language model of transformers, not wrapped, in its final place and type, adapters included.
        attention: the recipe's `model.attention`: auto, ragged, varlen, flex, or padded. `auto` measures on a GPU.
        precision: what autocast will compute in during the run, None without autocast.
        units: a pack as the run will have them, to measure on.
        longest: the most tokens of a sequence that will be fed, None if that is not known.

    Raises:
        ModelError: a kind of attention was asked for by name that this model or this machine cannot use.
    """
    trial = Trial(model, model.config._attn_implementation, seed, precision)
    if trouble := refusal(attention, trial.device, trial.computed):
        raise ModelError(trouble, where="model.attention")
    stretched = length_dependence(find_decoder(model), longest)
    rows: Layout = "alone" if stretched else "padded"
    if attention == "padded":
        head, own = examined_head(model)
        return LayoutChoice(rows, trial.usual, _both("asked for", stretched, own), head)
    trouble = structural_trouble(model)
    layouts: tuple[Layout, ...] = ("packed",) if stretched else ("shared", "packed")
    if not trouble:
        register()
        trial.use(LOOP)
        if model.config.get_text_config()._attn_implementation != LOOP.implementation:
            trouble = "its attention cannot be replaced"
    for layout in layouts if not trouble else ():
        found = numerical_trouble(trial, layout, LOOP)
        if not found:
            reason = "exact by probe"
            if layout == "packed":
                reason = stretched or f"prefix sharing is not exact: {trouble}"
            kernel, why = _kernel_for(trial, layout, attention, units)
            with trial.context(kernel):
                head, own = examined_head(model)
                whole = _sparing(trial, head, layout)
                again = _following_trouble(trial, head) if layout == "shared" else ""
            if again:
                why = _both(why, f"mismatched completions encode prompts again ({again})")
            return LayoutChoice(
                layout,
                kernel.implementation,
                _both(reason, own, whole, why),
                head,
                follows=layout == "shared" and not again,
            )
        trouble = found
    if attention in KERNELS:
        raise ModelError(
            f"this model cannot use {attention} attention: {trouble}",
            where="model.attention",
            do='Use "auto" or "padded"',
        )
    if model.config._attn_implementation != trial.usual:
        model.set_attn_implementation(trial.usual)
    head, own = examined_head(model)
    return LayoutChoice(rows, trial.usual, _both(trouble, stretched, own), head)


def _both(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _kernel_for(trial: Trial, layout: Layout, attention: str, units: tuple[Unit, ...]) -> tuple[Kernel, str]:
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
        trouble = trouble or numerical_trouble(trial, layout, kernel)
        if trouble:
            raise ModelError(
                f"{attention} attention is wrong here: {trouble}", where="model.attention", do='Use "auto" or "ragged"'
            )
        trial.use(kernel)
        return kernel, f"attention by {attention}, as asked for"
    choice = rank_kernels(asks, units, dtype=trial.computed, device=trial.device)
    why = choice.figures
    for name in choice.names:
        kernel = KERNELS[name]
        trouble = "" if kernel is LOOP else numerical_trouble(trial, layout, kernel)
        if not trouble:
            trial.use(kernel)
            return kernel, why
        why += f"; not {name} after all: {trouble}"
    trial.use(LOOP)
    return LOOP, why


def layer_asks(model: Any, seed: int = 0) -> Asks:
    """What the layers of a model ask of attention, found out by a pass; the model must be set to one of the kernels."""
    (batch,) = pack(probe_branches(model, np.random.default_rng(seed)), pack_tokens=10_000, layout="packed")
    ragged = Ragged(batch.units)
    ragged.asks = []
    no_grad_scores(Scorer(model, find_head(model)), batch.to(device_of(model)), ragged)
    return ask_counts(ragged.asks)


def _sparing(trial: Trial, head: Head | None, layout: Layout) -> str:
    """Let the last layer leave out what no score needs, where that is exact; what is to be said about it."""
    trouble = WITH_THE_HEAD
    if head is not None:
        branches = probe_branches(trial.model, np.random.default_rng(trial.seed))
        (batch,) = pack(branches, pack_tokens=10_000, layout=layout)
        trouble = spare_last_layer(trial.model, head, batch.to(trial.device))
    return f"the last layer computes prompts in full ({trouble})" if trouble else ""


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


def _following_trouble(trial: Trial, head: Head | None) -> str:
    """Why completions that follow remembered prompts do not score as in a pass of their own, or "".

    With dropout (an adapter's) they do not: the graded pass remembers what dropout has left.
    """
    if head is None:
        return WITH_THE_HEAD
    model = trial.model
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return "an adapter with dropout"
    scorer = Scorer(model, head)
    branches = probe_branches(model, np.random.default_rng(trial.seed))
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
    except FAILURES as error:
        return failure(error)
    return "" if torch.allclose(scores, expected, rtol=_tolerance(model)) else "their scores would differ"


def verified_head(model: Any) -> Head | None:
    """`find_head` if the model's own logits agree with it on a few tokens, else None."""
    return examined_head(model)[0]


def examined_head(model: Any) -> tuple[Head | None, str]:
    """`verified_head`, and what is to be said where there is none."""
    head = find_head(model)
    branches = probe_branches(model, np.random.default_rng(0))[:1]
    ragged = model.config.get_text_config()._attn_implementation in IMPLEMENTATIONS
    (batch,) = pack(branches, pack_tokens=10_000, layout="shared" if ragged else "padded")
    batch = batch.to(device_of(model))
    by_model = Scorer(model, None)
    theirs = no_grad_scores(by_model, batch)
    try:
        if head is not None:
            ours = no_grad_scores(Scorer(model, head), batch)
            if torch.allclose(ours, theirs, rtol=_tolerance(model)):
                return head, ""
    except FAILURES as error:
        failure(error)  # a matrix that takes something else than hidden states
    layer = model.get_output_embeddings()
    what = "carries an adapter" if type(layer).__module__.startswith("peft.") else "is more than a matrix"
    how = "in chunks" if by_model.own_head else "all logits at once"
    return None, f"the LM head {what}, so the model computes it ({how})"


def _tolerance(model: Any) -> float:
    """Relative difference of scores that rounding explains."""
    autocast = torch.is_autocast_enabled(device_of(model).type)
    return PARITY if next(model.parameters()).dtype == torch.float32 and not autocast else 2e-2
