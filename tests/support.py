"""What tests of the trainer share: a tiny tokenizer, tiny random models, rows, and one step run by hand."""

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ktotrain.batch import TokenizedRow
from ktotrain.losses import LOSSES
from ktotrain.packing import Layout
from ktotrain.plan import plan_run
from ktotrain.probe import choose_layout
from ktotrain.reference import Reference, twin_of
from ktotrain.scorer import Scorer
from ktotrain.step import Machinery, Objective, Packing, build_packs, run_step

# Beside the repository, or, on a machine that gets the repository alone, within it.
SHARED = next(filter(Path.is_dir, (up / "shared" for up in Path(__file__).parents[2:0:-1])), Path("shared"))
VOCABULARY = 96
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(template: str | None = TEMPLATE) -> Any:
    """A tokenizer of single bytes: 261 tokens, pad 0, bos 1, eos 2; adds nothing of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.add_special_tokens(specials)
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=template
    )


def tiny_llama(**changes: Any) -> Any:
    """A random two-layer Llama with grouped-query heads, in evaluation mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(config | changes))).eval()


def model_folder(folder: Path, **changes: Any) -> Path:
    """A tiny Llama with the byte tokenizer, as `save_pretrained` writes them."""
    from ktotrain.model import quiet

    tokenizer = byte_tokenizer()
    with quiet():
        tiny_llama(**({"vocab_size": len(tokenizer)} | changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_rows(
    groups: Sequence[int], *, seed: int = 0, longest: int = 24, vocabulary: int = VOCABULARY
) -> list[TokenizedRow]:
    """A row for each number in `groups`; equal numbers share a prompt; labels alternate at random, both present."""
    rng = np.random.default_rng(seed)
    prompts = {g: rng.integers(3, vocabulary, rng.integers(1, longest), dtype=np.int32) for g in dict.fromkeys(groups)}
    labels = rng.permutation([i % 2 == 0 for i in range(len(groups))])
    return [
        TokenizedRow(
            group,
            group,
            prompts[group],
            rng.integers(3, vocabulary, rng.integers(1, longest), dtype=np.int32),
            bool(label),
            f"row {index}",
        )
        for index, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def text_records(count: int = 24) -> list[dict[str, Any]]:
    """Rows as a user's file holds them: two completions, one of each label, for every prompt."""
    return [
        {
            "prompt": f"\n\nHuman: what is {n} plus {n}?\n\nAssistant:",
            "completion": f" It is {2 * n}." if label else f" I would rather not say, {n} times over.",
            "label": label,
        }
        for n in range(count // 2)
        for label in (True, False)
    ]


@dataclasses.dataclass
class StepNumbers:
    """What a step computed, and the gradients it left."""

    loss: float
    kl: float
    grad_norm: float
    policy_logps: Tensor
    log_ratios: Tensor
    labels: Tensor
    gradients: dict[str, Tensor]


def run_steps(
    model: Any,
    rows: Sequence[TokenizedRow],
    *,
    reference: Reference | None = None,
    attention: str = "auto",
    layout: Layout | None = None,
    follow: bool = True,
    pack_tokens: int = 100_000,
    batch_size: int = 8,
    max_length: int = 512,
    loss: str = "kto",
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
    learning_rate: float = 2e-3,
    steps: int = 2,
    shuffle: bool = False,
    precision: torch.dtype | None = None,
) -> list[StepNumbers]:
    """Train `model` (or what is inside a PeftModel) for a few steps with AdamW, and report each step's numbers.

    It runs where the model lies; `precision` is what autocast computes in. The numbers come back to the CPU.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    choice = choose_layout(base, attention=attention, precision=precision)
    scorer = Scorer(base, choice.head)
    device = base.device
    autocast = functools.partial(torch.autocast, device.type, precision) if precision else contextlib.nullcontext
    reference = reference or twin_of(copy.deepcopy(base), choice.head)
    machinery = Machinery(scorer, reference, device, total=lambda x: x, autocast=autocast)
    objective = Objective(LOSSES[loss], beta, *weights)
    packing = Packing(max_length, pack_tokens, layout or choice.layout, follow=choice.follows and follow)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=0.0)
    plan = plan_run(
        [row.group for row in rows],
        [row.label for row in rows],
        batch_size=batch_size,
        seed=0,
        shuffle=shuffle,
        epochs=1,
        max_steps=steps,
    )
    numbers = []
    model.train()
    for step in plan:
        packs = build_packs(step, rows, packing, objective.loss)
        scores = run_step(packs, machinery, objective, learn=lambda loss: loss.backward())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0))
        gradients = {name: p.grad.cpu().clone() for name, p in parameters.items() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        numbers.append(
            StepNumbers(
                float(scores.losses_n.mean()),
                scores.z_ref,
                norm,
                scores.policy_n,
                scores.policy_n - scores.reference_n,
                packs.labels_n,
                gradients,
            )
        )
    return numbers
