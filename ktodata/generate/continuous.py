"""Continuous batching: transformers' paged cache and scheduler, with draws that are seeded by request.

The scheduler's own sampling has one generator for everything, so what a request gets would depend on what it shared a
step with. Here the last logits processor adds noise hashed from the request's seed and the place in its reply (see
`ktodata.generate.noise`), and the scheduler takes the largest: the draws of static batches. transformers 5.23's
processors get one int32 per request; the noise takes two, so there are two processors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

from ktodata.errors import ModelError
from ktodata.generate.contract import Sampling
from ktodata.generate.noise import counters, gumbel, warpers
from ktodata.generate.tokens import Encoded

if TYPE_CHECKING:
    from torch import Tensor

_PAGE = {"cuda": 256, "cpu": 32}  # tokens in a page of the cache; flash attention's kernels want 256
_PROMPT_TOKENS = 2048  # of prompts in one step, beside a token of each running reply


class _Counter(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Hands one of the two counters of each request to the device. Which place of its reply comes next is counted."""

    def __init__(self, which: int, seeds: dict[str, int]) -> None:
        self.supported_kwargs: dict[str, type] = {}
        self.ignored_kwargs: tuple[str, ...] = ()
        self._which, self._seeds = which, seeds
        self._places = dict.fromkeys(seeds, 0)
        self.now: Any = None

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        import torch

        found = []
        for request in requests_with_new_token:
            name = request.state.request_id
            found.append(counters(self._seeds[name], self._places[name])[self._which])
            self._places[name] += 1
        return torch.tensor(found, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        self.now = tensor_arg[: scores.shape[0]]
        return scores


class _Choice(_Counter):
    """The second counter, and the draw by both."""

    def __init__(self, first: _Counter, seeds: dict[str, int]) -> None:
        super().__init__(1, seeds)
        self._first = first

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        import torch

        super().__call__(scores, tensor_arg)
        return scores.float() + gumbel(torch.stack([self._first.now, self.now], 1), scores.shape[1])


def run_continuous(
    model: Any, requests: Sequence[Encoded], sampling: Sampling, batch: int
) -> Iterator[tuple[Encoded, list[int]]]:
    """The token ids of each reply, as they finish, with `batch` of them under way at a time. All have the same room.

    Raises:
        ModelError: transformers cannot batch this model continuously.
    """
    import torch

    seeds = {f"{place}": one.request.seed for place, one in enumerate(requests)}
    page, room = _PAGE.get(model.device.type, 32), requests[0].room
    pages = -(-(max(len(one.ids) for one in requests) + room) // page) + 1
    # Fixed numbers, not a share of the memory that happens to be free: the schedule, and so the rounding, depends on
    # the requests alone.
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=pages * batch,
        max_requests_per_batch=batch,
        max_batch_tokens=batch + _PROMPT_TOKENS,
        allow_block_sharing=False,
        use_async_batching=False,
        drop_unsupported_processors=False,
    )
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=room,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
    )
    with torch.inference_mode():
        try:
            manager = model.init_continuous_batching(generation_config=settings, continuous_batching_config=config)
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise _refused(model, error) from error
        manager.logit_processor = _processors(sampling, seeds)
        try:
            for place, one in enumerate(requests):  # before the start, or the schedule would depend on this loop's pace
                manager.add_request(
                    list(one.ids), request_id=f"{place}", max_new_tokens=room, eos_token_id=settings.eos_token_id
                )
            manager.start()
            for _ in requests:
                result = None
                while result is None or not result.is_finished():
                    result = manager.get_result(timeout=1)
                    if result is None and not manager.is_running():
                        raise _refused(model, manager.background_thread_status.fatal_error)
                if result.error is not None:
                    raise _refused(model, result.error)
                yield requests[int(result.request_id)], list(result.generated_tokens)
        finally:
            manager.stop(block=True, timeout=30, hard_stop=True)
            manager.destroy()


def _processors(sampling: Sampling, seeds: dict[str, int]) -> Any:
    found: list[Any] = warpers(sampling)
    counting = []
    if sampling.temperature:
        first = _Counter(0, seeds)
        counting = [first, _Choice(first, seeds)]
    for processor in found:
        processor.supports_continuous_batching = True  # each row by itself: min_p's, too, though it does not say so
    both = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([*found, *counting]))
    both.tensors_required = len(counting)
    return both


def _refused(model: Any, error: object) -> ModelError:
    return ModelError(
        f"transformers cannot batch {type(model).__name__} continuously: {error}", do="Use static batching"
    )
