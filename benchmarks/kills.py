"""Kills one run again and again, resumes it each time, and compares what it leaves with an undisturbed run's.

    python -m benchmarks.kills [--kills 20] [--seed 0] [--processes 1] [--set TABLE.KEY=VALUE …]

SIGKILL, at moments drawn from a seeded generator: while starting or resuming, in a step, while a checkpoint is being
written (its unfinished folder is there), and while the model is. The run trains the model of recipes/quickstart on its
chats, with evaluation, and saves a checkpoint at every step. The weights must be the same bytes, metrics.jsonl the same
lines but for times, samples.jsonl the same file; after each kill every step-* folder must be whole.
Ends with exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from ktotrain.checkpoint import checkpoints, folder_of, trouble_with

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart"
TIMES = {"tokens_per_second", "rows_per_second", "step_seconds"}
PATIENCE = 300  # seconds for a run to get where it shall be killed
MOMENTS = ("start", "step", "save", "save", "model")


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Kills by moment, resumes by the step gone on from, and what differs in the end, which should be nothing."""

    kills: Counter[str]
    resumed: list[int]
    differences: list[str]


def write_recipe(folder: Path, *, steps: int) -> Path:
    """A recipe for `steps` steps of full fine-tuning, a checkpoint after each, and the rows that it names."""
    chats = [json.loads(line) for line in (QUICKSTART / "chats.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = []
    for chat, other in zip(chats[:60], chats[60:120], strict=True):
        rows += [chat, {"prompt": chat["prompt"], "completion": other["completion"], "label": False}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:100]), encoding="utf-8")
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[100:]), encoding="utf-8")
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f'[model]\npath = "{QUICKSTART / "model"}"\nreference_logps = "cached"\n'
        f'[data]\ntrain = "{folder / "rows.jsonl"}"\neval = "{folder / "eval.jsonl"}"\nmax_length = 128\n'
        "[optim]\nlearning_rate = 1e-3\n"
        f'[train]\nbatch_size = 8\nmax_steps = {steps}\nprecision = "no"\nsave_every = 1\neval_every = 3\n'
        "[samples]\ncount = 2\nmax_new_tokens = 8\n",
        encoding="utf-8",
    )
    return recipe


def start(recipe: Path, output_dir: Path, overrides: Sequence[str], *, processes: int, resume: bool) -> psutil.Popen:
    """One `ktotrain run` in a process group of its own; what it says goes to a file beside the folder."""
    settings = [part for override in overrides for part in ("--set", override)]
    arguments = ["-m", "ktotrain", "run", str(recipe), "--set", f"train.output_dir={output_dir}", *settings]
    arguments += ["--processes", str(processes)] * (processes > 1) + ["--resume"] * resume
    cache = output_dir.with_name(f"{output_dir.name}-cache")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KTOKIT_CACHE": str(cache)}
    return begin(arguments, environment, output_dir.with_name(f"{output_dir.name}.log"))


def begin(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> psutil.Popen:
    """An interpreter with these arguments; what it says is added to `log`."""
    with log.open("ab") as said:
        command = [sys.executable, *arguments]
        return psutil.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)


def kill(process: psutil.Popen) -> bool:
    """SIGKILL to a run and all that it has started; whether it was still there."""
    try:
        run = psutil.Process(process.pid)
        everyone = [run, *run.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    alive = process.poll() is None
    for one in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(everyone, timeout=30)
    return alive


def wait_for(process: psutil.Popen, ready: Callable[[], bool]) -> bool:
    """Waits until something is so; False if the run ended before."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True


def kill_at(process: psutil.Popen, moment: str, output_dir: Path, rng: random.Random, starting: float) -> bool:
    """Kill a run at such a moment; False if it ended before. `starting` is how many seconds a start takes."""
    log = output_dir / "metrics.jsonl"
    if moment == "start":
        time.sleep(rng.uniform(0.1, 1.1) * starting)
    elif moment == "step":
        there = newest(output_dir) + rng.randint(1, 3)
        if not wait_for(process, lambda: newest(output_dir) >= there and log.stat().st_size > 0):
            return kill(process)
        time.sleep(rng.uniform(0, 0.2))
    elif moment == "save":
        there = newest(output_dir) + rng.randint(0, 2)
        folder = folder_of(output_dir)
        if not wait_for(process, lambda: newest(output_dir) >= there and any(folder.glob("unfinished-*"))):
            return kill(process)
        time.sleep(rng.uniform(0, 0.02))
    elif not wait_for(process, lambda: any(output_dir.glob(".model-*")) or (output_dir / "model").exists()):
        return kill(process)
    return kill(process)


def newest(output_dir: Path) -> int:
    """The step of the newest checkpoint, or 0."""
    return max((step for step, _ in checkpoints(output_dir)), default=0)


def kill_and_resume(
    folder: Path, *, kills: int, seed: int, processes: int = 1, overrides: Sequence[str] = ()
) -> Report:
    """One run undisturbed and one killed so many times, compared.

    Raises:
        RuntimeError: a run failed by itself, or was over before it had been killed so often.
    """
    rng = random.Random(seed)
    recipe = write_recipe(folder, steps=5 * kills + 5)
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    undisturbed = start(recipe, whole, overrides, processes=processes, resume=False)
    wait_for(undisturbed, lambda: bool(newest(whole)))
    starting = time.monotonic() - began
    if undisturbed.wait() != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{(folder / 'whole.log').read_text()}")
    counted: Counter[str] = Counter()
    resumed: list[int] = []
    differences: list[str] = []
    # The model is written once, at the end, where the last kills are.
    moments = [rng.choice(MOMENTS[:-1]) for _ in range(kills - 1 - kills // 10)] + ["model"] * (1 + kills // 10)
    for moment in [*moments, ""]:
        saved = newest(killed)
        if not saved:
            shutil.rmtree(killed, ignore_errors=True)  # killed before its first checkpoint: nothing to resume
        else:
            resumed.append(saved)
        process = start(recipe, killed, overrides, processes=processes, resume=bool(saved))
        if not moment:
            if process.wait() != 0:
                raise RuntimeError(f"the last run failed:\n{(folder / 'killed.log').read_text()[-4000:]}")
        elif kill_at(process, moment, killed, rng, starting):
            counted[moment] += 1
            differences += [
                f"{path} is not whole after a kill: {trouble}"
                for _, path in checkpoints(killed)
                if (trouble := trouble_with(path))
            ]
        else:
            raise RuntimeError(f"a run ended before it was killed:\n{(folder / 'killed.log').read_text()[-4000:]}")
    return Report(counted, resumed, differences + compare(whole, killed))


def compare(whole: Path, killed: Path) -> list[str]:
    """What differs between two run folders, apart from times."""
    found = []
    for path in sorted((whole / "model").glob("*.safetensors")):
        if path.read_bytes() != (killed / "model" / path.name).read_bytes():
            found.append(f"{path.name} differs")
    if (whole / "samples.jsonl").read_bytes() != (killed / "samples.jsonl").read_bytes():
        found.append("samples.jsonl differs")
    one, other = (metrics(path) for path in (whole, killed))
    steps = [[line["step"] for line in lines if "loss" in line] for lines in (one, other)]
    if steps[0] != steps[1]:
        found.append(f"steps logged: {steps[0]} undisturbed, {steps[1]} killed")
    for number, (a, b) in enumerate(zip(one, other, strict=False), start=1):
        if a != b:
            found.append(f"metrics.jsonl line {number}: {a} undisturbed, {b} killed")
    if len(one) != len(other):
        found.append(f"metrics.jsonl has {len(one)} lines undisturbed, {len(other)} killed")
    return found


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl without times."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        report = kill_and_resume(
            Path(folder),
            kills=chosen.kills,
            seed=chosen.seed,
            processes=chosen.processes,
            overrides=chosen.overrides,
        )
    places = ", ".join(f"{count} {moment}" for moment, count in sorted(report.kills.items()))
    print(f"{report.kills.total()} kills ({places}) in {time.monotonic() - began:.0f} s")
    print(f"resumed from steps {', '.join(map(str, report.resumed))}")
    for difference in report.differences:
        print(difference)
    print("weights, metrics and samples are those of the undisturbed run" * (not report.differences))
    sys.exit(bool(report.differences))


if __name__ == "__main__":
    main()
