"""Ask a model the held-out prompts, and measure how it replies: what the demo shows before and after training."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grammar import Message, exchanges
from style import share, well_formed, words_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 3  # the training file has seed 1, the base model's reading matter seed 2
TEMPERATURE = 0.8
LONGEST = 64  # tokens of a reply


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model's replies to some prompts; the measures are shares of replies, 0 to 1."""

    prompts: list[list[Message]]
    replies: list[str]

    @property
    def casual(self) -> float:
        """Casual by the rule of style.py."""
        return share(self.replies, "casual")

    @property
    def formal(self) -> float:
        """Formal by the same rule."""
        return share(self.replies, "formal")

    def well_formed(self, known: frozenset[str]) -> float:
        """Made of known words, neither empty nor rambling."""
        return well_formed(self.replies, known)


def held_out(count: int, seed: int = SEED) -> list[list[Message]]:
    """`count` prompts with different last lines, none of them in the training file or in what the base model read."""
    found: dict[str, list[Message]] = {}
    chats = exchanges(seed, held_out=True)
    while len(found) < count:
        prompt = next(chats).prompt
        found.setdefault(prompt[-1]["content"].lower(), prompt)
    return list(found.values())


def known_words(others: Iterable[str] = (), chats: int = 8000) -> frozenset[str]:
    """The words that a well-formed reply is made of: those of replies the grammar draws, and those of `others`."""
    drawn = islice(exchanges(SEED), chats)
    texts = itertools.chain(others, *((chat.casual, chat.formal) for chat in drawn))
    return frozenset(word for text in texts for word in words_of(text))


def load(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model folder or an adapter folder (its base model is found by its own config), in float32 for the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def ask(model: Any, tokenizer: Any, prompts: Sequence[list[Message]], *, greedy: bool = False) -> list[str]:
    """One reply to each prompt, sampled at `TEMPERATURE` with a fixed seed, or greedy."""
    import torch

    texts = tokenizer.apply_chat_template(list(prompts), tokenize=False, add_generation_prompt=True)
    tokenizer.padding_side = "left"
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    torch.manual_seed(SEED)
    sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0}
    with torch.inference_mode():
        ids = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=LONGEST, **sampling
        )
    replies = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [reply.strip() for reply in replies]


def measure(folder: str | Path, prompts: Sequence[list[Message]], *, greedy: bool = False) -> Measured:
    """Load the model of a folder and ask it everything."""
    model, tokenizer = load(folder)
    return Measured(list(prompts), ask(model, tokenizer, prompts, greedy=greedy))
