"""Completions of a few prompts, before and after training: what a loss curve cannot show.

Generation leaves no trace: training mode, attention implementation, generation settings and random state are
afterwards what they were, so a run with samples trains exactly as one without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ktotrain.errors import ModelError
from ktotrain.files import write_atomic
from ktotrain.sharding import is_sharded

if TYPE_CHECKING:
    import torch

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""Plain text, or chat messages `{role, content}`."""

# Attention implementations that follow a left-padded mask and a key-value cache. Any other (ours for packs, flex)
# is exchanged for one of these while generating.
GENERATING = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
# Prompts in one call of `generate`: the cache of 16 grows to no more than a training pack's activations.
BATCH = 16


def pick_prompts(prompts: Iterable[Prompt], count: int, *, seed: int, own: Sequence[str] = ()) -> list[Prompt]:
    """`count` different prompts of the rows, or all if there are fewer; or `own` ones in their place; none if 0.

    Which ones and their order depend on the seed and the set of prompts alone: not on how rows are ordered or how
    often a prompt occurs. Where rows are chats, an own prompt becomes what the user says.
    """
    if own and count:
        chat = not isinstance(next(iter(prompts), ""), str)
        return [[{"role": "user", "content": text}] if chat else text for text in own]
    keyed = {hashlib.sha256(f"{seed}\n{_canonical(prompt)}".encode()).digest(): prompt for prompt in prompts}
    return [keyed[digest] for digest in sorted(keyed)[:count]]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """A completion of each prompt, as text without special tokens.

    Temperature 0 takes the likeliest token each time; above that, tokens are drawn from the whole distribution,
    seeded by `seed`. The model's own generation settings (top-p, repetition penalty …) are left aside, but for its
    end tokens: samples show what was trained. A prompt too long for the model loses its beginning.

    `model` is a transformers model or a PEFT one around it, on any device, with any attention implementation.

    Raises:
        ModelError: chat prompts, and the tokenizer has no chat template, or the template refuses them.
    """
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = base.get_input_embeddings().weight.device
    tokens = [_encode(tokenizer, prompt)[-_room(base, max_new_tokens) :] for prompt in prompts]
    settings = _settings(base, tokenizer, max_new_tokens, temperature)
    completions: list[str] = []
    with torch.no_grad(), _random_state_kept(device), _generating(model, base, settings):
        torch.manual_seed(seed)
        for start in range(0, len(tokens), BATCH):
            batch = tokens[start : start + BATCH]
            longest = max(map(len, batch))
            ids = torch.full((len(batch), longest), settings.pad_token_id, device=device)
            mask = torch.zeros_like(ids)
            for row, prompt_ids in enumerate(batch):
                ids[row, longest - len(prompt_ids) :] = torch.tensor(prompt_ids, device=device)
                mask[row, longest - len(prompt_ids) :] = 1
            generated = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                synced_gpus=is_sharded(base),  # all processes run as many passes as the one that needs most
            )
            completions += tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
    return completions


def write_samples(path: Path, prompts: Sequence[Prompt], before: Sequence[str], after: Sequence[str]) -> None:
    """Writes JSONL, a line per prompt: `prompt` (text or messages), `before` and `after`.

    Raises:
        ValueError: the three are not of one length.
        TrainingError: the file cannot be written.
    """
    lines = [
        json.dumps({"prompt": prompt, "before": old, "after": new}, ensure_ascii=False) + "\n"
        for prompt, old, new in zip(prompts, before, after, strict=True)
    ]
    write_atomic(path, "".join(lines))


def _canonical(prompt: Prompt) -> str:
    return json.dumps(prompt, ensure_ascii=True, sort_keys=True)


def _encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """A prompt's token ids, as in training: special tokens for plain text are the tokenizer's default ones."""
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]  # quiet about lengths: `_room` sees to them
        if ids[-1:] == [tokenizer.eos_token_id] and not prompt.endswith(tokenizer.eos_token):
            ids = ids[:-1]  # some tokenizers end every text, and nothing would follow
        # A text may be empty, a sequence may not: start from whatever token stands for the beginning or an end.
        return ids or [_first(tokenizer.bos_token_id, tokenizer.eos_token_id, 0)]
    try:
        # Without `return_dict=False` transformers 5 returns a BatchEncoding, whose length is 2.
        return list(
            tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False)
        )
    except Exception as error:  # jinja2's, and transformers' ValueError if there is no template
        raise ModelError(
            f"chat prompts cannot be rendered: {error}",
            where="the tokenizer's chat template",
            do="Use an instruction-tuned model's tokenizer, or rows of plain text",
        ) from error


def _room(base: Any, max_new_tokens: int) -> int:
    """Most tokens of a prompt: the model's positions less those to come, but at least one."""
    positions = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    return max(1, positions - max_new_tokens) if isinstance(positions, int) else 10**9


def _settings(base: Any, tokenizer: Any, max_new_tokens: int, temperature: float) -> Any:
    from transformers import GenerationConfig

    ends = _first(base.generation_config.eos_token_id, tokenizer.eos_token_id)
    listed = ends if isinstance(ends, list) else [ends]
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=_first(tokenizer.pad_token_id, listed[0], 0),
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,  # off in the model's own settings where gradients are checkpointed
        **({"do_sample": False} | drawn),
    )


@contextlib.contextmanager
def _generating(model: Any, base: Any, settings: Any) -> Iterator[None]:
    """Evaluation mode, an attention implementation that can generate, and no generation settings but ours."""
    modes = {module: module.training for module in model.modules()}  # a frozen part may be in evaluation mode
    attention, own_settings = base.config._attn_implementation, base.generation_config
    exchanged = attention not in GENERATING
    try:
        model.eval()
        base.generation_config = settings  # what `generate` finds unset, it takes from here
        if exchanged:
            _set_attention(base)
        yield
    finally:
        if exchanged:
            base.set_attn_implementation(attention)
        base.generation_config = own_settings
        for module, training in modes.items():
            module.training = training


def _set_attention(base: Any) -> None:
    try:
        base.set_attn_implementation("sdpa")
    except ValueError:  # models with soft-capped scores refuse sdpa
        base.set_attn_implementation("eager")


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    import torch

    # `torch.manual_seed` seeds every device, so the states of all of the kind are kept.
    kind = device.type if device.type != "cpu" else "cuda"
    count = torch.get_device_module(kind).device_count() if kind != "cuda" or torch.cuda.is_available() else 0
    with torch.random.fork_rng(devices=range(count), device_type=kind):
        yield


def _first(*candidates: Any) -> Any:
    return next(candidate for candidate in candidates if candidate is not None)
