"""The reference: what the policy is compared with. Three ways to have one, which give the same numbers.

AdapterOff       the policy's own base weights, with its fresh adapter switched off: costs no memory
FrozenAdapter    the adapter as loaded, kept beside the trained one on the same base weights
FrozenCopy       a second model
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from ktotrain.batch import PackedBatch
from ktotrain.logps import Head
from ktotrain.model_code import code_of
from ktotrain.scorer import Scorer, find_head, no_grad_scores
from ktotrain.sharding import whole_tensors

FROZEN = "reference"  # peft's name for the frozen adapter


class Reference(Protocol):
    """Scores packs with the reference: float32 of shape R (branches), without gradient."""

    def __call__(self, batch: PackedBatch) -> Tensor: ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight it computes with, under the name it has without adapters, in the order of names.

        Where weights are sharded each is gathered in its turn, so all processes must go through all of them.
        """
        ...

    def settings(self) -> str:
        """What else decides its scores, as text."""
        ...

    def code(self) -> str:
        """A name for the code that computes them: see `ktotrain.model_code`."""
        ...

    def release(self) -> None:
        """Free what only the reference needs. It cannot be called any more."""
        ...


class _WithoutAdapter:
    """What references have in common that compute with a whole model's own weights."""

    scorer: Scorer

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Reference`."""
        return _weights(self.scorer.model, adapter="")

    def settings(self) -> str:
        """See `Reference`."""
        return _settings(self.scorer.model)

    def code(self) -> str:
        """See `Reference`: with its adapter switched off a model computes what it does without."""
        return code_of(self.scorer.model, without={"peft"})


# What an adapter's config holds that no score depends on: where it comes from, and how it was or will be trained.
WITHOUT_EFFECT = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "lora_dropout", "auto_mapping"}
)


def _in_order(value: Any) -> Any:
    """Sets, in an order that every process gives them."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


class AdapterOff(_WithoutAdapter):
    """The reference of a policy with a fresh adapter: the same model without it."""

    def __init__(self, adapted: Any, scorer: Scorer) -> None:
        self.adapted, self.scorer = adapted, scorer

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`."""
        with self.adapted.disable_adapter():
            return no_grad_scores(self.scorer, batch)

    def release(self) -> None:
        """See `Reference`: the weights are the policy's own."""


class FrozenAdapter:
    """The reference of a policy whose adapter was loaded: a frozen copy of that adapter on the same base.

    Made before the first step, and before weights are sharded; `scorer` is set after that. The copy is never saved:
    see `ktotrain.outputs.save_model`.
    """

    scorer: Scorer

    def __init__(self, adapted: Any, scorer: Scorer | None = None) -> None:
        self.adapted = adapted
        if scorer is not None:
            self.scorer = scorer
        trained = adapted.active_adapter
        adapted.add_adapter(FROZEN, copy.deepcopy(adapted.peft_config[trained]))
        weights = dict(adapted.named_parameters())
        for name, parameter in weights.items():
            if f".{FROZEN}." in name:
                parameter.data.copy_(weights[name.replace(f".{FROZEN}.", f".{trained}.")].data)
                parameter.requires_grad_(False)
        self.trained = trained

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`."""
        with self._switched():
            return no_grad_scores(self.scorer, batch)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Reference`."""
        return _weights(self.scorer.model, adapter=FROZEN)

    def settings(self) -> str:
        """See `Reference`: the adapter's scale, which patterns can set for each layer, is not in its weights."""
        config = self.adapted.peft_config[FROZEN].to_dict()
        adapter = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
        return f"{_settings(self.scorer.model)} {json.dumps(adapter, sort_keys=True, default=_in_order)}"

    def code(self) -> str:
        """See `Reference`."""
        return code_of(self.scorer.model)

    def release(self) -> None:
        """See `Reference`."""
        self.adapted.delete_adapter(FROZEN)

    @contextlib.contextmanager
    def _switched(self) -> Iterator[None]:
        # peft makes the adapter it switches to trainable and the other one not: put that back as it was.
        trainable = {name: parameter.requires_grad for name, parameter in self.adapted.named_parameters()}
        self.adapted.set_adapter(FROZEN)
        try:
            yield
        finally:
            self.adapted.set_adapter(self.trained)
            for name, parameter in self.adapted.named_parameters():
                parameter.requires_grad_(trainable[name])


class FrozenCopy(_WithoutAdapter):
    """Another model, or a copy of the policy as loaded."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        scorer.model.requires_grad_(False).eval()

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`."""
        return no_grad_scores(self.scorer, batch)

    def release(self) -> None:
        """See `Reference`: the second model goes."""
        del self.scorer


def copy_of(model: nn.Module, head: Head | None) -> FrozenCopy:
    """A frozen copy of a model as it is now; costs its weights' memory once more."""
    return twin_of(copy.deepcopy(model), head)


def twin_of(twin: nn.Module, head: Head | None) -> FrozenCopy:
    """The reference that such a copy is; `head` is the LM head of its original."""
    return FrozenCopy(Scorer(twin, None if head is None else find_head(twin)))


def _weights(model: Any, *, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """A model's weights without adapters, but for the one named; peft's wrappers leave no trace in the names."""
    for name, tensor in whole_tensors(model, lambda name: name.replace(".base_layer", "")):
        if "lora_" not in name or (adapter and f".{adapter}." in f"{name}."):
            yield name, tensor


def _settings(model: Any) -> str:
    """The config, without what does not change a score."""
    ignored = {"_name_or_path", "transformers_version", "architectures", "use_cache", "dtype"}
    config = {key: value for key, value in model.config.to_dict().items() if key not in ignored}
    return json.dumps(config, sort_keys=True, default=str)
