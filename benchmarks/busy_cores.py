"""What a step on a CPU takes while something else wants the cores: threads that spin against threads that sleep.

    python -m benchmarks.busy_cores [SOURCE] [--busy 1] [--steps 5] [--rounds 2]

The model and rows of `benchmarks.vs_trl`, its ktotrain side alone, with OpenMP as it comes and as `ktotrain run` sets
it (`ktotrain.launch.share_the_cores`), in turns: on the cores as they are, and with `--busy` processes that do nothing
but take time. The fastest run of each counts, as the machine's other work can only slow a step down.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import vs_trl

SPINS = "GOMP_SPINCOUNT"
# Ends by itself too, should this process be killed.
IDLE_WORK = "import time; end = time.monotonic() + 1200\nwhile time.monotonic() < end: pass"


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """That many processes that keep a core busy each."""
    running = [subprocess.Popen([sys.executable, "-c", IDLE_WORK]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def seconds(options: argparse.Namespace, arguments: list[str]) -> float:
    """Wall time of the steps after the warm-up."""
    result = vs_trl.merge([vs_trl.child("ktotrain", options, arguments)])
    if "error" in result:
        sys.exit(result["error"])
    return float(sum(result["seconds"]))


def main() -> None:
    parser = vs_trl.parser()
    parser.description = "Steps on busy cores."
    parser.add_argument("--busy", type=vs_trl.positive, default=1)
    parser.set_defaults(steps=5, rounds=2)
    options = parser.parse_args()
    arguments = [options.source, "--steps", str(options.steps)]
    from ktotrain.launch import share_the_cores

    os.environ.pop(SPINS, None)
    share_the_cores()
    ours = os.environ.pop(SPINS)
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        vs_trl.unpaired(options)
        vs_trl.child("model", options, arguments)
        for processes in (0, options.busy):
            best = {"": float("inf"), ours: float("inf")}
            with busy(processes):
                for _ in range(options.rounds):
                    for spins in best:
                        os.environ.pop(SPINS, None)
                        if spins:
                            os.environ[SPINS] = spins
                        best[spins] = min(best[spins], seconds(options, arguments))
            print(
                f"{processes} others: {best['']:6.2f} s as OpenMP comes, {best[ours]:6.2f} s with {SPINS}={ours}: "
                f"{best[''] / best[ours]:.2f} x"
            )


if __name__ == "__main__":
    main()
