"""Which layout each architecture gets, and how far its numbers are from one row at a time. Anyone can run it:

    python -m benchmarks.architectures [--write docs/architectures.md] [--device cuda] [--attention flex] [NAME ...]

For each architecture a tiny random model scores rows that share prompts, in the layout that the start-up probe chose
and row by row through the model's own forward and logits. Shown is the largest relative difference of a completion's
log-probability, and of the norm of the gradient's difference to the gradient's norm; the first of them once more with
bfloat16 weights; and by what a GPU can do the attention, going by what the layers ask for (whether it is exact there is
tried at the start of each run).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ktotrain.attention import KERNELS
from ktotrain.batch import Branch
from ktotrain.model import without_dropout
from ktotrain.packing import Layout, pack
from ktotrain.probe import choose_layout, layer_asks
from ktotrain.scorer import Scorer

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 12}
STRETCHED = {"rope_theta": 10000.0, "original_max_position_embeddings": 48}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# What each architecture needs besides, so that the tiny model has what makes it special; a second word is a variant.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"head_dim": 8, **WINDOW},
    "Mixtral": {"num_local_experts": 4},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Qwen3Moe": {"head_dim": 8, **EXPERTS},
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 4.0, **WINDOW},
    "Gemma3": {"head_dim": 8, **WINDOW},
    "Phi": {},
    "Phi3": {**WINDOW},
    "Cohere": {"logit_scale": 0.5},
    "Cohere2": {"logit_scale": 0.5, **WINDOW},
    "Granite": {"logits_scaling": 4.0},
    "Olmo2": {},
    "Olmo3": {**WINDOW},
    "Glm4": {"head_dim": 8},
    "SmolLM3": {},
    "Starcoder2": {},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "GPTNeoX": {},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, **WINDOW},
    "DeepseekV3": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
    "Llama4": {"head_dim": 8, "num_local_experts": 2, "attention_chunk_size": 12, "intermediate_size_mlp": 64},
    "ModernBertDecoder": {"global_attn_every_n_layers": 2, "local_attention": 12},
    "Mllama": {"cross_attention_layers": []},
    "Lfm2": {"num_hidden_layers": 3, "full_attn_idxs": [1]},
    "Qwen3Next": {"head_dim": 8, **EXPERTS},
    "Jamba": {"num_experts": 4},
    "Mamba": {"state_size": 8},
    "FalconH1": {},
    "Falcon": {},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 8},
    "StableLm": {},
    "Nemotron": {},
    "Doge": {},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 32, "use_sliding_window": True, **WINDOW},
    "Phimoe": {"num_local_experts": 4, **WINDOW},
    "Llama dynamic": {
        "max_position_embeddings": 48,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    },
    "Phi3 longrope": {
        "original_max_position_embeddings": 48,
        "rope_parameters": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            **STRETCHED,
        },
    },
}
CONFIGS = {"Gemma3": "Gemma3TextConfig", "Llama4": "Llama4TextConfig", "Mllama": "MllamaTextConfig"}
MODELS = {"GPT2": "GPT2LMHeadModel"}


def tiny(name: str) -> Any:
    """A random model, with weights large enough that every token matters to every later one."""
    import transformers

    kind = name.partition(" ")[0]
    config = getattr(transformers, CONFIGS.get(kind, f"{kind}Config"))(**COMMON | ARCHITECTURES[name])
    torch.manual_seed(0)
    model = getattr(transformers, MODELS.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            if path.endswith("self_attn.A"):  # Doge's: its mask is the same for all keys where this is zero
                parameter.normal_(0, 1.0)
    without_dropout(model)  # as every model that is loaded for training
    return model


def rows() -> list[Branch]:
    """Twelve completions of five prompts, some beyond the tiny models' windows."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 96, length, dtype=np.int32) for length in (30, 5, 17, 40, 1)]
    owners = (0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4)
    return [
        Branch(row, owner, prompts[owner], rng.integers(3, 96, 1 + 3 * row, dtype=np.int32))
        for row, owner in enumerate(owners)
    ]


def row_by_row(model: Any, branches: list[Branch]) -> Tensor:
    """Each row alone, through the model's own logits: the plainest reading there is.

    The last token is not fed, as in a pack: it predicts nothing. Short rows come first, since some rotary positions go
    on with the longest row seen.
    """
    scores = {}
    for branch in sorted(branches, key=lambda branch: len(branch.prompt_ids) + len(branch.completion_ids)):
        ids = torch.from_numpy(np.concatenate((branch.prompt_ids, branch.completion_ids)).astype(np.int64))[None]
        ids = ids.to(model.device)
        logps = model(input_ids=ids[:, :-1], use_cache=False).logits[0].float().log_softmax(-1)
        token_logps = logps.gather(1, ids[0, 1:, None])[:, 0]
        scores[branch.row] = token_logps[len(branch.prompt_ids) - 1 :].sum()
    return torch.stack([scores[branch.row] for branch in branches])


def in_layout(model: Any, branches: list[Branch], layout: Layout, scorer: Scorer) -> Tensor:
    """The same through packs of at most 120 tokens."""
    scores = torch.zeros(len(branches), device=model.device)
    for batch in pack(branches, pack_tokens=120, layout=layout):
        places = torch.tensor(batch.rows, device=model.device)
        scores = scores.index_add(0, places, scorer(batch.to(model.device)))
    return scores


def gradient(model: Any, scores: Tensor) -> Tensor:
    """All gradients of a weighted sum of the scores, as one vector."""
    model.zero_grad()
    weighted = scores * torch.linspace(-1, 1, len(scores), device=scores.device)
    weighted.sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The layout of one architecture and why, the differences, and which GPU kernels offer what its layers ask for."""

    layout: Layout
    reason: str
    scores: float
    gradients: float
    kernels: tuple[str, ...]


def examine(name: str, attention: str = "auto", device: str = "cpu") -> Finding:
    """Build one architecture, choose its layout, and compare."""
    branches = rows()
    model = tiny(name).to(device)
    usual = model.config._attn_implementation
    expected = row_by_row(model, branches)
    expected_gradient = gradient(model, expected)
    choice = choose_layout(model, attention=attention)
    scores = in_layout(model, branches, choice.layout, Scorer(model, choice.head))
    difference = apart_from(expected, scores)
    apart = float((gradient(model, scores) - expected_gradient).norm() / expected_gradient.norm())
    kernels: tuple[str, ...] = ()
    if choice.attention != usual:
        asks = layer_asks(model)
        serving = [kernel for kernel in KERNELS.values() if not any(map(kernel.ask_trouble, asks))]
        kernels = tuple(kernel.name for kernel in serving)
    return Finding(choice.layout, choice.reason, difference, apart, kernels)


def apart_from(expected: Tensor, scores: Tensor) -> float:
    """The largest relative difference of a row's score."""
    return float(((scores - expected).abs() / expected.abs()).detach().max())


@torch.no_grad()
def in_half_precision(name: str, attention: str, device: str) -> str:
    """With bfloat16 weights: how far the layout's scores are from float32, and how far rows alone are."""
    branches = rows()
    model = tiny(name).to(device, torch.bfloat16)
    expected = row_by_row(copy.deepcopy(model).float(), branches)
    alone = apart_from(expected, row_by_row(copy.deepcopy(model), branches))
    choice = choose_layout(model, attention=attention)
    here = apart_from(expected, in_layout(model, branches, choice.layout, Scorer(model, choice.head)))
    return f"{here:.0e} / {alone:.0e}"


def write(path: Path, lines: list[str], *, device: str, all_of_them: bool) -> str:
    """Write the table, or put the lines of a few architectures into the one there is; what speaks against it, or ""."""
    torch_version = version("torch").partition("+")[0]
    head = f"""# Layouts by architecture

Made by `python -m benchmarks.architectures --write docs/architectures.md` with transformers
{version("transformers")} and torch {torch_version}: tiny random models, float32, on {device}. The two
numbers are the largest relative differences between the layout used and one row at a time through the model's own
forward. *bfloat16* has the difference of log-probabilities once more, with weights of that type, from the same weights
in float32: of the layout used, and, for comparison, of the model's own forward one row at a time. *Kernels* are those
that offer what the model's layers ask of attention. `ragged`, a loop over the blocks of a pack, is the one on a CPU; on
a GPU the start-up probe also tries `varlen` (half precision only) and `flex`, drops what is not exact, takes the
fastest, and logs the figures.

Sliding windows hold wherever a model puts them, in its layers or in its attention mask alone (Qwen2Moe, Phimoe). A mask
that is anything else but causal (chunks, blocks, Doge's own) rules packs out. Rotary positions that stretch with the
length of a sequence (`dynamic`, `longrope`) do so by each row's own length: where rows are long enough for that (here:
more than 48 tokens) each has its prompt to itself, so that its numbers do not depend on its neighbours. In the layout
`alone`, that of such models where packs are ruled out, a row is a pack. The load-balancing loss of a mixture of
experts, which TRL adds to KTO's, depends on which tokens share a pass: it is never added, and a run says so.

"""
    if not all_of_them:
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if not there.startswith(head):
            return f"{path}: made with other versions, or not at all. Leave out the names to make all of it anew"
        new = {line.split(" | ")[0]: line for line in lines[2:]}
        old = there.removeprefix(head).splitlines()
        lines = [new.pop(line.split(" | ")[0], line) for line in old] + list(new.values())
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Layouts by architecture.")
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES), help="as in transformers: Llama, Qwen3 …")
    parser.add_argument(
        "--write", type=Path, help="put the table into this Markdown file; with names, their lines of one that is there"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--attention", default="auto", help="as in a recipe: auto, ragged, varlen, flex")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        "| architecture | layout | log-probabilities | gradient | bfloat16 | kernels | why |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    worst = 0.0
    for name in options.names:
        try:
            found = examine(name, options.attention, options.device)
            half = in_half_precision(name, options.attention, options.device)
        except Exception as error:  # noqa: BLE001 (a table of what works needs all of it)
            lines.append(f"| {name} | fails | | | | | {type(error).__name__}: {str(error).splitlines()[0][:80]} |")
            worst = float("inf")
        else:
            kernels = ", ".join(found.kernels)
            lines.append(
                f"| {name} | {found.layout} | {found.scores:.0e} | {found.gradients:.0e} | {half} | {kernels} "
                f"| {found.reason} |"
            )
            worst = max(worst, found.scores)
        print(lines[-1], flush=True)
    if options.write:
        trouble = write(
            options.write, lines, device=options.device, all_of_them=len(options.names) == len(ARCHITECTURES)
        )
        if trouble:
            sys.exit(trouble)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
