"""Random models of known shapes, and a tokenizer trained on the rows at hand: speed does not ask what a model knows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied embeddings
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "7m": (256, 688, 6, 4, 4, 8192, True),
    "7m-150k": (256, 688, 6, 4, 4, 151_936, True),
    "100m": (768, 2048, 12, 12, 4, 8192, True),
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151_936, True),
    "7b": (3584, 18_944, 28, 28, 4, 152_064, False),
}


def make_model(folder: Path, shape: str, texts: Iterable[str], *, dtype: str = "float32", seed: int = 0) -> Path:
    """A random model of a Llama (7m, 100m) or Qwen2.5 shape with a byte-level BPE tokenizer of at most 8,192 tokens."""
    import torch
    import transformers

    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    family = "Llama" if shape.startswith(("7m", "100m")) else "Qwen2"
    tokenizer = make_tokenizer(texts)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = getattr(transformers, f"{family}ForCausalLM")._from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE of 8,192 tokens, trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def texts_of(rows: Path) -> list[str]:
    """Prompts and completions of a JSONL file of plain-text rows."""
    records = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    return [record["prompt"] + record["completion"] for record in records]


def flops_per_token(shape: str) -> float:
    """Multiply-adds of a token's matrices without embeddings and head, times two: the forward pass alone."""
    hidden, intermediate, layers, heads, kv_heads, _, _ = SHAPES[shape]
    head_size = hidden // heads
    attention = hidden * (2 * heads * head_size + 2 * kv_heads * head_size)
    return 2.0 * layers * (attention + 3 * hidden * intermediate)


def spared_flops_per_token(shape: str) -> float:
    """The part of it that the last layer spares for a token that nothing is read of: output projection and MLP."""
    hidden, intermediate, _, heads, *_ = SHAPES[shape]
    return 2.0 * (hidden * (hidden // heads) * heads + 3 * hidden * intermediate)


def head_flops_per_token(shape: str) -> float:
    """The same for a scored token's logits."""
    hidden, *_, vocabulary, _ = SHAPES[shape]
    return 2.0 * hidden * vocabulary
