"""What a run will hold in memory, before it is tried. Weights, gradients and Adam's moments are exact, the rest close.

Per token of a pack, a decoder layer keeps for its backward pass (h hidden, q = heads x head size, k = key-value heads
x head size, i intermediate; r, c bytes of an element on the residual stream and in matrix products):

    a norm        h (4 + r + c)      input in float32, normalised, scaled: the input of the projections; mostly two
    attention     (3 q + 2 k) c      queries, keys, values, result, and the result again as input of its projection
    MLP           4 i c              gate, its activation, up, product; an ungated one keeps 2 i c, or 5 i c if its
                                     activation is GPT-2's, which is not one operation but many

Gradient checkpointing keeps h r per layer and token, and one layer's full sum while that layer is computed again.
With autocast, float32 matrices are kept once more in half precision. The LM head keeps its scored inputs, the
logits of a trained head up to a bound, and works on one chunk of logits at a time, of which there are three copies.
Passes without gradient keep nothing: they hold one layer's tensors of a pack at a time. The reference's can still be
the peak, since its packs are filled up to `pack_tokens` with sequences of many steps; it is either over before the
first step, without gradients and optimizer state, or goes on beside them. Not counted: the allocator's fragmentation,
the framework itself (about 0.5 GiB on a GPU), LoRA's narrow activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ktotrain.logps import CHUNK_ELEMENTS, KEEP_ELEMENTS

GIB = 2**30
FLOAT32 = 4
HALF = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The numbers of a model that memory depends on. Sizes are elements, unless the name says bytes."""

    weight_bytes: int
    trained: int
    trained_bytes: int
    layers: int
    hidden: int
    heads: int
    query: int
    key_value: int
    intermediate: int
    norms: int
    mlp_tensors: int
    vocabulary: int
    head_trained: bool
    float32_matrices: int
    residual_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes, by what holds them. `total` is the peak: of a step, or of the reference's pass if that is higher.

    The reference's pass takes `scoring` for its pack. A reference that is `online` stays beside the steps.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    half_copies: int
    gathered: int = 0
    scoring: int = 0
    online: bool = True

    @property
    def step(self) -> int:
        """The peak of a step, in bytes."""
        reference = self.reference if self.online else 0
        kept = self.weights + reference + self.gradients + self.optimizer + self.half_copies
        return kept + self.gathered + self.activations + self.head

    @property
    def scored(self) -> int:
        """The peak of the reference's pass, in bytes."""
        optimizer = self.optimizer if self.online else 0
        return self.weights + self.reference + optimizer + self.half_copies + self.gathered + self.scoring

    @property
    def total(self) -> int:
        """The peak of all, in bytes."""
        return max(self.step, self.scored)

    def table(self, available: int | None = None) -> str:
        """A line for each part and the total, in GiB; and whether `available` bytes are enough, if given."""
        named = (
            ("weights", self.weights),
            ("reference copy", self.reference),
            ("gradients", self.gradients),
            ("optimizer state", self.optimizer),
            ("half-precision copies", self.half_copies),
            ("gathered of shards", self.gathered),
            ("activations of a pack", self.activations),
            ("LM head", self.head),
            ("a pack of the reference", self.scoring),
        )
        lines = [f"  {name:<24}{size / GIB:>9.2f} GiB" for name, size in named if size]
        if self.scoring:
            lines.append(f"  {'in a step':<24}{self.step / GIB:>9.2f} GiB")
            when = "reference, in a step" if self.online else "reference, before step 1"
            lines.append(f"  {when:<24}{self.scored / GIB:>9.2f} GiB")
        lines.append(f"  {'total, about':<24}{self.total / GIB:>9.2f} GiB")
        if available is not None:
            lines.append(
                f"  {'available':<24}{available / GIB:>9.2f} GiB{'' if self.fits(available) else ': too little'}"
            )
        return "\n".join(lines)

    def fits(self, available: int) -> bool:
        """Whether so many bytes are enough, with a tenth left for what is not counted."""
        return self.total <= 0.9 * available


def shape_of(model: Any) -> ModelShape:
    """The shape of a transformers model, or a PEFT one around it, on any device: the meta device will do.

    What is trained is what requires a gradient. Shared weights count once.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    parameters = list(model.parameters())  # each once, though shared
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    head = base.get_output_embeddings()
    matrices = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    embedding = base.get_input_embeddings().weight
    return ModelShape(
        weight_bytes=sum(_bytes(parameter) for parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
        trained_bytes=sum(_bytes(parameter) for parameter in trained),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        query=heads * head_size,
        key_value=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        intermediate=_intermediate(config),
        norms=_norms(base, config),
        mlp_tensors=_mlp_tensors(base, config),
        vocabulary=len(embedding),
        head_trained=head is not None and head.weight.requires_grad,
        float32_matrices=sum(matrix.numel() for matrix in matrices.values() if matrix.dtype == torch.float32),
        residual_bytes=embedding.element_size(),
    )


def estimate(
    shape: ModelShape,
    *,
    pack_tokens: int,
    half_precision: bool,
    gradient_checkpointing: bool = False,
    reference_bytes: int = 0,
    scored_tokens: int | None = None,
    kept_logits: int = KEEP_ELEMENTS,
    chunk_logits: int = CHUNK_ELEMENTS,
    kept_keys: int = 0,
    reference_tokens: int = 0,
    online: bool = True,
) -> MemoryEstimate:
    """Peak memory of a training step, and of the reference's pass.

    `pack_tokens` is the most tokens in one forward pass and `scored_tokens` how many of them belong to completions
    (all, unless given); `half_precision` says whether autocast is on. `reference_bytes` is what a second model takes:
    0 for a reference that is the policy as loaded. `reference_tokens` is the most in a pack of the reference, and
    `online` says that it is asked in each step, not before the first. `kept_logits` and `chunk_logits` are the LM
    head's bounds, in elements. `kept_keys` says how many keys' weights attention keeps for a token, on average: none
    but on a CPU.
    """
    compute = HALF if half_precision else shape.residual_bytes
    scored = pack_tokens if scored_tokens is None else scored_tokens
    logits = scored * shape.vocabulary
    kept = logits if shape.head_trained and logits <= kept_logits else 0
    return MemoryEstimate(
        weights=shape.weight_bytes,
        reference=reference_bytes,
        gradients=shape.trained_bytes,
        optimizer=2 * shape.trained_bytes,
        activations=activation_bytes(shape, pack_tokens, compute, gradient_checkpointing, kept_keys),
        head=FLOAT32 * (kept + 3 * min(logits, chunk_logits))
        + scored * shape.hidden * (compute + shape.residual_bytes),
        half_copies=HALF * shape.float32_matrices if half_precision else 0,
        scoring=passing_bytes(shape, reference_tokens, compute, chunk_logits),
        online=online,
    )


def passing_bytes(shape: ModelShape, tokens: int, compute: int, chunk_logits: int) -> int:
    """What a pass without gradient holds at most: the widest place of a layer, or the head over all of its tokens."""
    residual = 2 * shape.residual_bytes + FLOAT32 + compute  # the stream, its sum with a layer's result, and its norm
    attention = 2 * (shape.query + shape.key_value) * compute
    mlp = max(2, shape.mlp_tensors - 1) * shape.intermediate * compute
    layer = shape.hidden * residual + max(attention, mlp)
    head = shape.hidden * (compute + shape.residual_bytes)
    logits = FLOAT32 * 3 * min(tokens * shape.vocabulary, chunk_logits)
    return max(tokens * layer, tokens * head + logits)


def activation_bytes(
    shape: ModelShape, tokens: int, compute: int, gradient_checkpointing: bool, kept_keys: int = 0
) -> int:
    """What the layers keep of so many tokens until the backward pass; `compute` is bytes in matrix products."""
    norms = shape.norms * shape.hidden * (FLOAT32 + shape.residual_bytes + compute)
    attention = (3 * shape.query + 2 * shape.key_value) * compute + shape.heads * kept_keys * FLOAT32
    mlp = shape.mlp_tensors * shape.intermediate * compute
    layer = norms + attention + mlp
    if gradient_checkpointing:
        return tokens * (shape.layers * shape.hidden * shape.residual_bytes + layer)
    return tokens * shape.layers * layer


def available_bytes() -> int | None:
    """Memory of the device that training will use: the GPU's, else the machine's; None if it cannot be told."""
    import os

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _bytes(parameter: Any) -> int:
    return int(parameter.numel() * parameter.element_size())


def _intermediate(config: Any) -> int:
    """Width of a layer's MLP as one token sees it: of all experts that it is sent to, in a mixture."""
    width = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    experts = getattr(config, "num_experts_per_tok", None)
    if not experts:
        return int(width)
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return int(experts * (getattr(config, "moe_intermediate_size", None) or width) + shared)


def _norms(base: Any, config: Any) -> int:
    """Norms of the residual stream in one layer: two, or four where the results of both halves are normed too."""
    found = sum(
        "Norm" in type(module).__name__ and len(module.weight) == config.hidden_size
        for module in base.modules()
        if getattr(module, "weight", None) is not None
    )
    return max(2, int(found // config.num_hidden_layers))


def _mlp_tensors(base: Any, config: Any) -> int:
    """How many tensors of its inner width an MLP keeps."""
    if any("gate" in name.rpartition(".")[2] for name, _ in base.named_modules()):
        return 4
    name = getattr(config, "hidden_act", None) or getattr(config, "activation_function", "")
    return 5 if name in ("gelu_new", "gelu_fast") else 2
