"""Replies by transformers, on a CPU or GPU: batches with the longest prompts first, padded on the left.

Batches are cut from the whole list of requests, by length and key, not from those that a journal still lacks; one of
which any reply is missing is computed whole. So a killed run that goes on does the arithmetic of one that was never
killed, to the last bit, and what it can lose is the one batch it was at. Draws are seeded by request
(`ktodata.generate.noise`).

With continuous batching, replies that are done make room for the next requests within a batch; it is transformers'
`generate_batch` machinery, which needs attention that it supports and knows neither a repetition penalty, which is
refused, nor stop strings: those replies are made to their end and then trimmed.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ktodata.errors import ModelError, UsageError
from ktodata.generate.contract import Outcome, Reply, Request, Sampling
from ktodata.generate.noise import SeededChoice, UnpaddedRepetition, warpers
from ktodata.generate.tokens import ChatForm, Encoded, Tokens, loading, quiet

if TYPE_CHECKING:
    from torch import Tensor

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Transformers:
    """A model of transformers as a back end. Its weights are loaded when the first reply is missing."""

    def __init__(
        self,
        model: str,
        *,
        revision: str = "",
        sampling: Sampling,
        chat: ChatForm = "auto",
        batch: int = 32,
        batching: Literal["static", "continuous"] = "static",
        device: Device = "auto",
        precision: Precision = "auto",
    ) -> None:
        """See `Tokens` for `model`, `revision` and `chat`. `batch` is how many replies are made at once.

        Raises:
            ModelError: see `Tokens`.
            UsageError: no such device here, or a repetition penalty with continuous batching.
        """
        if batching == "continuous" and sampling.repetition_penalty != 1:
            raise UsageError(
                "continuous batching has no repetition penalty", do="Use static batching, or leave it at 1"
            )
        self._device = _device(device)
        self._tokens = Tokens(model, revision=revision, chat=chat)
        self.model, self.revision = self._tokens.model, self._tokens.revision
        self._sampling, self._batch, self._batching, self._precision = sampling, batch, batching, precision
        self._loaded: Any = None

    def generate(self, requests: Sequence[Request], *, known: Container[str]) -> Iterator[tuple[Request, Outcome]]:
        """See `Backend.generate`.

        Raises:
            ModelError: the weights cannot be loaded, or do not fit into memory.
        """
        encoded: list[Encoded] = []
        for request in requests:
            one = self._tokens.encode(request, max_tokens=self._sampling.max_tokens)
            if isinstance(one, Encoded):
                encoded.append(one)
            elif request.key not in known:
                yield request, one
        size = self._batch if self._batching == "static" else 16 * self._batch
        for batch in batches(encoded, size):
            if all(one.request.key in known for one in batch):
                continue
            replies = self._static(batch) if self._batching == "static" else self._continuous(batch)
            for one, reply in replies:
                if one.request.key not in known:
                    yield one.request, reply

    def _static(self, batch: list[Encoded]) -> Iterator[tuple[Encoded, Reply]]:
        import torch

        model, longest = self._load(), max(len(one.ids) for one in batch)
        padding = [longest - len(one.ids) for one in batch]
        pad = model.generation_config.pad_token_id
        rows = [[pad] * gap + list(one.ids) for gap, one in zip(padding, batch, strict=True)]
        ids = torch.tensor(rows, device=self._device)
        mask = (torch.arange(longest) >= torch.tensor(padding)[:, None]).to(ids)
        processors: list[Any] = []
        if self._sampling.repetition_penalty != 1:
            processors.append(UnpaddedRepetition(self._sampling.repetition_penalty, padding))
        processors += warpers(self._sampling)
        if self._sampling.temperature:
            processors.append(SeededChoice([one.request.seed for one in batch], longest))
        criteria = [_Stopped(self._tokens, batch, longest)] if any(one.stops for one in batch) else []
        with torch.inference_mode(), _memory(self.model, len(batch)), quiet():
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=batch[0].room,
                logits_processor=processors,
                stopping_criteria=criteria,
            )
        for one, row in zip(batch, made[:, longest:].tolist(), strict=True):
            yield one, self._reply(one, row)

    def _continuous(self, batch: list[Encoded]) -> Iterator[tuple[Encoded, Reply]]:
        try:
            from ktodata.generate.continuous import run_continuous
        except ImportError as error:  # these parts of transformers are young
            raise ModelError("this transformers has no continuous batching that fits", do="Use static") from error
        model = self._load()
        with _memory(self.model, self._batch):
            for one, made in run_continuous(model, batch, self._sampling, self._batch):
                yield one, self._reply(one, made)

    def _reply(self, one: Encoded, made: list[int]) -> Reply:
        """The reply that was made: up to the first end token or stop string, whichever comes first."""
        ends = _listed(self._load().generation_config.eos_token_id)
        ids = list(itertools.takewhile(lambda token: token not in ends, made))
        text, stopped = self._tokens.decode(ids, one.stops)
        if stopped or len(ids) < len(made):
            return Reply(text, "stop")
        return Reply(text.rstrip("\ufffd"), "length")  # of a letter of several tokens, perhaps not all are there

    def _load(self) -> Any:
        if self._loaded is None:
            self._loaded = self._weights()
        return self._loaded

    def _weights(self) -> Any:
        from transformers import AutoModelForCausalLM, GenerationConfig

        # bfloat16 on a CPU is slow where the hardware lacks it, and rounds so that batches show in the replies.
        precision = "float32" if self._precision == "auto" and self._device == "cpu" else self._precision
        with loading("the model cannot be loaded", self.model):
            model, report = AutoModelForCausalLM.from_pretrained(
                self._tokens.path,
                dtype=precision,
                revision=self._tokens.pinned or "main",
                use_safetensors=True,  # a pickle can run code
                trust_remote_code=False,  # nor may the model bring any: left out, transformers would ask on a terminal
                output_loading_info=True,
            )
        if report["missing_keys"]:
            some = ", ".join(sorted(report["missing_keys"])[:3])
            raise ModelError(
                f"the checkpoint lacks {len(report['missing_keys'])} weights of {type(model).__name__}: {some} …",
                where=self.model,
                do="Those would be random. Use a complete checkpoint of a causal language model",
            )
        tokenizer = self._tokens.tokenizer
        ends = sorted({*_listed(model.generation_config.eos_token_id), *_listed(tokenizer.eos_token_id)})
        pad = next(token for token in (tokenizer.pad_token_id, *ends, 0) if token is not None)
        # What `generate` finds unset, it takes from here: nothing of the checkpoint's own sampling.
        model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=ends or None, pad_token_id=pad, bos_token_id=tokenizer.bos_token_id
        )
        with _memory(self.model, 0):
            return model.eval().to(self._device)


class _Stopped:
    """A stopping criterion: rows whose reply has come to one of its own stop strings."""

    def __init__(self, tokens: Tokens, batch: Sequence[Encoded], start: int) -> None:
        self._tokens, self._batch, self._start = tokens, batch, start
        # A token has at least a byte, unless it stands for none: those few are made up for.
        self._reach = max(len(stop.encode()) for one in batch for stop in one.stops) + 8
        self._over = [False] * len(batch)

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        import torch

        tails = input_ids[:, max(self._start, input_ids.shape[1] - self._reach) :].tolist()
        for row, (one, tail) in enumerate(zip(self._batch, tails, strict=True)):
            if one.stops and not self._over[row]:
                self._over[row] = self._tokens.decode(tail, one.stops)[1]
        return torch.tensor(self._over, device=input_ids.device)


def batches(encoded: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Batches of at most `size` with the longest prompts first, so that what fails for want of memory fails at once.

    All of a batch have the same room. Equal lengths go by key: the order of the requests does not matter.
    """
    ordered = sorted(encoded, key=lambda one: (one.room, -len(one.ids), one.request.key))
    for _, group in itertools.groupby(ordered, key=lambda one: one.room):
        same_room = list(group)
        yield from (same_room[start : start + size] for start in range(0, len(same_room), size))


def _device(wanted: Device) -> str:
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[wanted]:
        raise UsageError(
            f"no device {wanted!r} here", do=f"There is: {', '.join(name for name in there if there[name])}"
        )
    return wanted


def _listed(ids: Any) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [ids]


class _memory:  # noqa: N801 (used as a function)
    """What a device says when it is full, as one error that names the knob."""

    def __init__(self, model: str, batch: int) -> None:
        self._model, self._batch = model, batch

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            do = f"Use a smaller batch than {self._batch}" if self._batch else "Use a smaller model"
            raise ModelError("the device is out of memory", where=self._model, do=do) from error
