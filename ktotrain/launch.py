"""Several processes on this machine, by torch's own launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ktotrain.errors import TrainingError


def is_main_process() -> bool:
    """Whether this process is the one that speaks: the only one, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run `ktotrain` with these arguments in so many processes, and wait for them.

    Raises:
        TrainingError: a process failed; the first one has said why on stderr.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher would say of an error, after us and at length, that there was one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Each process would use every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="ktotrain",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "ktotrain", *arguments)
    except ChildFailedError as error:
        rank, failure = next(iter(sorted(error.failures.items())))
        raise TrainingError(
            f"process {rank} of {processes} ended with exit code {failure.exitcode}", do="Its error stands above"
        ) from None
