"""A model as something that scores packs: hidden states, then log-probabilities of the scored tokens only.

Shapes as in `ktotrain.batch`: N scored tokens, R branches.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ktotrain.attention import Following, Memory, Ragged
from ktotrain.batch import Continuation, PackedBatch
from ktotrain.logps import Head, branch_logps, token_logps


class Scorer:
    """Scores packs with one causal language model of transformers (its adapters, if any, are inside it).

    Args:
        model: a `PreTrainedModel` with an LM head, not wrapped.
        head: its LM head as plain tensors, or None to let the model compute the logits itself.
    """

    def __init__(self, model: Any, head: Head | None) -> None:
        self.model = model
        self.decoder = find_decoder(model)
        self.head = head
        # Padded rows need no position ids (they count from 0), and not every model takes them.
        taken = inspect.signature(self.decoder.forward).parameters
        self.takes_positions = "position_ids" in taken

    def __call__(self, batch: PackedBatch, ragged: Ragged | None = None) -> Tensor:
        """Summed log-probability of each branch's completion: float32 of shape R.

        `ragged` describes the batch, if the caller wants to see what attention makes of it: see `remembering`.
        """
        inputs = self._inputs(batch, ragged)
        if self.head is None:
            scores_N = self._by_logits(batch, inputs)
        else:
            hidden = self.decoder(**inputs).last_hidden_state.flatten(0, 1)
            if ragged is not None and ragged.memory is not None:
                ragged.memory.hidden = hidden.detach()
            scores_N = token_logps(hidden[batch.source_N], batch.target_N, self.head)
        return branch_logps(scores_N, batch.branch_N, len(batch.rows))

    def remembering(self, batch: PackedBatch) -> tuple[Tensor, Memory]:
        """The scores of a shared batch, and what `following` needs to score other completions of its prompts."""
        memory = Memory()
        return self(batch, Ragged(batch.units, memory)), memory

    @torch.no_grad()
    def following(self, continuation: Continuation, memory: Memory) -> Tensor:
        """Scores of completions whose prompts were encoded in an earlier pass: float32 of shape R, no gradient."""
        assert self.head is not None, "remembered hidden states go through the head as it is"
        assert memory.hidden is not None, "the pass that remembers is over"
        batch = continuation.batch
        hidden = memory.hidden[continuation.last_U]
        if batch.positions:
            ragged = Following(batch.units, continuation.spans, memory)
            own = self.decoder(**self._inputs(batch, ragged)).last_hidden_state[0]
            hidden = torch.cat((hidden, own))
        scores_N = token_logps(hidden[batch.source_N], batch.target_N, self.head)
        return branch_logps(scores_N, batch.branch_N, len(batch.rows))

    def _inputs(self, batch: PackedBatch, ragged: Ragged | None) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids_BL, "use_cache": False}
        if batch.units:
            return inputs | {"position_ids": batch.position_ids_BL, "ragged": ragged or Ragged(batch.units)}
        assert batch.mask_BL is not None, "a batch is either ragged or padded"
        return inputs | {"attention_mask": batch.mask_BL.long()}

    def _by_logits(self, batch: PackedBatch, inputs: dict[str, Any]) -> Tensor:
        """For heads that are more than a matrix, a scale and a cap: the model's own logits, all at once."""
        if len(batch.input_ids_BL) == 1:
            logits_NV = self.model(**inputs, logits_to_keep=batch.source_N).logits[0]
        else:
            logits_NV = self.model(**inputs).logits.flatten(0, 1)[batch.source_N]
        logits_NV = logits_NV.float()
        scores_N: Tensor = logits_NV.gather(1, batch.target_N[:, None])[:, 0] - logits_NV.logsumexp(1)
        return scores_N


def find_decoder(model: Any) -> Any:
    """What gives hidden states; `model` itself if nothing in it does."""
    from transformers import PreTrainedModel

    decoder = model.get_decoder()
    return decoder if isinstance(decoder, PreTrainedModel) else model


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
