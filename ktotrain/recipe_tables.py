"""The recipe's tables: every key with its type, default, sentence and check. docs/recipe.md is made from this file.

Constructors and functions elsewhere take plain values from here; nothing but the trainer sees a whole recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ktotrain.recipe_keys import key

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
ReferenceLogps: TypeAlias = Literal["auto", "online", "cached"]
Quantization: TypeAlias = Literal["none", "int8", "nf4"]
Attention: TypeAlias = Literal["auto", "ragged", "flex", "varlen", "padded"]
LossKind: TypeAlias = Literal["kto", "apo_zero_unpaired"]
Weight: TypeAlias = float | Literal["auto"]
PairsKind: TypeAlias = Literal["step", "fixed"]
Schedule: TypeAlias = Literal["cosine", "linear", "constant"]
Precision: TypeAlias = Literal["bf16", "fp16", "no"]

# accelerate's, spelled as its `log_with` wants them.
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecipe:
    """The model to train, and the reference it is compared with."""

    path: str = field(metadata=key("The model to train: a Hub id, or a folder that `save_pretrained` wrote."))
    revision: str = field(
        default="",
        metadata=key("Branch, tag or commit of a Hub model; empty for its main branch.", may_be_empty=True),
    )
    trust_remote_code: bool = field(
        default=False, metadata=key("Whether to run Python code that comes with the model. Read that code first.")
    )
    dtype: Dtype = field(
        default="auto",
        metadata=key(
            "What weights are held in. `auto`: trained weights (LoRA's too) float32, frozen ones as in the checkpoint."
        ),
    )
    reference: str = field(
        default="initial",
        metadata=key(
            "What rewards are measured against. `initial`: the policy as loaded, an adapter of `adapter.init` "
            "included. Or another model's Hub id or folder."
        ),
    )
    reference_logps: ReferenceLogps = field(
        default="auto",
        metadata=key(
            "When the reference's log-probabilities are computed. `cached`: all before training, kept in a file that "
            "later runs with the same reference and rows use, whatever else they change (in half precision: with the "
            "same attention, since it decides the last digits); a second model is freed then, and not even loaded "
            "where all is known. `online`: in each step, so that the first one comes at once. `auto`: cached."
        ),
    )
    quantization: Quantization = field(
        default="none",
        metadata=key("Frozen weights in 8 or 4 bits; needs an `[adapter]`. Not there yet: a run accepts only `none`."),
    )
    attention: Attention = field(
        default="auto",
        metadata=key(
            "How packs attend. `auto` takes the fastest that is exact for the model, on a GPU by measuring; name one "
            "for the same choice every time. `ragged`: a loop over the blocks of a pack, on any device. `varlen` and "
            "`flex`: one call of torch's own kernels, on a CUDA GPU; `varlen` in half precision only, without "
            "soft-caps and sinks. `padded`: plain rows with padding, the slowest and the one that works everywhere."
        ),
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata=key("Recompute activations in the backward pass: far less memory, about a third more time."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecipe:
    """A small adapter to train in place of the model's own weights. Leave the table out for full fine-tuning."""

    kind: Literal["lora"] = field(default="lora", metadata=key("The kind of adapter."))
    rank: int = field(default=16, metadata=key("Rank of the adapter's matrices.", least=1))
    alpha: int = field(
        default=32, metadata=key("The adapter's output is scaled by alpha / rank; twice the rank is usual.", least=1)
    )
    dropout: float = field(default=0.0, metadata=key("Dropout on the adapter's input.", least=0, below=1))
    target_modules: Literal["all-linear"] | tuple[str, ...] = field(
        default="all-linear",
        metadata=key('Which layers get an adapter: all linear ones but the head, or names such as `["q_proj"]`.'),
    )
    init: str = field(
        default="",
        metadata=key(
            "Folder of an adapter to start from; its rank, alpha and target modules then hold, not the ones here.",
            may_be_empty=True,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe:
    """The rows: prompt, completion, label."""

    train: tuple[str, ...] = field(
        metadata=key("Training rows: files, folders or Hub ids. A single one needs no brackets.")
    )
    eval: tuple[str, ...] = field(
        default=(), metadata=key("Evaluation rows, likewise; empty for no evaluation.", may_be_empty=True)
    )
    max_length: int = field(
        default=1024,
        metadata=key(
            "Most tokens of prompt and completion together; the end is cut. A row whose prompt alone fills it is "
            "dropped, and counted.",
            least=2,
        ),
    )
    shuffle: bool = field(default=True, metadata=key("Whether to shuffle; if not, rows train in file order."))


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecipe:
    """The loss, and what each class counts in it."""

    kind: LossKind = field(
        default="kto",
        metadata=key(
            "`kto`: the paper's. `apo_zero_unpaired`: the same against a fixed zero, without mismatched completions."
        ),
    )
    beta: float = field(
        default=0.1,
        metadata=key(
            "How strongly the policy is held to the reference: 0.1 suits most data, below that after fine-tuning on "
            "the same data, up to 0.5 if the reference is already aligned.",
            above=0,
        ),
    )
    desirable_weight: Weight = field(
        default=1.0,
        metadata=key(
            'What a desirable row counts. `"auto"` sets both weights by the paper\'s rule from the training rows: the '
            "rarer class is weighted up until both count the same.",
            above=0,
        ),
    )
    undesirable_weight: Weight = field(
        default=1.0,
        metadata=key('What an undesirable row counts; `"auto"` as for `desirable_weight`.', above=0),
    )
    z_ref_share: float = field(
        default=1.0,
        metadata=key(
            "The share of a step's mismatched pairs that the reference point is estimated from. Below 1 costs less and "
            "makes a noisier estimate: no longer TRL's numbers.",
            above=0,
            most=1,
        ),
    )
    z_ref_pairs: PairsKind = field(
        default="step",
        metadata=key(
            "`step`: each step pairs its own rows, anew in each epoch. `fixed`: rows keep the partners of the first "
            "epoch, so that a cache of the reference serves all epochs; the estimate then sees the same pairs again. "
            "With a small `z_ref_share` a later step can be left without a kept pair; it takes one of its rows' others."
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimRecipe:
    """The optimizer and its schedule."""

    name: Literal["adamw"] = field(default="adamw", metadata=key("The optimizer."))
    learning_rate: float = field(
        default=5e-6,
        metadata=key(
            "Its highest value. 5e-6 is the paper's for full fine-tuning; LoRA wants more, about 5e-5.", above=0, most=1
        ),
    )
    schedule: Schedule = field(
        default="cosine", metadata=key("How the learning rate falls after the warm-up: to 0, or not at all.")
    )
    warmup: float = field(
        default=0.1,
        metadata=key("Fraction of all steps in which the learning rate rises from 0.", least=0, most=1),
    )
    weight_decay: float = field(default=0.0, metadata=key("AdamW's decoupled weight decay.", least=0, most=1))
    betas: tuple[float, float] = field(
        default=(0.9, 0.999), metadata=key("AdamW's decay rates of the two moments.", least=0, below=1)
    )
    eps: float = field(default=1e-8, metadata=key("AdamW's guard against division by zero.", above=0))
    max_grad_norm: float = field(
        default=1.0, metadata=key("Gradients are scaled down to this norm; 0 for no clipping.", least=0)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """The run."""

    output_dir: str = field(default="runs/my-run", metadata=key("The run folder; missing parents are made."))
    epochs: int = field(default=1, metadata=key("Passes over the rows; one is enough for KTO.", least=1))
    max_steps: int = field(
        default=0,
        metadata=key(
            "Over 0: exactly so many optimizer steps, whatever `epochs` says; when rows run out, the next epoch's "
            "order follows.",
            least=0,
        ),
    )
    batch_size: int = field(
        default=32,
        metadata=key("Rows per optimizer step, over all processes; 8 to 128 is fine.", least=1),
    )
    pack_tokens: int = field(
        default=8192,
        metadata=key(
            "Most tokens in one forward pass: the memory knob. It changes speed, never results. "
            "Not below the longest row.",
            least=2,
        ),
    )
    precision: Precision = field(
        default="bf16", metadata=key("What matrices are multiplied in; losses and log-probabilities are float32.")
    )
    seed: int = field(
        default=0,
        metadata=key(
            "Decides the order of rows, fresh adapters and samples; the same seed and rows give the same run.",
            least=0,
            most=2**32 - 1,
        ),
    )
    log_every: int = field(default=1, metadata=key("Optimizer steps from one line of metrics to the next.", least=1))
    eval_every: int = field(
        default=0, metadata=key("Optimizer steps between evaluations; 0: only at the end.", least=0)
    )
    save_every: int = field(
        default=0,
        metadata=key(
            "Optimizer steps between checkpoints, and one at the end; 0: only when Ctrl-C or SIGTERM stops the run.",
            least=0,
        ),
    )
    keep_checkpoints: int = field(
        default=2,
        metadata=key("How many checkpoints stay, the newest; 0 for all.", least=0),
    )
    max_bad_steps: int = field(
        default=3,
        metadata=key(
            "A step whose loss or gradient is not finite is skipped; after so many in a row the run ends, with what "
            "it had learned before them saved.",
            least=1,
        ),
    )
    trackers: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "Where else to log, through accelerate. Resumed, a run is a new one there.",
            choices=TRACKERS,
            may_be_empty=True,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesRecipe:
    """The completions of `samples.jsonl`: the same prompts before and after training."""

    count: int = field(default=4, metadata=key("Prompts to pick from the rows; 0 for no samples at all.", least=0))
    max_new_tokens: int = field(default=64, metadata=key("Most tokens of a sample.", least=1))
    temperature: float = field(
        default=0.0, metadata=key("0 takes the likeliest token each time; above that, tokens are drawn.", least=0)
    )
    prompts: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "Your own prompts in place of picked ones; for a chat model, what the user says.", may_be_empty=True
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole run. `adapter` is None for full fine-tuning. Made and checked by `recipe.load_recipe`."""

    model: ModelRecipe
    data: DataRecipe
    adapter: AdapterRecipe | None = None
    loss: LossRecipe = field(default_factory=LossRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    samples: SamplesRecipe = field(default_factory=SamplesRecipe)


# In the order of DESIGN section 6, which docs and `recipe.json` follow.
TABLES: dict[str, type] = {
    "model": ModelRecipe,
    "adapter": AdapterRecipe,
    "data": DataRecipe,
    "loss": LossRecipe,
    "optim": OptimRecipe,
    "train": TrainRecipe,
    "samples": SamplesRecipe,
}
