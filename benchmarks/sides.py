"""The two sides of `benchmarks.vs_trl`, each of which runs in a process of its own, and the rate of a plain GEMM."""

from __future__ import annotations

import argparse
import bisect
import functools
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.shapes import make_model, texts_of

COUNTED = (
    *("positions", "tokens", "scored", "spared", "attended"),
    *("graded_tokens", "graded_scored", "graded_spared", "graded_attended"),
)
LORA = {"r": 16, "lora_alpha": 32}


def run_child(options: argparse.Namespace) -> None:
    """What `--child` names; its result goes into a file. Too little memory is a result, not an error."""
    work: Path = options.work
    task = {"model": make, "trl": run_trl, "ktotrain": run_ktotrain, "gemm": measure_gemm}[options.child]
    try:
        result = task(options)
    except BaseException as error:
        from ktotrain.errors import is_shortage

        if not is_shortage(error.__cause__ or error):
            raise
        result = {"error": "out of memory", **_peak()}
    (work / f"{options.child}.json").write_text(json.dumps(result))


def weights_type(options: argparse.Namespace) -> str:
    """Frozen weights in the precision of the run, trained ones in float32: in both sides."""
    return "bfloat16" if options.lora and options.precision == "bf16" else "float32"


def make(options: argparse.Namespace) -> dict[str, Any]:
    """The random model, in a process of its own so that nothing of it stays on the GPU."""
    texts = texts_of(options.work / "rows.jsonl")
    make_model(options.work / "model", options.shape, texts, dtype=weights_type(options))
    return {}


def first_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the steps that are run, in file order: the file's first.

    Where ktotrain orders them itself they are all rows of the first prompts, as it would meet them in a whole run.
    """
    lines = (options.work / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    count = options.steps * options.batch
    if options.own_order:
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row["prompt"], []).append(place)
        together = [place for of_prompt in places.values() for place in of_prompt]
        rows = [rows[place] for place in sorted(together[:count])]
    return rows[:count]


def run_trl(options: argparse.Namespace) -> dict[str, Any]:
    """TRL's KTOTrainer."""
    import datasets
    import torch
    import transformers
    from trl import KTOConfig, KTOTrainer

    datasets.disable_progress_bars()
    records = first_rows(options)
    rows = datasets.Dataset.from_list([{k: r[k] for k in ("prompt", "completion", "label")} for r in records])
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.work / "model")
    clock = _Clock()
    peft_config = None
    if options.lora:
        from peft import LoraConfig

        _same_adapters()
        peft_config = LoraConfig(**LORA, target_modules="all-linear", task_type="CAUSAL_LM")
    dtype = getattr(torch, weights_type(options))
    trainer = KTOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(options.work / "model", dtype=dtype),
        args=KTOConfig(
            output_dir=str(options.work / "trl"),
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            max_length=options.max_length,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            beta=0.1,
            bf16=options.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
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


def _same_adapters() -> None:
    """Let TRL's fresh adapter draw the numbers that ktotrain's draws, so that losses can be compared."""
    import torch
    from trl.trainer import kto_trainer

    make = kto_trainer.get_peft_model

    def seeded(*arguments: Any, **named: Any) -> Any:
        torch.manual_seed(0)
        return make(*arguments, **named)

    kto_trainer.get_peft_model = seeded


class _Clock:
    """Wall time from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    def callback(self) -> Any:
        import torch
        import transformers

        clock = self

        class Callback(transformers.TrainerCallback):  # type: ignore[misc]
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
        self.positions = 0
        self.tokens: Any = 0  # a number on the device: reading it each time would make the step wait
        for model in models:
            if model is not None:
                model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _: Any, positional: Any, named: dict[str, Any]) -> None:
        ids = named.get("input_ids", positional[0] if positional else None)
        if ids is not None:
            self.positions += ids.numel()
            mask = named.get("attention_mask")
            self.tokens = self.tokens + (mask.sum() if mask is not None else ids.numel())

    def result(self) -> dict[str, float]:
        return {"positions": self.positions, "tokens": int(self.tokens)}


def attended_pairs(segments: Any, layers: int, needed: Sequence[int] = ()) -> int:
    """Pairs of a query and a key that it sees, over the segments of a pack and all layers; 0 for padded rows.

    With the places of `needed` tokens, in order, the last layer has only those of a segment's first such token and of
    those after it.
    """
    pairs: int = layers * sum(one.length * one.prefix + one.length * (one.length + 1) // 2 for one in segments)
    for one in segments if needed else ():
        place = bisect.bisect_left(needed, one.start)
        first = min(needed[place] - one.start, one.length) if place < len(needed) else one.length
        pairs -= first * one.prefix + first * (first + 1) // 2
    return pairs


class Watched:
    """Counts what ktotrain's steps compute, and the time that making packs takes within them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, int]] = []
        self.packing: list[float] = []
        self.layout = ""
        self.inside = False

    def install(self) -> None:
        """Put itself around the functions of ktotrain that it watches."""
        import torch

        from ktotrain import attention_pack, last_layer, learn, scorer, step

        call, following = scorer.Scorer.__call__, scorer.Scorer.following

        def counted_call(model: Any, batch: Any, *arguments: Any) -> Any:
            spares = model.spares_last_layer and batch.units and last_layer.worth_it(batch.needed_M, batch.positions)
            spared = batch.positions - len(batch.needed_M) if spares else 0
            segments, layers = attention_pack.Ragged(batch.units).segments, model.model.config.num_hidden_layers
            attended = attended_pairs(segments, layers, batch.needed_M.tolist() if spares else ())
            self._count(batch, graded=torch.is_grad_enabled(), spared=spared, attended=attended)
            return call(model, batch, *arguments)

        def counted_following(model: Any, continuation: Any, *arguments: Any) -> Any:
            spans = attention_pack.Following(continuation.batch.units, continuation.spans, attention_pack.Memory())
            attended = attended_pairs(spans.segments, model.model.config.num_hidden_layers)
            self._count(continuation.batch, graded=False, spared=0, attended=attended)
            return following(model, continuation, *arguments)

        def counted_step(*arguments: Any, **named: Any) -> Any:
            self.inside = True
            self.steps.append(dict.fromkeys(COUNTED, 0))
            try:
                return step.run_step(*arguments, **named)
            finally:
                self.inside = False

        def timed_packs(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            packs = step.build_packs(*arguments, **named)
            self.packing.append(time.perf_counter() - start)
            self.layout = arguments[2].layout
            return packs

        for owner, name, value in (
            (scorer.Scorer, "__call__", counted_call),
            (scorer.Scorer, "following", counted_following),
            (learn, "run_step", counted_step),
            (learn, "build_packs", timed_packs),
        ):
            setattr(owner, name, value)

    def _count(self, batch: Any, *, graded: bool, spared: int, attended: int) -> None:
        if self.inside:
            counted = (batch.tokens, len(batch.target_N), spared, attended)
            added = (batch.positions, *counted, *(number * graded for number in counted))
            now = self.steps[-1]
            self.steps[-1] = {key: now[key] + more for key, more in zip(now, added, strict=True)}

    def result(self) -> dict[str, Any]:
        whole = {key: sum(step[key] for step in self.steps) for key in ("positions", "tokens")}
        return {**whole, "work": self.steps, "packing": self.packing, "layout": self.layout}


def run_ktotrain(options: argparse.Namespace) -> dict[str, Any]:
    """ktotrain, by a recipe like anyone's."""
    from ktotrain import trainer
    from ktotrain.recipe import recipe_from_dict

    output = options.work / f"ktotrain-{time.time_ns()}"
    rows = options.work / "first-rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in first_rows(options)), encoding="utf-8")
    watched = Watched()
    watched.install()
    tables: dict[str, Any] = {
        "model": {
            "path": str(options.work / "model"),
            "dtype": weights_type(options) if not options.lora else "auto",
            "reference_logps": "cached" if options.precomputed else "online",
            "gradient_checkpointing": options.gradient_checkpointing,
            "attention": options.attention,
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
        tables["adapter"] = {"rank": LORA["r"], "alpha": LORA["lora_alpha"]}
    trainer.run(recipe_from_dict(tables))
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": [record["step_seconds"] for record in records],
        "losses": [record["loss"] for record in records],
        **watched.result(),
        **_peak(),
    }


def measure_gemm(options: argparse.Namespace) -> dict[str, Any]:
    """The machine's rate for a square matrix product in the precision at hand, in FLOP/s: the best of many."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, times = (8192, 40) if device == "cuda" else (2048, 8)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    wait = torch.cuda.synchronize if device == "cuda" else functools.partial(int, 0)
    for _ in range(times):
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return {"rate": best, "device": torch.cuda.get_device_name() if device == "cuda" else "CPU"}


def _peak() -> dict[str, float]:
    import torch

    if torch.cuda.is_available():
        return {"peak": float(torch.cuda.max_memory_allocated())}
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
