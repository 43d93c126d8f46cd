"""Ctrl-C and SIGTERM as a request: the step in progress is finished, the run saved, and all processes stop together."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor

from ktotrain.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = {
    signal.SIGINT: b"\nstopping at the end of this step; Ctrl-C again stops at once\n",
    signal.SIGTERM: b"\nSIGTERM: stopping at the end of this step\n",
}


class StopRequest:
    """Notes the first Ctrl-C or SIGTERM within its context, and lets all processes agree when to heed it.

    Processes get signals at different moments, or one of them does. So a process's flags travel along with every sum
    over processes (`total`), and `requested` changes there only: between two sums all processes see the same. Alone,
    a process sees its own flags at once. A Ctrl-C after any other signal raises KeyboardInterrupt.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.alone = accelerator.num_processes == 1
        self._seen: dict[signal.Signals, bool] = dict.fromkeys(SIGNALS, False)
        self._agreed = dict(self._seen)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether the run shall stop: the same in every process."""
        return any((self._seen if self.alone else self._agreed).values())

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor of floats over all processes, of the same shape."""
        if self.alone:
            return tensor
        flags = torch.tensor([self._seen[number] for number in SIGNALS], dtype=tensor.dtype, device=tensor.device)
        summed = self.accelerator.reduce(torch.cat([tensor.flatten(), flags]), reduction="sum")
        for number, votes in zip(SIGNALS, summed[-len(SIGNALS) :].tolist(), strict=True):
            self._agreed[number] = self._agreed[number] or votes > 0
        whole: Tensor = summed[: -len(SIGNALS)].view_as(tensor)
        return whole

    def error(self, what: str, *, do: str = "") -> StoppedError:
        """What to raise: its exit code is the usual one for the signal."""
        seen = self._seen if self.alone else self._agreed
        return StoppedError(what, do=do, number=signal.SIGTERM if seen[signal.SIGTERM] else signal.SIGINT)

    def _note(self, number: int, _: FrameType | None) -> None:
        again = any(self._seen.values())
        self._seen[signal.Signals(number)] = True
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not again and self.accelerator.is_main_process:
            os.write(2, _SAID[signal.Signals(number)])  # a stream may be in the middle of a write
