"""`ktodata unpair` against TRL's `extract_prompt` and `unpair_preference_dataset`, on many hh-shaped pairs.

    python -m benchmarks.unpair_scale [--pairs 160800] [--rounds 3] [--near] [--tenfold] [--only trl|ktodata] [--json F]

Both read the same file of pairs, made by this script, and write parquet, one process each. ktodata does all of its
checks (conflicts, duplicates, quarantine file) and puts the rows in training order; TRL does neither, and its cut is
the longest common prefix. With `--near` ktodata also runs with `--near-duplicates drop`, which is off by default, and
with `--tenfold` each way on ten times the rows, for its memory. Wall and CPU seconds are of the whole command, imports
included; peak memory is the process's own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# About hh-rlhf's: 650 characters a transcript, 2.5 turns, lengths spread widely.
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwxyz" for vowel in "ae"]
VOCABULARY = 20_000
SIDES: dict[str, list[str]] = {"trl": [], "ktodata": [], "ktodata_near": ["--near-duplicates", "drop"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="ktodata unpair against TRL's functions.")
    parser.add_argument("--pairs", type=int, default=160_800)
    parser.add_argument("--near", action="store_true", help="ktodata looking for near-duplicates too")
    parser.add_argument("--tenfold", action="store_true", help="ktodata on ten times the pairs too, for its memory")
    parser.add_argument("--rounds", type=int, default=1, help="run both sides so often, in turns; medians count")
    parser.add_argument("--only", choices=["trl", "ktodata"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_trl(options.work) if options.child == "trl" else run_ktodata(options.work, options.child)
        return
    sides = [options.only] if options.only else ["trl", "ktodata"]
    sides += ["ktodata_near"] if options.near and "ktodata" in sides else []
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_pairs(work / "pairs.jsonl", options.pairs)
        for _ in range(options.rounds):
            for side in sides:
                runs[side].append(child(side, work))
        results: dict[str, Any] = {side: merged(some) for side, some in runs.items()}
        if options.tenfold and options.only != "trl":
            make_pairs(work / "pairs.jsonl", 10 * options.pairs)
            for side in sides:
                if side != "trl":
                    results[f"{side}_tenfold"] = child(side, work)
    report(results, options.pairs)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def make_pairs(path: Path, count: int) -> None:
    """hh-shaped pairs: mostly sound; of each thousand one repeats another, one contradicts it, one has two prompts."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3, 4)))) for _ in range(VOCABULARY)]
    weights = [1 / (rank + 3) for rank in range(VOCABULARY)]
    # One long draw, cut anywhere: a draw per sentence would take longer than the commands that are measured.
    stream = rng.choices(words, weights, k=2_000_000)

    def sentence(low: float) -> str:
        length = max(3, int(rng.lognormvariate(low, 0.8)))
        start = rng.randrange(len(stream) - length)
        return " ".join(stream[start : start + length]).capitalize() + rng.choice(".?!")

    recent: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            turns = "".join(
                f"\n\nHuman: {sentence(2.4)}\n\nAssistant: {sentence(2.9)}" for _ in range(rng.choice((0, 1, 1, 2, 3)))
            )
            prompt = f"{turns}\n\nHuman: {sentence(2.4)}\n\nAssistant:"
            chosen, rejected = f"{prompt} {sentence(3.1)}", f"{prompt} {sentence(3.1)}"
            if number % 1000 == 1 and recent:
                chosen, rejected = rng.choice(recent)
            elif number % 1000 == 2 and recent:
                rejected, chosen = rng.choice(recent)
            elif number % 1000 == 3:
                rejected = f"\n\nHuman: {sentence(2.4)}\n\nAssistant: {sentence(3.1)}"
            if number % 100 == 0:
                recent = [*recent[-50:], (chosen, rejected)]
            file.write(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")


def child(side: str, work: Path) -> dict[str, float]:
    """One side in a process of its own, from its start to its end."""
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.unpair_scale", "--child", side, "--work", str(work)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = json.loads((work / f"{side}.json").read_text())["peak"]
    return {"seconds": seconds, "cpu": cpu, "peak_mib": peak / 1024}


def run_trl(work: Path) -> None:
    """What a user of TRL does, the cache off, so that it is computed each time."""
    from datasets import Dataset
    from trl import extract_prompt, unpair_preference_dataset

    pairs = Dataset.from_json(str(work / "pairs.jsonl"), cache_dir=tempfile.mkdtemp(dir=work))
    rows = unpair_preference_dataset(pairs.map(extract_prompt))
    rows.to_parquet(work / "trl.parquet")
    note_peak(work / "trl.json")


def run_ktodata(work: Path, side: str) -> None:
    """The command, as typed."""
    from ktodata.cli import main as ktodata

    command = ["unpair", str(work / "pairs.jsonl"), "-o", str(work / "ktodata.parquet"), *SIDES[side]]
    code = ktodata([*command, "--quarantine", str(work / "quarantine.jsonl")], standalone_mode=False)
    assert not code, code
    note_peak(work / f"{side}.json")


def note_peak(path: Path) -> None:
    """The process's peak resident memory in KiB."""
    path.write_text(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def merged(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def report(results: dict[str, Any], pairs: int) -> None:
    """A table, and the ratios."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("trl", "datasets", "pyarrow"))
    print(f"{pairs:,} pairs; Python {platform.python_version()}, {libraries}")
    print(f"{'':22}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}")
    for name, values in results.items():
        print(f"{name:22}{values['seconds']:9.1f}{values['cpu']:9.1f}{values['peak_mib']:10.0f}")
    for side in ("ktodata", "ktodata_near"):
        if side in results and "trl" in results:
            ours, theirs = results[side], results["trl"]
            print(f"{side} takes {ours['seconds'] / theirs['seconds']:.2f} of TRL's wall time, ", end="")
            print(f"{ours['cpu'] / theirs['cpu']:.2f} of its CPU time")
        if f"{side}_tenfold" in results:
            share = results[f"{side}_tenfold"]["peak_mib"] / results[side]["peak_mib"]
            print(f"ten times the pairs take {share:.2f} of the memory of {side}")


if __name__ == "__main__":
    main()
