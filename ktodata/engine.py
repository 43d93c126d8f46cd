"""Where per-row work runs: here, in processes of this machine, or on a Ray cluster. The results are the same.

The work is a function of some shared value and one item; results come in the order of the items, and few items are
held at a time, so that neither side of a stream grows.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

from ktodata.errors import KtodataError, UsageError, first_line
from ktodata.stop import blocked, own_handlers

if TYPE_CHECKING:
    from concurrent.futures import Future

Engine: TypeAlias = Literal["local", "ray"]
ENGINES: tuple[str, ...] = get_args(Engine)
KNOCK = 10  # seconds to wait for a cluster to answer
Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Shared, Item], Result],
    items: Iterable[Item],
    *,
    shared: Shared,
    workers: int = 1,
    engine: Engine = "local",
) -> Iterator[Result]:
    """`work(shared, item)` for each item, in their order.

    Args:
        work: a function at the top level of a module.
        items: taken as they are needed: about two for each worker wait.
        shared: sent to each worker once.
        workers: processes; with `ray`, tasks that run side by side.
        engine: `local`, or `ray` for the cluster that `RAY_ADDRESS` names, or one on this machine if it is not set.

    Raises:
        KtodataError: a worker died; or whatever `work` raises.
        UsageError: Ray is not installed, or there is no such cluster.
    """
    if engine == "ray":
        yield from _on_ray(work, items, shared, workers)
    elif workers == 1:
        for item in items:
            yield work(shared, item)
    else:
        yield from _in_processes(work, items, shared, workers)


def _in_processes(
    work: Callable[[Shared, Item], Result], items: Iterable[Item], shared: Shared, workers: int
) -> Iterator[Result]:
    # Slow to import, and seldom needed.
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # `spawn` is the start method that every platform has and that threads cannot break.
    with blocked():  # for the process that keeps track of semaphores, which starts with it
        pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_prepare, initargs=(work, shared)
        )
    with pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for item in items:
                with blocked():
                    waiting.append(pool.submit(_call, item))
                if len(waiting) > 2 * workers:  # no more in memory than keeps them busy
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise KtodataError("a worker process was killed", do="Out of memory? Try fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


_context: tuple[Callable[[Any, Any], Any], Any] | None = None


def _prepare(work: Callable[[Any, Any], Any], shared: Any) -> None:
    global _context
    _context = work, shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: one that is killed cannot say so, and the worker would
    wait for its next item for ever."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None, "a worker has been started by another process"
    wait([parent.sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    assert _context is not None, "the worker was prepared"
    work, shared = _context
    return work(shared, item)


def _on_ray(
    work: Callable[[Shared, Item], Result], items: Iterable[Item], shared: Shared, workers: int
) -> Iterator[Result]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray, which is not installed", do="pip install 'ktokit[ray]'") from None
    started = not ray.is_initialized()
    if started:
        try:
            # What it says, and its dashboard, are not ours to show; one that is started here is for this machine alone.
            where: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS") or "local"}
            if where["address"] == "local":
                where |= {"_node_ip_address": "127.0.0.1", "num_cpus": workers, "include_dashboard": False}
            else:
                _answers(where["address"])
            with own_handlers():
                ray.init(log_to_driver=False, logging_level="error", **where)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster: {first_line(error)}", do="Look at RAY_ADDRESS") from None
    try:
        task = ray.remote(work)
        known = ray.put(shared)
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(task.remote(known, item))
            if len(waiting) > 2 * workers:
                yield _got(ray, waiting.popleft())
        while waiting:
            yield _got(ray, waiting.popleft())
    finally:
        if started:
            ray.shutdown()


def _answers(address: str) -> None:
    """Knock at a cluster's address: Ray itself tries for minutes where nobody answers.

    Raises:
        OSError: nobody does.
    """
    if address == "auto":  # the cluster that was started here last, which may be no more
        with contextlib.suppress(ImportError):
            from ray._private.utils import read_ray_address

            address = read_ray_address() or address
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.hostname and parts.port:  # none of an address of another kind, which Ray refuses itself
        try:
            socket.create_connection((parts.hostname, parts.port), timeout=KNOCK).close()
        except OSError as error:
            raise ConnectionError(f"nobody answers at {address} ({error.strerror or error})") from error


def _got(ray: Any, reference: Any) -> Any:
    """A task's result, or its error as it was raised there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, KtodataError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise KtodataError(f"a Ray worker was lost: {first_line(error)}") from error
