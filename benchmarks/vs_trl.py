"""ktotrain and TRL, one after the other on the same rows, model, precision and batch; prints both and the ratio.

    python -m benchmarks.vs_trl [SOURCE] [--shape 7m] [--steps 20] [--batch 16] [--precision no|bf16] [--lora]
                                [--precomputed] [--own-order] [--device auto|cpu|cuda] [--json FILE]

SOURCE is anything that `ktodata unpair` reads; left out, the hh-rlhf rows beside the repository, or else the
quickstart's chats.

Each side runs in a process of its own, whose peak memory is read at its end. A step's time is the wall time since the
end of the step before; the median over the steps after the first two counts. Rows are fed in file order to both, so
that losses can be compared; `--own-order` lets ktotrain plan its steps as it does by default, which keeps rows of a
prompt together (TRL has no shuffling). With `--precomputed` the reference's log-probabilities are computed before
training on both sides, and that time counts in neither.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, flops_per_token, head_flops_per_token, make_model, texts_of

ROOT = Path(__file__).parents[1]
SOURCES = (
    ROOT.parent / "shared" / "data" / "hh-rlhf" / "harmless-base" / "train.jsonl.gz",
    ROOT / "recipes" / "quickstart" / "chats.jsonl",
)
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description="ktotrain against TRL.")
    parser.add_argument("source", nargs="?", default=str(next(path for path in SOURCES if path.exists())))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--shape", choices=SHAPES, default="7m")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--precomputed", action="store_true")
    parser.add_argument("--own-order", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--pack-tokens", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=1, help="run both sides so often, in turns; medians count")
    parser.add_argument("--only", choices=["trl", "ktotrain"], help="one side alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=["trl", "ktotrain", "gemm"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        result = {"trl": run_trl, "ktotrain": run_ktotrain, "gemm": measure_gemm}[options.child](options)
        (options.work / f"{options.child}.json").write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        rows = options.work / "rows.jsonl"
        unpair = [sys.executable, "-m", "ktodata", "unpair", options.source, "--as", "text", "-o", str(rows)]
        subprocess.run(unpair, check=True, stderr=subprocess.DEVNULL)
        make_model(options.work / "model", options.shape, texts_of(rows))
        sides = [options.only] if options.only else ["trl", "ktotrain"]
        results: dict[str, Any] = {side: merge([child(side, options) for _ in range(options.rounds)]) for side in sides}
        results["gemm"] = child("gemm", options)
    report(results, options)
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), **results}, indent=1, default=str))


def child(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side, in a process of its own."""
    arguments = [sys.executable, "-m", "benchmarks.vs_trl", *sys.argv[1:], "--child", side, "--work", str(options.work)]
    log = options.work / f"{side}.log"
    environment = {**os.environ, "KTOKIT_CACHE": str(options.work / "cache")}
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("w") as stream:
        done = subprocess.run(arguments, stdout=stream, stderr=subprocess.STDOUT, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{side} failed:\n{log.read_text()[-4000:]}")
    result: dict[str, Any] = json.loads((options.work / f"{side}.json").read_text())
    return result


def merge(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Several rounds of one side as one: the times together, everything else from the last."""
    return rounds[-1] | {"seconds": [seconds for one in rounds for seconds in one["seconds"][WARM_UP:]]}


def run_trl(options: argparse.Namespace) -> dict[str, Any]:
    """TRL's KTOTrainer."""
    import datasets
    import torch
    import transformers
    from trl import KTOConfig, KTOTrainer

    datasets.disable_progress_bars()
    lines = (options.work / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[: options.steps * options.batch]]
    rows = datasets.Dataset.from_list([{k: r[k] for k in ("prompt", "completion", "label")} for r in records])
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.work / "model")
    clock = _Clock()
    peft_config = None
    if options.lora:
        from peft import LoraConfig

        peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    cuda = torch.cuda.is_available()
    trainer = KTOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(options.work / "model", dtype=torch.float32),
        args=KTOConfig(
            output_dir=str(options.work / "trl"),
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            max_length=options.max_length,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            beta=0.1,
            bf16=options.precision == "bf16",
            use_cpu=not cuda,
            precompute_ref_log_probs=options.precomputed,
            precompute_ref_batch_size=options.batch,
            gradient_checkpointing=options.gradient_checkpointing,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[clock.callback()],
    )
    counter = _Counter(trainer.model, trainer.ref_model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": clock.seconds, "losses": losses, **counter.result(), **_peak()}


class _Clock:
    """Wall time from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    def callback(self) -> Any:
        import torch
        import transformers

        clock = self

        class Callback(transformers.TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                clock.last = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                now = time.perf_counter()
                clock.seconds.append(now - clock.last)
                clock.last = now

        return Callback()


class _Counter:
    """Positions that go through the models, and how many of them are padding."""

    def __init__(self, *models: Any) -> None:
        self.positions = self.tokens = 0
        for model in models:
            if model is not None:
                model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _: Any, positional: Any, named: dict[str, Any]) -> None:
        ids = named.get("input_ids", positional[0] if positional else None)
        if ids is not None:
            self.positions += ids.numel()
            mask = named.get("attention_mask")
            self.tokens += int(mask.sum()) if mask is not None else ids.numel()

    def result(self) -> dict[str, float]:
        return {"positions": self.positions, "tokens": self.tokens}


def run_ktotrain(options: argparse.Namespace) -> dict[str, Any]:
    """ktotrain, by a recipe like anyone's."""
    import torch

    from ktotrain import scorer, trainer
    from ktotrain.recipe import recipe_from_dict

    output = options.work / f"ktotrain-{time.time_ns()}"
    rows = options.work / "first-rows.jsonl"
    lines = (options.work / "rows.jsonl").read_text(encoding="utf-8").splitlines()[: options.steps * options.batch]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts = {"positions": 0, "tokens": 0, "scored": 0, "graded_tokens": 0, "graded_scored": 0}
    counting = False
    call, step, following = scorer.Scorer.__call__, trainer.run_step, scorer.Scorer.following

    def count(batch: Any, *, graded: bool) -> None:
        if counting:
            counts["positions"] += batch.positions
            counts["tokens"] += batch.tokens
            counts["scored"] += len(batch.target_N)
            counts["graded_tokens"] += batch.tokens * graded
            counts["graded_scored"] += len(batch.target_N) * graded

    def counted_call(self: Any, batch: Any, *arguments: Any) -> Any:
        count(batch, graded=torch.is_grad_enabled())
        return call(self, batch, *arguments)

    def counted_following(self: Any, continuation: Any, *arguments: Any) -> Any:
        count(continuation.batch, graded=False)
        return following(self, continuation, *arguments)

    def counted_step(*arguments: Any, **named: Any) -> Any:
        nonlocal counting
        counting = True
        try:
            return step(*arguments, **named)
        finally:
            counting = False

    scorer.Scorer.__call__ = counted_call  # type: ignore[method-assign]
    scorer.Scorer.following = counted_following  # type: ignore[method-assign]
    trainer.run_step = counted_step  # type: ignore[assignment]
    tables: dict[str, Any] = {
        "model": {
            "path": str(options.work / "model"),
            "dtype": "float32",
            "reference_logps": "cached" if options.precomputed else "online",
            "gradient_checkpointing": options.gradient_checkpointing,
        },
        "data": {"train": [str(rows)], "max_length": options.max_length, "shuffle": options.own_order},
        "optim": {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0.0},
        "train": {
            "output_dir": str(output),
            "batch_size": options.batch,
            "max_steps": options.steps,
            "precision": options.precision,
            "pack_tokens": options.pack_tokens,
        },
        "samples": {"count": 0},
    }
    if options.lora:
        tables["adapter"] = {"rank": 16, "alpha": 32}
    trainer.run(recipe_from_dict(tables))
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": [record["step_seconds"] for record in records],
        "losses": [record["loss"] for record in records],
        **counts,
        **_peak(),
    }


def measure_gemm(options: argparse.Namespace) -> dict[str, Any]:
    """The machine's rate for a square matrix product in the precision at hand, in FLOP/s: the best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return {"rate": best}


def _peak() -> dict[str, float]:
    import torch

    if torch.cuda.is_available():
        return {"peak": float(torch.cuda.max_memory_allocated())}
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def report(results: dict[str, Any], options: argparse.Namespace) -> None:
    """The table that goes into RESULTS.md."""
    kind = f"{options.precision}, {'LoRA' if options.lora else 'full'}, batch {options.batch}"
    reference = "precomputed" if options.precomputed else "online"
    print(f"{options.shape}: {kind}, reference {reference}, {'own' if options.own_order else 'file'} order")
    print(f"  {platform.machine()}, {os.cpu_count()} cores, {versions()}")
    rate: dict[str, float] = {}
    for side in ("trl", "ktotrain"):
        if side not in results:
            continue
        one = results[side]
        seconds = statistics.median(one["seconds"])
        rate[side] = options.batch / seconds
        print(
            f"  {side:9} {rate[side]:8.2f} rows/s  {seconds:7.3f} s/step  peak {one['peak'] / 2**30:6.2f} GiB  "
            f"{one['positions']:>9,} positions, {1 - one['tokens'] / one['positions']:6.1%} padding  "
            f"loss {one['losses'][0]:.4f} … {one['losses'][-1]:.4f}"
        )
    if len(rate) == 2:
        memory = results["trl"]["peak"] / results["ktotrain"]["peak"]
        print(f"  ratio     {rate['ktotrain'] / rate['trl']:8.2f} x rows/s, {memory:.2f} x less memory")
        if not options.own_order:
            pairs = zip(results["trl"]["losses"], results["ktotrain"]["losses"], strict=True)
            print(f"  losses differ by at most {max(abs(a - b) for a, b in pairs):.1e}")
    if "ktotrain" in results:
        one = results["ktotrain"]
        print(
            f"  GEMM rate {results['gemm']['rate'] / 1e9:8.0f} GFLOP/s; ktotrain: {efficiency(one, results, options)}"
        )


def efficiency(one: dict[str, Any], results: dict[str, Any], options: argparse.Namespace) -> str:
    """Useful FLOPs of ktotrain's steps over what the measured GEMM rate would do in that time.

    Each token fed is counted once per pass: 1 forward, and for the graded pass 2 more (1 with LoRA) backward.
    Attention scores are not counted.
    """
    graded, scored = one.get("graded_tokens"), one.get("graded_scored")
    if graded is None or scored is None:
        return "FLOPs not counted"
    backward = 1 if options.lora else 2
    body = flops_per_token(options.shape) * (one["tokens"] + backward * graded)
    head = head_flops_per_token(options.shape) * (one["scored"] + backward * scored)
    seconds = statistics.median(one["seconds"]) * options.steps
    return f"{(body + head) / seconds / results['gemm']['rate']:.0%} of it on useful FLOPs"


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
