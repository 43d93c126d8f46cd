"""ktotrain and TRL, one after the other on the same rows, model, precision and batch; prints both and the ratio.

    python -m benchmarks.vs_trl [SOURCE] [--shape 7m] [--steps 20] [--batch 16] [--precision no|bf16] [--lora]
                                [--online|--precomputed] [--own-order] [--device auto|cpu|cuda] [--json FILE]

SOURCE is anything that `ktodata unpair` reads; left out, the hh-rlhf rows beside the repository, or else the
quickstart's chats.

Each side runs in a process of its own, whose peak memory is read at its end (on a GPU: what torch had allocated at
most). A step's time is the wall time since the end of the step before; the median over the steps after the first two
counts (of one or two steps, all: enough for memory). Rows are fed in file order to both, so that losses can be
compared; `--own-order` takes all rows of the first prompts and lets ktotrain plan its steps as it does by default,
which keeps rows of a prompt together (TRL has no shuffling). Both sides are measured with the reference online, and
then with its log-probabilities computed before training, whose time counts in neither; `--online` and `--precomputed`
leave out the other. A side that runs out of memory is reported so, and the other one goes on. Weights are float32 in
both; with `--lora` and bf16, the frozen ones are bfloat16 in both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, flops_per_token, head_flops_per_token, spared_flops_per_token
from benchmarks.sides import run_child

ROOT = Path(__file__).parents[1]
SOURCES = (
    ROOT.parent / "shared" / "data" / "hh-rlhf" / "harmless-base" / "train.jsonl.gz",
    ROOT / "shared" / "data" / "hh-rlhf" / "harmless-base" / "train.jsonl.gz",
    ROOT / "recipes" / "quickstart" / "chats.jsonl",
)
SIDES = ("trl", "ktotrain")
WARM_UP = 2


def main() -> None:
    options = parser().parse_args()
    if options.child:
        run_child(options)
        return
    if trouble := trouble_with(options):
        sys.exit(trouble)
    found: dict[str, Any] = {}
    for name, arguments in ways(options).items():
        options.precomputed = name == "precomputed"
        found[name] = measure(options, [*sys.argv[1:], *arguments])
        print(report(found[name], options), flush=True)
    if options.json:
        whole = found if len(found) > 1 else next(iter(found.values()))
        options.json.write_text(json.dumps({"options": vars(options), **whole}, indent=1, default=str))
    if any("error" in results.get(side, {}) for results in found.values() for side in SIDES):
        sys.exit(1)


def ways(options: argparse.Namespace) -> dict[str, list[str]]:
    """How the reference is computed in what is asked for, and what the processes that measure it are told besides."""
    if options.online or options.precomputed:
        return {"precomputed" if options.precomputed else "online": []}
    return {"online": ["--online"], "precomputed": ["--precomputed"]}


def trouble_with(options: argparse.Namespace) -> str:
    """What speaks against measuring at all, or "": better said before than after some minutes."""
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "--device cuda: no GPU that torch can use. Leave it out to measure on the CPU"
    if options.only != "ktotrain":
        if importlib.util.find_spec("trl") is None:
            return "TRL is not installed: pip install -e '.[bench]', or --only ktotrain"
        if options.batch < 2:
            return "--batch: TRL refuses steps of one row. Take 2 or more, or --only ktotrain"
    if options.json and not options.json.parent.is_dir():
        return f"--json: no such folder: {options.json.parent}"
    return ""


def positive(text: str) -> int:
    """A whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description="ktotrain against TRL.")
    found.add_argument("source", nargs="?", default=str(next(path for path in SOURCES if path.exists())))
    found.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    found.add_argument("--shape", choices=SHAPES, default="7m")
    found.add_argument("--steps", type=positive, default=20)
    found.add_argument("--batch", type=positive, default=16)
    found.add_argument("--max-length", type=positive, default=1024)
    found.add_argument("--precision", choices=["no", "bf16"], default="no")
    found.add_argument("--lora", action="store_true")
    one = found.add_mutually_exclusive_group()
    one.add_argument("--online", action="store_true", help="measure with the reference online alone")
    one.add_argument("--precomputed", action="store_true", help="measure with precomputed log-probabilities alone")
    found.add_argument("--own-order", action="store_true")
    found.add_argument("--gradient-checkpointing", action="store_true")
    found.add_argument("--attention", default="auto", help="ktotrain's model.attention")
    found.add_argument("--pack-tokens", type=positive, default=16_384)
    found.add_argument(
        "--longer", type=int, default=0, help="put other rows before each prompt, up to so many characters"
    )
    found.add_argument("--rounds", type=positive, default=1, help="run both sides so often, in turns; medians count")
    found.add_argument("--only", choices=SIDES, help="one side alone")
    found.add_argument("--json", type=Path)
    found.add_argument("--child", choices=["model", "gemm", *SIDES], help=argparse.SUPPRESS)
    found.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return found


def measure(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Both sides and the GEMM rate, each in processes of their own; `arguments` are the options as given."""
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        rows = unpaired(options)
        if options.longer:
            lengthen(rows, options.longer)
        sides = [options.only] if options.only else list(SIDES)
        if "error" in (made := child("model", options, arguments)):
            sys.exit(f"the model cannot be made: {made['error']}")
        results = {"gemm": child("gemm", options, arguments)}
        rounds = [{side: child(side, options, arguments) for side in sides} for _ in range(options.rounds)]
        return results | {side: merge([one[side] for one in rounds]) for side in sides}


def unpaired(options: argparse.Namespace) -> Path:
    """The source's rows in the folder of work."""
    rows: Path = options.work / "rows.jsonl"
    unpair = [sys.executable, "-m", "ktodata", "unpair", options.source, "--as", "text", "-o", str(rows)]
    done = subprocess.run(unpair, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip().rpartition("\n")[2])
    with rows.open(encoding="utf-8") as lines:
        there = sum(1 for _ in lines)
    if there < (need := options.steps * options.batch):
        sys.exit(f"{options.source}: {there:,} rows and {need:,} are needed. Fewer --steps, or a smaller --batch")
    return rows


def lengthen(rows: Path, characters: int) -> None:
    """Put other rows' text before each prompt as long as a row has fewer than so many characters: for long rows."""
    records = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    texts = [record["prompt"] + record["completion"] for record in records]
    lines: list[str] = []
    for place, record in enumerate(records):
        before, size = "", len(texts[place])
        for other in texts[place + 1 :] + texts[:place]:
            if size + len(other) >= characters:
                break
            before, size = before + other, size + len(other)
        kept = {key: record[key] for key in ("completion", "label")}
        lines.append(json.dumps(kept | {"prompt": before + record["prompt"]}) + "\n")
    rows.write_text("".join(lines), encoding="utf-8")


def child(name: str, options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """One side, in a process of its own. An error of it is a result, with the end of what it said."""
    command = [sys.executable, "-m", "benchmarks.vs_trl", *arguments, "--child", name, "--work", str(options.work)]
    log, found = options.work / f"{name}.log", options.work / f"{name}.json"
    found.unlink(missing_ok=True)
    environment = {**os.environ, "KTOKIT_CACHE": str(options.work / "cache")}
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False, env=environment)
    if done.returncode or not found.exists():
        sys.stderr.write(f"--- {name}\n{log.read_text()[-3000:]}\n")
        said = [line for line in log.read_text().splitlines() if line.strip()]
        return {"error": said[-1][:200] if said else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(found.read_text())
    return result


def merge(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Several rounds of one side as one: the times together, everything else from the last."""
    if any("error" in one for one in rounds):
        return next(one for one in rounds if "error" in one)
    if not (steps := len(rounds[0]["seconds"])):
        return {"error": "it took no step"}
    start = WARM_UP if steps > WARM_UP else 0
    listed = [key for key in ("seconds", "work", "packing") if key in rounds[0]]
    return rounds[-1] | {key: [value for one in rounds for value in one[key][start:]] for key in listed}


def report(results: dict[str, Any], options: argparse.Namespace) -> str:
    """What was measured, in a few lines."""
    kind = f"{options.precision}, {'LoRA' if options.lora else 'full'}, batch {options.batch}"
    reference = "precomputed" if options.precomputed else "online"
    lines = [
        f"{options.shape}: {kind}, max_length {options.max_length}, reference {reference}, "
        f"{'own' if options.own_order else 'file'} order",
        f"  {results['gemm'].get('device')}, {platform.machine()}, {os.cpu_count()} cores, {versions()}",
    ]
    for side in SIDES:
        one = results.get(side)
        if one is None:
            continue
        if "error" in one:
            lines.append(f"  {side:9} {one['error']}")
            continue
        seconds = statistics.median(one["seconds"])
        lines.append(
            f"  {side:9} {options.batch / seconds:8.2f} rows/s  {seconds:7.3f} s/step  "
            f"peak {one['peak'] / 2**30:6.2f} GiB  {one['positions']:>9,} positions, "
            f"{1 - one['tokens'] / one['positions']:6.1%} padding  "
            f"loss {one['losses'][0]:.4f} … {one['losses'][-1]:.4f}"
        )
    both = figures(results, options)
    if "ratio" in both:
        lines.append(
            f"  ratio     {both['ratio']:8.2f} x rows/s ({both['total_ratio']:.2f} x by all steps together), "
            f"{both['memory']:.2f} x less memory"
        )
        if "losses" in both:
            lines.append(f"  losses differ by at most {both['losses']:.1e}")
    if "efficiency" in both:
        trl = f", TRL {both['trl_efficiency']:.0%} on the same ones" if "trl_efficiency" in both else ""
        lines.append(
            f"  GEMM rate {results['gemm']['rate'] / 1e9:8.0f} GFLOP/s; ktotrain: {both['efficiency']:.0%} of it on "
            f"useful FLOPs ({both['with_attention']:.0%} with attention's){trl}; "
            f"layout {results['ktotrain']['layout']}, making packs {both['packing']:.2%} of a step"
        )
    return "\n".join(lines)


def figures(results: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Ratios and shares, as far as both sides came to an end."""
    found: dict[str, float] = {}
    ran = {side: one for side in SIDES if (one := results.get(side)) and "error" not in one}
    seconds = {side: statistics.median(one["seconds"]) for side, one in ran.items()}
    if len(ran) == len(SIDES):
        found["ratio"] = seconds["trl"] / seconds["ktotrain"]
        found["total_ratio"] = sum(ran["trl"]["seconds"]) / sum(ran["ktotrain"]["seconds"])
        found["memory"] = ran["trl"]["peak"] / ran["ktotrain"]["peak"]
        if not options.own_order:
            pairs = zip(ran["trl"]["losses"], ran["ktotrain"]["losses"], strict=True)
            found["losses"] = max(abs(a - b) for a, b in pairs)
    if "ktotrain" in ran and "rate" in results["gemm"]:
        one = ran["ktotrain"]
        work = sum(useful_flops(step, options) for step in one["work"]) / results["gemm"]["rate"]
        attention = sum(attention_flops(step, options) for step in one["work"]) / results["gemm"]["rate"]
        found["efficiency"] = work / sum(one["seconds"])
        found["with_attention"] = (work + attention) / sum(one["seconds"])
        if "trl" in ran:
            found["trl_efficiency"] = work / sum(ran["trl"]["seconds"])
        found["packing"] = sum(one["packing"]) / sum(one["seconds"])
    return found


def useful_flops(step: dict[str, int], options: argparse.Namespace) -> float:
    """FLOPs of a step of ktotrain's.

    Each token fed is counted once per pass: 1 forward, and for the graded pass 2 more (1 with LoRA) backward.
    Attention is not counted (see `attention_flops`), nor what gradient checkpointing computes again, nor what the last
    layer spares.
    """
    backward = 1 if options.lora else 2
    body = flops_per_token(options.shape) * (step["tokens"] + backward * step["graded_tokens"])
    body -= spared_flops_per_token(options.shape) * (step["spared"] + backward * step["graded_spared"])
    head = head_flops_per_token(options.shape) * (step["scored"] + backward * step["graded_scored"])
    return body + head


def attention_flops(step: dict[str, int], options: argparse.Namespace) -> float:
    """FLOPs of scores and of weighted values, for pairs of a query and a key that it sees; twice as many backward."""
    hidden = SHAPES[options.shape][0]
    return 4.0 * hidden * (step["attended"] + 2 * step["graded_attended"])


def versions() -> str:
    """Versions of what was measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "transformers", "trl"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


if __name__ == "__main__":
    main()
