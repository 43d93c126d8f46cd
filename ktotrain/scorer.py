"""A model as something that scores packs: hidden states, then log-probabilities of the scored tokens only.

Shapes as in `ktotrain.batch`: N scored tokens, R branches.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ktotrain.attention import Following, Memory, Ragged
from ktotrain.batch import Continuation, PackedBatch
from ktotrain.empty import empty_pack
from ktotrain.failures import FAILURES, failure
from ktotrain.last_layer import install, installed, uninstall, worth_it
from ktotrain.logps import Head, branch_logps, chunk_elements_on, chunk_tokens, token_logps
from ktotrain.rotary import by_rows


class Scorer:
    """Scores packs with one causal language model of transformers (its adapters, if any, are inside it).

    Args:
        model: a `PreTrainedModel` with an LM head, not wrapped.
        head: its LM head as plain tensors, or None to let the model's own head compute the logits.
    """

    def __init__(self, model: Any, head: Head | None) -> None:
        self.model = model
        self.decoder = find_decoder(model)
        self._head = head
        # Whether the model's own head can be fed hidden states; found out when it is first used.
        self.own_head: bool | None = None
        # Padded rows need no position ids (they count from 0), and not every model takes them.
        taken = inspect.signature(self.decoder.forward).parameters
        self.takes_positions = "position_ids" in taken
        self.spares_last_layer = installed(self.decoder)
        by_rows(self.decoder)

    def __call__(self, batch: PackedBatch, ragged: Ragged | None = None) -> Tensor:
        """Summed log-probability of each branch's completion: float32 of shape R.

        `ragged` describes the batch, if the caller wants to see what attention makes of it: see `remembering`.
        """
        scores: Tensor = self.inside(self._scores, batch, ragged)
        return scores

    def _scores(self, batch: PackedBatch, ragged: Ragged | None) -> Tensor:
        inputs = self._inputs(batch, ragged)
        if self.head is None:
            scores_N = self._by_own_head(batch, inputs)
        else:
            hidden, source_N = self.hidden(batch, inputs)
            scores_N = token_logps(hidden[source_N], batch.target_N, self.head)
        return branch_logps(scores_N, batch.branch_N, len(batch.rows))

    def hidden(self, batch: PackedBatch, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Last hidden states, and where among them the scored tokens are read.

        They are those of all flat positions, or of the needed ones alone where the last layer spares the rest.
        """
        ragged: Ragged | None = inputs.get("ragged")
        spare = self.spares_last_layer and worth_it(batch.needed_M, batch.positions)
        if ragged is None:
            spare = False
        elif spare:
            ragged.needed_M = batch.needed_M
        hidden = self.decoder(**inputs).last_hidden_state.flatten(0, 1)
        if ragged is not None and ragged.memory is not None:
            ragged.memory.hidden, ragged.memory.held_M = hidden.detach(), batch.needed_M if spare else None
        return hidden, batch.place_N if spare else batch.source_N

    def remembering(self, batch: PackedBatch) -> tuple[Tensor, Memory]:
        """The scores of a shared batch, and what `following` needs to score other completions of its prompts."""
        memory = Memory()
        return self(batch, Ragged(batch.units, memory)), memory

    @torch.no_grad()
    def following(self, continuation: Continuation, memory: Memory) -> Tensor:
        """Scores of completions whose prompts were encoded in an earlier pass: float32 of shape R, no gradient."""
        scores: Tensor = self.inside(self._following, continuation, memory)
        return scores

    def _following(self, continuation: Continuation, memory: Memory) -> Tensor:
        assert self.head is not None, "remembered hidden states go through the head as it is"
        assert memory.hidden is not None, "the pass that remembers is over"
        batch = continuation.batch
        last_U = continuation.last_U
        hidden = memory.hidden[last_U if memory.held_M is None else torch.searchsorted(memory.held_M, last_U)]
        if batch.positions:
            ragged = Following(batch.units, continuation.spans, memory)
            own = self.decoder(**self._inputs(batch, ragged)).last_hidden_state[0]
            hidden = torch.cat((hidden, own))
        elif self.sharded:  # the other processes wait for this one at every layer
            self.decoder(**self._inputs(empty_pack("shared").to(hidden.device), None))
        scores_N = token_logps(hidden[batch.source_N], batch.target_N, self.head)
        return branch_logps(scores_N, batch.branch_N, len(batch.rows))

    @property
    def sharded(self) -> bool:
        """Whether the weights lie in shards over processes: see `ktotrain.sharding`."""
        return hasattr(self.model, "inside_forward")

    @property
    def head(self) -> Head | None:
        """The LM head as plain tensors; sharded, its weights are whole within a forward pass only, and others then."""
        return find_head(self.model) if self._head is not None and self.sharded else self._head

    def inside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` as a forward pass of the whole model: sharded weights are whole only within one.

        Without a head that we compute, `function` enters the model's own forward pass itself.
        """
        if self.sharded and self._head is not None:
            return self.model.inside_forward(function, *arguments)
        return function(*arguments)

    def _inputs(self, batch: PackedBatch, ragged: Ragged | None) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids_BL, "use_cache": False}
        if batch.units:
            return inputs | {"position_ids": batch.position_ids_BL, "ragged": ragged or Ragged(batch.units)}
        assert batch.mask_BL is not None, "a batch is either ragged or padded"
        return inputs | {"attention_mask": batch.mask_BL.long()}

    def _by_own_head(self, batch: PackedBatch, inputs: dict[str, Any]) -> Tensor:
        """For heads that are more than a matrix, a scale and a cap: the model's own, in chunks of tokens.

        Logits are computed again in the backward pass, chunk by chunk, so peak memory does not grow with N x V.
        """
        if self.own_head is None:
            self.own_head = self._own_head_is_separable(batch)
        if not self.own_head:
            return _from_logits(self._whole_logits(batch, inputs, batch.source_N), batch.target_N)
        output = self.decoder(**inputs)
        hidden_NH = output.last_hidden_state.flatten(0, 1)[batch.source_N]

        def scores(hidden: Tensor, target: Tensor) -> Tensor:
            return _from_logits(self._own_logits(hidden, output), target)

        # Of embeddings with an adapter on them neither number nor weight can be asked for.
        vocabulary = self.model.config.get_text_config().vocab_size
        chunk = chunk_tokens(chunk_elements_on(hidden_NH.device.type, vocabulary), vocabulary)
        parts = zip(torch.split(hidden_NH, chunk), torch.split(batch.target_N, chunk), strict=True)
        if torch.is_grad_enabled():
            # A head draws nothing at random.
            return torch.cat(
                [checkpoint(scores, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
            )
        return torch.cat([scores(*part) for part in parts])

    def _whole_logits(self, batch: PackedBatch, inputs: dict[str, Any], source_N: Tensor) -> Tensor:
        """The model's own logits at some flat positions, by a forward pass of the whole model."""
        if len(batch.input_ids_BL) == 1:
            logits: Tensor = self.model(**inputs, logits_to_keep=source_N).logits[0]
        else:
            logits = self.model(**inputs).logits.flatten(0, 1)[source_N]
        return logits

    def _own_logits(self, hidden_NH: Tensor, output: Any) -> Tensor:
        """What the model makes of some hidden states: its forward pass, with a decoder that returns just those."""
        given = copy.copy(output)
        given.last_hidden_state = hidden_NH[None]
        ids = torch.zeros(1, len(hidden_NH), dtype=torch.int64, device=hidden_NH.device)
        # An instance's own `forward` goes before its class's.
        self.decoder.forward = lambda *_, **__: given
        try:
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        finally:
            del self.decoder.forward
        return logits[0]

    def _own_head_is_separable(self, batch: PackedBatch) -> bool:
        """Whether the model's head gives the same logits when it is fed hidden states: tried on a few tokens."""
        # Sharded, the model's forward pass cannot be entered for its head alone.
        if self.decoder is self.model or self.sharded or "forward" in vars(self.decoder):
            return False
        source, inputs = batch.source_N[:8], self._inputs(batch, None)
        with torch.no_grad():
            output = self.decoder(**inputs)
            try:
                ours = self._own_logits(output.last_hidden_state.flatten(0, 1)[source], output)
            except FAILURES as error:
                failure(error)
                return False
            theirs = self._whole_logits(batch, inputs, source)
        rounding = 1e-4 if theirs.dtype == torch.float32 else 2e-2
        return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= rounding * theirs.float().std())


def _from_logits(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Log-probabilities of the targets, by whole logits: float32 of shape N."""
    logits_NV = logits_NV.float()
    return logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(1)


def spare_last_layer(model: Any, head: Head, batch: PackedBatch) -> str:
    """Let the model's last layer compute what scored tokens need and no more, if its hidden states stay the same.

    Args:
        model: set to one of the kernels of `ktotrain.attention`.
        batch: of the shared or packed layout, with prompts long enough for it to matter.

    Returns:
        Why the layer is left as it is, or "".
    """
    decoder = find_decoder(model)
    whole, source_N = last_hidden(Scorer(model, head), batch)
    if not install(decoder, model.config.get_text_config().num_hidden_layers):
        return "it is not the last of a list of layers"
    try:
        spared, place_N = last_hidden(Scorer(model, head), batch)
        # Hidden states, not scores: those of a random model hardly tell one token from another.
        expected = whole[source_N].float()
        worst = float((spared[place_N].float() - expected).abs().max() / expected.abs().max())
        rounding = 1e-5 if whole.dtype == torch.float32 and not torch.is_autocast_enabled(whole.device.type) else 3e-2
        trouble = "" if worst <= rounding else f"its hidden states change by {worst:.1e} of the largest"
    except FAILURES as error:
        trouble = f"it cannot be run for some tokens alone, {failure(error).partition(':')[0]}"
    if trouble:
        uninstall(decoder)
    return trouble


def last_hidden(scorer: Scorer, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """`Scorer.hidden` without gradient, in evaluation mode; of a model that has no decoder of its own, its logits."""
    training = scorer.model.training
    scorer.model.eval()
    try:
        with torch.no_grad():
            inputs = scorer._inputs(batch, None)
            if scorer.decoder is scorer.model:
                return scorer.model(**inputs).logits.flatten(0, 1), batch.source_N
            hidden: tuple[Tensor, Tensor] = scorer.inside(scorer.hidden, batch, inputs)
            return hidden
    finally:
        scorer.model.train(training)


def find_decoder(model: Any) -> Any:
    """What gives hidden states; `model` itself if nothing in it does.

    `get_decoder` finds it in most models, but in some the model itself (Llama 4, Mllama) or the LM head, where that is
    called `decoder` (ModernBERT). Whether its hidden states are what the head takes is tried before it is relied on.
    """
    from transformers import PreTrainedModel

    def takes_ids(module: nn.Module) -> bool:
        return "input_ids" in inspect.signature(module.forward).parameters

    others = (module for module in (model.base_model, *model.children()) if takes_ids(module))
    for module in (model.get_decoder(), *others):
        if isinstance(module, PreTrainedModel) and module is not model:
            return module
    return model


def find_head(model: Any) -> Head | None:
    """The model's LM head as plain tensors, or None if it is anything else.

    Covered are a linear layer, a logit scale (Cohere multiplies by `logit_scale`, Granite divides by
    `logits_scaling`) and a final soft-cap (Gemma 2 and 3). Whether that is all is not taken on trust: see
    `ktotrain.probe.verified_head`.
    """
    layer = model.get_output_embeddings()
    # A subclass or an adapter computes something else; and without a decoder of its own there are no hidden states.
    if type(layer) is not nn.Linear or find_decoder(model) is model:
        return None
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return Head(layer.weight, layer.bias, scale, softcap)


def no_grad_scores(scorer: Scorer, batch: PackedBatch, ragged: Ragged | None = None) -> Tensor:
    """`scorer(batch)` without gradient, with the model in evaluation mode and put back as it was.

    Checkpointing and dropout are then off, as they should be where nothing is learned.
    """
    training = scorer.model.training
    scorer.model.eval()
    try:
        with torch.no_grad():
            return scorer(batch, ragged)
    finally:
        scorer.model.train(training)
