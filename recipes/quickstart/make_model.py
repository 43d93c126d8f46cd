"""Make the quickstart's base model: a Llama of 1.5 million parameters that answers casually and formally alike.

    python recipes/quickstart/make_model.py           # writes recipes/quickstart/model, 13 minutes on one busy core
    python recipes/quickstart/make_model.py OUT_DIR

It reads chats of the quickstart's grammar (never a held-out prompt), one half answered casually. Of the formal half,
one part is the grammar's own and the other is what `ktodata negatives --strategy corrupt` with the operation `tone`
makes of casual replies. So the base model stands where `ktotrain run` finds many models: able to do what is wanted,
and as likely to do something else. Seeds are fixed; the last digits of the weights depend on the machine.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from grammar import Exchange, Message, exchanges
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ktodata.negatives.choose import use
from ktodata.negatives.contract import Pool
from ktodata.schema import make_row

HERE = Path(__file__).parent
SEED = 2  # the training file has seed 1, the held-out prompts seed 3
CHATS = 80_000
VOCABULARY = 1536
BATCH = 32
LEARNING_RATE = 4e-3
WARMUP = 100  # steps
# What a token of the prompt counts in the loss, next to 1 for the reply's: what users say cannot be foretold, and a
# model this small learned to repeat the prompt's names and places only once it no longer tried to.
PROMPT_WEIGHT = 0.1
TONE = use("corrupt", operations=("tone",), intensity=1.0)
Encoded = tuple[list[int], int]  # token ids of a chat, and how many of them come before the last reply
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def toned(chat: Exchange, rng: random.Random) -> str:
    """The casual reply as `ktodata negatives` would formalise it; the grammar's formal one where it will not."""
    row = make_row(
        chat.prompt, [{"role": "assistant", "content": chat.casual}], True, source="quickstart", origin="feedback"
    )
    assert TONE.strategy.one is not None
    text = TONE.strategy.one(row, pool=Pool(), rng=rng, **TONE.options)
    return text if isinstance(text, str) else chat.formal


def reading(chats: int = CHATS, seed: int = SEED) -> Iterator[list[Message]]:
    """The chats that the model reads: half casual, a quarter formal by the grammar, a quarter formalised."""
    for index, chat in enumerate(islice(exchanges(seed, earlier=("casual", "formal")), chats)):
        rng = random.Random(f"{seed}:style:{index}")
        reply = chat.casual if rng.random() < chat.lean else rng.choice([chat.formal, toned(chat, rng)])
        yield [*chat.prompt, {"role": "assistant", "content": reply}]


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model before it has read anything."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=160,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=5,
            num_key_value_heads=5,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, chats: Sequence[list[Message]]) -> list[Encoded]:
    """The token ids of whole chats, each with the number of those before its last reply."""
    texts = tokenizer.apply_chat_template(chats, tokenize=False)
    prompts = [text[: text.rindex("<|assistant|>") + len("<|assistant|>")] for text in texts]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = map(len, tokenizer(prompts, add_special_tokens=False)["input_ids"])
    return list(zip(ids, lengths, strict=True))


def read(model: LlamaForCausalLM, chats: Sequence[Encoded]) -> float:
    """Language modelling, one epoch with AdamW; returns the mean loss of the last hundred steps."""
    batches = _batches(chats)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    start = time.monotonic()
    for step, batch in enumerate(batches):
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * step / len(batches))) / 2
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * cosine
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            print(f"step {step + 1}/{len(batches)}  loss {mean:.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return sum(losses[-100:]) / len(losses[-100:])


def _loss(model: LlamaForCausalLM, batch: Sequence[Encoded]) -> torch.Tensor:
    """The weighted mean over tokens. Padding is on the right, where causal attention never looks back from."""
    width = max(len(ids) for ids, _ in batch)
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    weight_BT = torch.zeros(len(batch), width)
    for row, (ids, before) in enumerate(batch):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        weight_BT[row, :before] = PROMPT_WEIGHT
        weight_BT[row, before : len(ids)] = 1.0
    logits_BTV = model(input_ids=ids_BT).logits
    nll_BT = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], reduction="none")
    return (nll_BT * weight_BT[:, 1:]).sum() / weight_BT[:, 1:].sum()


def _batches(chats: Sequence[Encoded]) -> list[list[Encoded]]:
    """Batches of similar lengths, in random order."""
    rng = random.Random(SEED)
    order = list(chats)
    rng.shuffle(order)
    block = BATCH * 32
    batches = []
    for start in range(0, len(order), block):
        part = sorted(order[start : start + block], key=lambda chat: len(chat[0]))
        batches += [part[at : at + BATCH] for at in range(0, len(part), BATCH)]
    rng.shuffle(batches)
    return batches


def main() -> None:
    """Make tokenizer and model, and save both where the first argument says, or to model/ beside this script."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "model"
    torch.set_num_threads(1)  # matrices this small gain little from a second one
    chats = list(reading())
    tokenizer = make_tokenizer([message["content"] for chat in chats for message in chat])
    encoded = encode(tokenizer, chats)
    model = make_model(tokenizer)
    tokens = sum(len(ids) for ids, _ in encoded)
    print(f"{model.num_parameters():,} parameters, {tokens:,} tokens in {len(encoded):,} chats", flush=True)
    loss = read(model, encoded)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"loss {loss:.3f} → {out} ({size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
