"""The reference: what the policy is compared with. Ways to have one, which give the same numbers.

AdapterOff       the policy's own base weights, with its fresh adapter switched off: costs no memory
AsLoaded         the policy itself, for scores that are all computed before the first step: costs no memory
FrozenAdapter    the adapter as loaded, kept beside the trained one on the same base weights
FrozenCopy       a second model
Unloaded         a second model that nothing is asked of, since all its scores are known
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from ktotrain.batch import PackedBatch
from ktotrain.errors import ModelError, is_shortage
from ktotrain.logps import Head
from ktotrain.model_code import code_of
from ktotrain.scorer import Scorer, find_head, no_grad_scores
from ktotrain.sharding import whole_tensors

FROZEN = "reference"  # peft's name for the frozen adapter


class Reference(Protocol):
    """Scores packs with the reference: float32 of shape R (branches), without gradient.

    `files` names the content of the files that it is loaded from, "" if it is the policy as loaded, or unknown.
    """

    files: str

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


class ReferenceShortageError(MemoryError):
    """Memory ran out while the reference scored a pack of so many `positions`."""

    def __init__(self, said: str, positions: int) -> None:
        super().__init__(said)
        self.positions = positions


def reference_pass(reference: Reference, batch: PackedBatch) -> Tensor:
    """`reference(batch)`, of which a shortage of memory says that it was the reference's.

    Raises:
        ReferenceShortageError: there was one.
    """
    try:
        return reference(batch)
    except (RuntimeError, MemoryError) as error:
        if is_shortage(error):
            raise ReferenceShortageError(str(error) or type(error).__name__, batch.positions) from error
        raise


class _WithoutAdapter:
    """What references have in common that compute with a whole model's own weights."""

    scorer: Scorer
    files = ""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Reference`."""
        return _weights(self.scorer.model, wanted=lambda name: "lora_" not in name)

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


class AsLoaded(_WithoutAdapter):
    """The policy itself, before it has learned anything. `release` it before the first step."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`."""
        return no_grad_scores(self.scorer, batch)

    def release(self) -> None:
        """See `Reference`: from here on the policy is another one."""
        del self.scorer


class _WithAdapter:
    """What references have in common that compute with an adapter as it was loaded."""

    adapted: Any
    trained: str
    scorer: Scorer
    files = ""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Reference`: the adapter's go by the name of the frozen one, whichever it is that is kept."""
        both = FROZEN in self.adapted.peft_config
        return _weights(
            self.scorer.model,
            wanted=lambda name: not (both and _of_adapter(name, self.trained)),
            rename=lambda name: f"{name}.".replace(f".{self.trained}.", f".{FROZEN}.").removesuffix("."),
        )

    def settings(self) -> str:
        """See `Reference`: the adapter's scale, which patterns can set for each layer, is not in its weights."""
        config = self.adapted.peft_config[self.trained].to_dict()
        adapter = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
        return f"{_settings(self.scorer.model)} {json.dumps(adapter, sort_keys=True, default=_in_order)}"

    def code(self) -> str:
        """See `Reference`."""
        return code_of(self.scorer.model)


class AdapterAsLoaded(_WithAdapter, AsLoaded):
    """The policy itself with its loaded adapter, before that has learned anything: as `AsLoaded`."""

    def __init__(self, adapted: Any, scorer: Scorer) -> None:
        super().__init__(scorer)
        self.adapted, self.trained = adapted, adapted.active_adapter


class FrozenAdapter(_WithAdapter):
    """The reference of a policy whose adapter was loaded: a frozen copy of that adapter on the same base.

    Made before the first step, and before weights are sharded; `scorer` is set after that. The copy is never saved:
    see `ktotrain.outputs.save_model`.

    Raises:
        ModelError: peft has no room for a second adapter of this kind.
    """

    def __init__(self, adapted: Any, scorer: Scorer | None = None) -> None:
        self.adapted = adapted
        if scorer is not None:
            self.scorer = scorer
        self.trained = trained = adapted.active_adapter
        config = copy.deepcopy(adapted.peft_config[trained])
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # some ways to begin change the base weights, and values are copied anyway
        try:
            adapted.add_adapter(FROZEN, config)
        except ValueError as error:
            raise ModelError(
                f"this adapter cannot be kept a second time, as it was loaded: {error}",
                where="adapter.init",
                do='Set model.reference_logps = "cached": all of the reference is then computed before the first step',
            ) from error
        weights = dict(adapted.named_parameters())
        for name, parameter in weights.items():
            if _of_adapter(name, FROZEN):
                own = f"{name}.".replace(f".{FROZEN}.", f".{trained}.").removesuffix(".")
                parameter.data.copy_(weights[own].data)
                parameter.requires_grad_(False)

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`."""
        with self._switched():
            return no_grad_scores(self.scorer, batch)

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
    """Another model, or a copy of the policy as loaded. `files` as in `Reference`."""

    def __init__(self, scorer: Scorer, files: str = "") -> None:
        self.scorer, self.files = scorer, files
        scorer.model.requires_grad_(False).eval()

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`."""
        return no_grad_scores(self.scorer, batch)

    def release(self) -> None:
        """See `Reference`: the second model goes."""
        del self.scorer


class Unloaded:
    """Another model whose scores are all known, so that it was never loaded. `files` as in `Reference`."""

    def __init__(self, files: str) -> None:
        self.files = files

    def __call__(self, batch: PackedBatch) -> Tensor:
        """See `Reference`: nobody should."""
        raise RuntimeError("the reference was not loaded: all its scores were known")

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Reference`: `files` stands for them."""
        return iter(())

    def settings(self) -> str:
        """See `Reference`: `files` stands for them."""
        return ""

    def code(self) -> str:
        """See `Reference`: it is part of the name that the scores were found by."""
        return ""

    def release(self) -> None:
        """See `Reference`: there is nothing."""


def twin_of(twin: nn.Module, head: Head | None) -> FrozenCopy:
    """The reference that a copy of the policy as loaded is; `head` is the LM head of its original."""
    return FrozenCopy(Scorer(twin, None if head is None else find_head(twin)))


def _of_adapter(name: str, adapter: str) -> bool:
    """Whether a weight belongs to the adapter of this name; in some layers that is the last part of its own."""
    return f".{adapter}." in f"{name}."


def _weights(
    model: Any, *, wanted: Callable[[str], bool], rename: Callable[[str], str] = str
) -> Iterator[tuple[str, Tensor]]:
    """Those of a model's weights that are `wanted`; peft's wrappers leave no trace in the names."""
    return whole_tensors(model, lambda name: rename(name.replace(".base_layer", "")), wanted)


def _settings(model: Any) -> str:
    """The config, without what does not change a score."""
    ignored = {"_name_or_path", "transformers_version", "architectures", "use_cache", "dtype"}
    config = {key: value for key, value in model.config.to_dict().items() if key not in ignored}
    return json.dumps(config, sort_keys=True, default=str)
