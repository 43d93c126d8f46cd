"""Replies by vLLM in this process, on its GPUs: `pip install ktokit[vllm]`.

vLLM schedules requests itself, so they are handed over in large portions; a portion's replies come together, and a
killed run loses at most the portion it was at. Each request carries its seed; vLLM's own kernels decide how far the
rounding, and with it a reply, depends on what else is in a step (`VLLM_BATCH_INVARIANT=1` makes it not).
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Container, Iterator, Sequence
from typing import Any, Literal

from ktodata.errors import ModelError
from ktodata.generate.contract import Outcome, Reply, Request, Sampling
from ktodata.generate.tokens import ChatForm, Encoded, Tokens, first_line

_PORTION = 16  # batches handed over at a time


class Vllm:
    """A model that vLLM runs, as a back end. Loaded when the first reply is missing."""

    def __init__(
        self,
        model: str,
        *,
        revision: str = "",
        sampling: Sampling,
        chat: ChatForm = "auto",
        batch: int = 32,
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    ) -> None:
        """See `Tokens` for `model`, `revision` and `chat`.

        Raises:
            ModelError: vLLM is not installed, or see `Tokens`.
        """
        if importlib.util.find_spec("vllm") is None:
            raise ModelError(
                "vLLM is not installed", do="pip install 'ktokit[vllm]', or choose the back end transformers or openai"
            )
        self._tokens = Tokens(model, revision=revision, chat=chat)
        self.model, self.revision = self._tokens.model, self._tokens.revision
        self._sampling, self._batch, self._precision = sampling, batch, precision
        self._engine: Any = None

    def generate(self, requests: Sequence[Request], *, known: Container[str]) -> Iterator[tuple[Request, Outcome]]:
        """See `Backend.generate`.

        Raises:
            ModelError: vLLM cannot load or run the model.
        """
        encoded: list[Encoded] = []
        for request in (request for request in requests if request.key not in known):
            one = self._tokens.encode(request, max_tokens=self._sampling.max_tokens)
            if isinstance(one, Encoded):
                encoded.append(one)
            else:
                yield request, one
        encoded.sort(key=lambda one: (-len(one.ids), one.request.key))
        portion = _PORTION * self._batch
        for start in range(0, len(encoded), portion):
            yield from self._run(encoded[start : start + portion])

    def _run(self, portion: list[Encoded]) -> list[tuple[Request, Outcome]]:
        import vllm

        sampling = self._sampling
        parameters = [
            vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k or -1,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                max_tokens=one.room,
                seed=one.request.seed,
                stop=list(one.stops) or None,
            )
            for one in portion
        ]
        prompts = [{"prompt_token_ids": list(one.ids)} for one in portion]
        with _errors(self.model):
            outputs = self._load().generate(prompts, parameters, use_tqdm=False)
        replies: list[tuple[Request, Outcome]] = []
        for one, output in zip(portion, outputs, strict=True):
            made = output.outputs[0]
            replies.append((one.request, Reply(made.text, "length" if made.finish_reason == "length" else "stop")))
        return replies

    def _load(self) -> Any:
        import vllm

        if self._engine is None:
            self._engine = vllm.LLM(
                model=self._tokens.path,
                revision=self._tokens.pinned or None,
                dtype=self._precision,
                max_num_seqs=self._batch,
                trust_remote_code=False,
                seed=0,
                disable_log_stats=True,
            )
        return self._engine


@contextlib.contextmanager
def _errors(model: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError, ImportError, AssertionError) as error:
        raise ModelError(f"vLLM cannot run the model: {first_line(error)}", where=model) from error
