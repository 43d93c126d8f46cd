"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it has set aside goes, and old files stay.

The system's own answer to them is to end the process on the spot, which leaves whatever it has on disk.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
# Seconds in which another one is the same request: `timeout` signals the process and then its group, and what tidies
# up is not to be disturbed.
AGAIN = 5.0


class Stopped(SystemExit):
    """A signal asked for the end. Event loops and executors let a SystemExit pass, and its code is what shells expect
    (128 and the signal's number) even where nobody catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP raise `Stopped` in it. One that is ignored (nohup) stays so.

    Outside the main thread, where Python hands no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = -AGAIN

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        now = time.monotonic()
        if now - asked >= AGAIN:
            asked = now
            raise Stopped(number)

    before: dict[int, Any] = {one: signal.getsignal(one) for one in SIGNALS}
    ours = [one for one in SIGNALS if before[one] == signal.SIG_DFL]
    for one in ours:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, before[one])


@contextlib.contextmanager
def too_late() -> Iterator[list[int]]:
    """For the moment in which a command's files take their places: it is as good as done, and neither these signals nor
    Ctrl-C end it. Gives those that came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    with own_handlers():
        for one in (signal.SIGINT, *SIGNALS):
            if signal.getsignal(one) not in (None, signal.SIG_IGN):
                signal.signal(one, lambda number, frame: came.append(number))
        yield came


@contextlib.contextmanager
def a_moment() -> Iterator[None]:
    """These signals and Ctrl-C wait until the block ends: for what is made in it, and would stay if nobody knew of it.

    By handlers, not by a mask: a signal may come to another thread, and would end this one all the same.
    """
    came: list[int] = []
    try:
        with too_late() as came:
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """What the block does to the handlers of these signals and of Ctrl-C is undone: some libraries put theirs there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, *SIGNALS)}
    try:
        yield
    finally:
        for one, handler in before.items():
            if handler is not None:  # not one of C's
                signal.signal(one, handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Let processes that start here inherit that Ctrl-C and a hang-up are not for them: this one hears of it, and ends
    them. SIGTERM is, as that is how they are ended."""
    held = {one for one in (signal.SIGINT, getattr(signal, "SIGHUP", None)) if one is not None}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
