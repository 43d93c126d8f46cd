"""Everything that is measured against TRL on a machine, one after the other; prints a table for RESULTS.md.

    python -m benchmarks.suite --device cuda [SOURCE] [--minutes 25] [--only NAME …] [--folder DIR]

On a GPU: the tests that need one, then Qwen2.5's shapes of 0.5B, 1.5B and 7B with random weights, LoRA and full, in
bf16, with the reference online and precomputed, and the 7B shape at max_length 2048. On a CPU: the 7M shape in fp32
and bf16, and a vocabulary of 150k. `--tiny` puts the 7M shape and few steps in place of all, to try the suite itself.

A measurement that would start after `--minutes` is left out, and said so; one that fails does not stop the others.
What each printed is in `--folder`, as text and as JSON. Needs trl: as the extra `bench`, or, on a machine that cannot
install, as wheels on PYTHONPATH (trl, datasets, nlpaug and what they need that is not there).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.vs_trl import SIDES, SOURCES, figures, parser, report

LONG = ["--max-length", "2048", "--longer", "5600", "--steps", "6"]
GPU = {
    "1.5b-lora": ["--shape", "1.5b", "--lora", "--online"],
    "1.5b-full": ["--shape", "1.5b", "--online"],
    "7b-lora-2048": ["--shape", "7b", "--lora", "--gradient-checkpointing", "--online", *LONG],
    "1.5b-lora-precomputed": ["--shape", "1.5b", "--lora", "--precomputed"],
    "1.5b-full-precomputed": ["--shape", "1.5b", "--precomputed"],
    "0.5b-full": ["--shape", "0.5b", "--online"],
    "0.5b-lora": ["--shape", "0.5b", "--lora", "--online"],
}
ON_GPU = ["--precision", "bf16", "--steps", "12"]
CPU = {
    "7m-fp32": ["--online"],
    "7m-fp32-precomputed": ["--precomputed"],
    "7m-bf16": ["--precision", "bf16", "--online"],
    "7m-bf16-precomputed": ["--precision", "bf16", "--precomputed"],
    "7m-150k": ["--shape", "7m-150k", "--steps", "1", "--online"],
}
ON_CPU = ["--steps", "8"]
TINY = ["--shape", "7m", "--steps", "3", "--batch", "4", "--longer", "1500"]
TESTS = "gpu-tests"
GPU_TESTS = "tests/test_gpu.py"
# Of the minutes, so that there is time left to measure.
MOST_FOR_TESTS = 0.4


def main() -> None:
    asked = argparse.ArgumentParser(description="All measurements against TRL on this machine.")
    asked.add_argument("source", nargs="?", default=str(next(path for path in SOURCES if path.exists())))
    asked.add_argument("--device", choices=["cpu", "cuda"], required=True)
    asked.add_argument("--minutes", type=float, default=25.0, help="nothing is started after so many")
    asked.add_argument("--only", nargs="+", choices=[TESTS, *GPU, *CPU], help="just these")
    asked.add_argument("--folder", type=Path, default=Path("benchmarks/last"), help="where the outputs go")
    asked.add_argument("--tiny", action="store_true", help="try the suite itself")
    options = asked.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    rows: list[str] = []
    names = [TESTS, *GPU] if options.device == "cuda" else list(CPU)
    failed = False
    for name in options.only or names:
        if time.monotonic() > end:
            print(f"{name}: not started, {options.minutes:g} minutes are over", flush=True)
            failed = True
        elif name == TESTS:
            failed |= bool(run_tests(options.folder, 60 * MOST_FOR_TESTS * options.minutes))
        else:
            failed |= run_one(name, options, rows, end)
    print("\n".join(["", *HEADER, *rows]))
    sys.exit(failed)


HEADER = [
    "| measurement | TRL rows/s | ktotrain rows/s | ratio | TRL peak | ktotrain peak | of the GEMM rate: ktotrain, "
    "TRL | losses differ by |",
    "|---|---:|---:|---:|---:|---:|---:|---:|",
]


def run_tests(folder: Path, seconds: float) -> int:
    """The tests that need a GPU, stopped after so many seconds; their exit status."""
    # Their file alone: collecting the others would import what a machine for measuring need not have. Of warnings only
    # numbers matter here. Most of the time goes into compiling, for which there are more cores than one.
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", GPU_TESTS]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "4"]
    log = folder / f"{TESTS}.txt"
    with log.open("w") as stream:
        try:
            status = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, check=False, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{TESTS}: stopped after {seconds:.0f} s; as far as they came: {log}", flush=True)
            return 1
    said = log.read_text().strip()
    print(f"{TESTS}: exit status {status}\n{said[-8000:] if status else said.rpartition(chr(10))[2]}", flush=True)
    return status


def run_one(name: str, options: argparse.Namespace, rows: list[str], end: float) -> bool:
    """One measurement; its line goes to `rows`. True if a side failed."""
    arguments = [options.source, *(ON_GPU + GPU[name] if name in GPU else ON_CPU + CPU[name])]
    arguments += ["--device", options.device, *(TINY if options.tiny else [])]
    found = options.folder / f"{name}.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.vs_trl", *arguments, "--json", str(found)]
    started = time.monotonic()
    try:
        # A measurement that has begun may end after the time is over, but not long after it.
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(120.0, end - started + 240)
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: stopped, it took too long", flush=True)
        return True
    if not found.exists():
        print(f"{name}: failed\n{done.stderr[-1500:]}", flush=True)
        return True
    results: dict[str, Any] = json.loads(found.read_text())
    settings = parser().parse_args(arguments)
    said = report(results, settings)
    (options.folder / f"{name}.txt").write_text(f"{said}\n{done.stderr}")
    print(f"{name} ({time.monotonic() - started:.0f} s)\n{said}", flush=True)
    rows.append(table_row(name, results, settings))
    return bool(done.returncode)


def table_row(name: str, results: dict[str, Any], settings: argparse.Namespace) -> str:
    """The measurement as a line of the table."""
    both = figures(results, settings)
    cells = [name]
    for side in SIDES:
        one = results[side]
        ran = "error" not in one
        cells.append(f"{settings.batch / statistics.median(one['seconds']):.2f}" if ran else one["error"])
    cells.append(f"**{both['ratio']:.1f}x**" if "ratio" in both else "")
    cells += [f"{results[side]['peak'] / 2**30:.2f} GiB" if "peak" in results[side] else "" for side in SIDES]
    shares = [f"{both[key]:.0%}" for key in ("efficiency", "trl_efficiency") if key in both]
    cells += [", ".join(shares), f"{both['losses']:.1e}" if "losses" in both else ""]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
