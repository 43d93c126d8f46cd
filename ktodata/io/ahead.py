"""One piece of work in a thread while the caller gets on: for libraries that let go of the interpreter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Made = TypeVar("Made")


class OneAhead:
    """Runs what it is given in order, in one thread, at most one piece behind. Leaving the block waits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._under_way: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=error is not None)

    def do(self, work: Callable[[], object]) -> None:
        """Begin this when the piece before is done. Raises what that one raised."""
        self.wait()
        self._under_way = self._thread.submit(work)

    def wait(self) -> None:
        """Until the last piece is done. Raises what it raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()


def made_ahead(works: Generator[Callable[[], Made]]) -> Iterator[Made]:
    """What some pieces of work make, in order: each is done in a thread while the next one is prepared."""
    with contextlib.closing(works), ThreadPoolExecutor(1) as thread:
        before: Future[Made] | None = None
        for work in works:
            after = thread.submit(work)
            if before is not None:
                yield before.result()
            before = after
        if before is not None:
            yield before.result()
