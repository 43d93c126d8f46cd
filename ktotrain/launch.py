"""Several processes on this machine, by torch's own launcher."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from ktotrain.errors import TrainingError

# How the run was started, for the processes that are: their number, a blank, the program as the user calls it.
COMMAND = "KTOTRAIN_COMMAND"
# For the same processes: the file by which they find each other, in place of a port that other machines could reach.
MEETING = "KTOTRAIN_MEETING"
# What torch's launcher, which accelerate's is too, leaves in the environment of its processes.
OF_TORCH = "TORCHELASTIC_RUN_ID"
# Seconds in which the first process says an error that all have.
PATIENCE = 10
MODULE = ("ktotrain", "__main__.py")
ENDED_BY_SIGNAL = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def share_the_cores() -> None:
    """Let torch's threads on a CPU sleep soon when they wait for one another. Of use before torch is imported.

    GNU OpenMP lets a thread spin 300,000 times before it sleeps. Where something else wants the cores too, that is time
    nobody uses: with two threads on two busy cores, steps of a small model took 1.2 to 6 times as long. With 3,000 they
    take 2 % longer on idle cores (benchmarks/RESULTS.md). What the environment says goes first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def is_main_process() -> bool:
    """Whether this process is the one that speaks: the only one, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def let_the_first_speak() -> None:
    """Before a process that is not the first ends with an error: time for the first, which has it too, to say it.

    A launcher ends all processes as soon as one has ended, this one included. Whoever is still there after this has
    an error of its own.
    """
    if not is_main_process():
        time.sleep(PATIENCE)


def end_with_the_launcher() -> None:
    """Has this process get SIGTERM when its launcher is gone: killed, it cannot end those that it has started.

    They would go on unseen, with the folder locked. So they save and stop instead, as after any other SIGTERM.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if OF_TORCH in os.environ:
        threading.Thread(target=watch, daemon=True).start()


def program_name() -> str:
    """How this program was called."""
    return f"{shlex.quote(sys.executable)} -m ktotrain" if Path(sys.argv[0]).parts[-2:] == MODULE else "ktotrain"


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run `ktotrain` with these arguments in so many processes, and wait for them.

    Ctrl-C and SIGTERM are handed on to them, and they decide together when to stop.

    Raises:
        TrainingError: a process failed; the first one has said why on stderr.
        KeyboardInterrupt: a second Ctrl-C, by which they were killed.
        SystemExit: a signal ended them; the first one has said how to go on.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher would say of an error, after us and at length, that there was one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Each process would use every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ[COMMAND] = f"{processes} {program_name()}"
    _stay_on_this_machine()
    killed = threading.Event()
    try:
        with tempfile.TemporaryDirectory(prefix="ktotrain-") as folder, _signals_handed_on(killed):
            os.environ[MEETING] = f"{folder}/processes"
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint=f"{folder}/launcher",
                rdzv_configs={"store_type": "file"},
                local_addr="127.0.0.1",
                run_id="ktotrain",
                max_restarts=0,
                # Its own way with the others is to wait half a minute and then kill, in the middle of a checkpoint.
                signals_to_handle="SIGQUIT",
            )
            elastic_launch(config, sys.executable)("-m", "ktotrain", *arguments)
    except ChildFailedError as error:
        if killed.is_set():
            raise KeyboardInterrupt from None
        # Whoever failed by itself comes first: the others were ended because of that.
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        rank = min(codes, key=lambda rank: (codes[rank] == -signal.SIGTERM, codes[rank] < 0, rank))
        if codes[rank] in ENDED_BY_SIGNAL:
            raise SystemExit(codes[rank]) from None
        if codes[rank] < 0:
            raise TrainingError(
                f"process {rank} of {processes} was killed by {signal.Signals(-codes[rank]).name}",
                do="If it has saved checkpoints, --resume goes on from the newest",
            ) from None
        raise TrainingError(
            f"process {rank} of {processes} ended with exit code {codes[rank]}", do="Its error stands above"
        ) from None
    finally:
        del os.environ[COMMAND]
        os.environ.pop(MEETING, None)


def _stay_on_this_machine() -> None:
    """Has the launcher and the processes listen on the loopback interface alone; what the user has set stays."""
    import psutil

    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # that store listens on all interfaces
    loopback = next(
        (name for name, found in psutil.net_if_addrs().items() if any(one.address == "127.0.0.1" for one in found)), ""
    )
    for library in ("GLOO", "NCCL") if loopback else ():
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)


@contextlib.contextmanager
def _signals_handed_on(killed: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the processes, each of which is in a process group of its own.

    A second Ctrl-C kills them, and sets `killed`.
    """
    import psutil

    seen: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        kill = bool(seen) and number == signal.SIGINT
        seen.append(number)
        if kill:
            killed.set()
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill() if kill else child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
