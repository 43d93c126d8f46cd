"""What a checkpoint costs beyond writing its bytes.

    python -m benchmarks.checkpoint_cost [--rounds 7] [--folder .]

Side one saves a checkpoint as `ktotrain run` does: the weights of a random model (100 million parameters, float32),
AdamW's state of it, the rest; files written aside, checksummed, fsynced, renamed, the one before removed. Side two
writes the same bytes from memory into one file, fsyncs it, and removes the one before. The sides alternate; a line a
round, and the ratio of the medians. A disk's speed wanders: look at the spread too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# hidden, intermediate, layers, heads, key-value heads, vocabulary: a Llama of 100 million parameters, tied embeddings.
SHAPE = (768, 2048, 12, 12, 4, 32_000)


def trained_model() -> tuple[Any, Any]:
    """A random model and its `Update` after one step of AdamW, so that there is state to save."""
    import torch
    import transformers

    from ktotrain.recipe import OptimRecipe
    from ktotrain.update import Update, make_optimizer

    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPE
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    named = list(model.named_parameters())
    optimizer, scheduler = make_optimizer([p for _, p in named], OptimRecipe(), 10)
    update = Update(
        optimizer,
        scheduler,
        torch.amp.GradScaler("cpu", enabled=False),
        named,
        1.0,
        SimpleNamespace(num_processes=1),
    )
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    update.apply()
    return model, update


def measure(folder: Path, rounds: int) -> None:
    """Print both sides of each round, and the ratio."""
    from ktotrain import checkpoint
    from ktotrain.run_state import Position, Whole, random_state, write_state

    model, update = trained_model()
    large = Whole(update.named, update.optimizer)
    parameters = sum(parameter.numel() for _, parameter in update.named)

    def fill(aside: Path) -> None:
        write_state(aside, Position(), {}, {}, large=large, update=update, rng=[random_state()], main=True)

    saved = checkpoint.save(folder, 0, fill, keep=1)
    content = b"".join(path.read_bytes() for path in sorted(saved.iterdir()))
    print(f"{parameters / 1e6:.0f}M parameters of {type(model).__name__}, {len(content) / 1e9:.3f} GB in {folder}")

    def save(number: int) -> None:
        assert large.finite()
        checkpoint.save(folder, number, fill, keep=1)

    def write(number: int) -> None:
        aside, target = folder / "aside", folder / "plain"
        with aside.open("wb", buffering=0) as file:
            view, done = memoryview(content), 0
            while done < len(content):
                done += file.write(view[done:])
            os.fsync(file.fileno())
        aside.replace(target)

    ours, plain = [], []
    for number in range(1, rounds + 1):
        ours.append(seconds(save, number))
        plain.append(seconds(write, number))
        print(
            f"checkpoint {ours[-1]:6.2f} s, plain write and fsync {plain[-1]:6.2f} s, ratio {ours[-1] / plain[-1]:.2f}"
        )
    a, b = statistics.median(ours), statistics.median(plain)
    print(f"medians: checkpoint {a:.2f} s, plain {b:.2f} s, ratio {a / b:.2f}")


def seconds(act: Callable[[int], None], number: int) -> float:
    """Wall time, with nothing of earlier writes left to the disk."""
    os.sync()
    began = time.perf_counter()
    act(number)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder unless given")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        measure(folder, chosen.rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
