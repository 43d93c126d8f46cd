"""The model card of a run: what was trained, on what, how it went, and how to use it. Fit for the Hub as it is.

Names and texts come from users, so whatever goes into Markdown is escaped or fenced, and the front matter is written
by a YAML writer. Folders of this machine are reduced to their last part: a card gets published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, TypedDict

from ktotrain.files import write_atomic
from ktotrain.recipe_tables import Recipe

PACKAGES = ("ktokit", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers")
# The rows of the results table: the metrics' keys, and what the card calls them.
METRICS = (
    ("loss", "loss"),
    ("rewards/chosen", "reward, desirable"),
    ("rewards/rejected", "reward, undesirable"),
    ("rewards/margins", "margin"),
    ("rewards/auc", "AUC"),
    ("rewards/accuracy", "accuracy"),
    ("kl", "z_ref"),
)
_FILES = (".jsonl", ".gz", ".json", ".csv", ".parquet", ".arrow")


class Summary(TypedDict, total=False):
    """What a card says about a run beyond its recipe; whatever is left out, the card leaves out.

    `rows_*` are counts of training rows, the weights are the resolved ones. `results` is what `results_of` gives,
    `samples` dicts of prompt, before and after. `chat` says whether rows are messages.
    """

    rows_desirable: int
    rows_undesirable: int
    rows_dropped: int
    desirable_weight: float
    undesirable_weight: float
    chat: bool
    steps: int
    tokens: int
    seconds: float
    parameters: int
    trained_parameters: int
    device: str
    results: Mapping[str, Mapping[str, float]]
    samples: Sequence[Mapping[str, Any]]


def write_card(folder: Path, *, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """Writes README.md into a run folder or beside a saved model. `summary` has the keys of `Summary`.

    Raises:
        TrainingError: it cannot be written.
    """
    write_atomic(folder / "README.md", render_card(recipe, summary))


def render_card(recipe: Recipe, summary: Mapping[str, Any]) -> str:
    """The card's text: YAML front matter for the Hub, then Markdown."""
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, not HTML; see the filters
    )
    environment.filters |= {"prose": prose, "code": code, "fenced": fenced, "literal": json.dumps}
    template = resources.files("ktotrain").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    apo = recipe.loss.kind == "apo_zero_unpaired"
    base = hub_id(recipe.model.path)
    return environment.from_string(template).render(
        front_matter=_front_matter(recipe, base),
        title=Path(recipe.train.output_dir).name or "model",
        base_link=f"[{prose(base)}](https://huggingface.co/{base})" if base else code(_name(recipe.model.path)),
        adapter=recipe.adapter is not None,
        apo=apo,
        method="APO-zero (unpaired)" if apo else "[KTO](https://arxiv.org/abs/2402.01306)",
        path=_model_path(recipe.train.output_dir),
        local_base=base is None and recipe.adapter is not None,
        chat=summary.get("chat", False),
        device=summary.get("device", ""),
        max_new_tokens=recipe.samples.max_new_tokens,
        sources=", ".join(code(hub_id(source) or _name(source)) for source in recipe.data.train),
        classes=_classes(summary),
        dropped=f"{summary['rows_dropped']:,}" if summary.get("rows_dropped") else "",
        results=_results(summary.get("results") or {}, without="kl" if apo else ""),
        samples=[{**sample, "prompt": _spoken(sample["prompt"])} for sample in summary.get("samples", ())],
        settings=_settings(recipe, summary),
        versions=", ".join(f"{name} {version}" for name, version in _versions()),
    )


def results_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The results of a run from its metrics (`plots.read_metrics`), by column of the card's table.

    One step is noisy, so the end is a mean over the last tenth of the logged steps, fifty at most, for each key over
    those steps that have it. The beginning is the first logged step alone: it is nearest to the untrained policy.
    """
    training = [record for record in records if "loss" in record]
    evaluated = [record for record in records if any(key.startswith("eval_") for key in record)]
    results: dict[str, dict[str, float]] = {}
    if training:
        last = training[-max(1, min(50, len(training) // 10)) :]
        name = f"step {last[0]['step']}" if len(last) == 1 else f"mean of steps {last[0]['step']} to {last[-1]['step']}"
        results[f"step {training[0]['step']}"] = {key: training[0][key] for key, _ in METRICS if key in training[0]}
        results[name] = {
            key: sum(values) / len(values)
            for key, _ in METRICS
            if (values := [record[key] for record in last if key in record])
        }
    if evaluated:
        results["evaluation"] = {
            key: evaluated[-1][f"eval_{key}"] for key, _ in METRICS if f"eval_{key}" in evaluated[-1]
        }
    return results


def hub_id(name: str) -> str | None:
    """The name if it can be a Hub id: no path that exists, no file name, and at most one slash."""
    looks_like_one = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name, flags=re.ASCII)
    return name if looks_like_one and not name.endswith(_FILES) and not Path(name).exists() else None


def prose(text: str) -> str:
    """Text as Markdown that shows it as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", " ".join(str(text).split()))


def code(text: str) -> str:
    """Text as a code span, fit for a table's cell; the empty text is shown as quotes."""
    line = " ".join(str(text).split()) or '""'
    ticks = "`" * (_longest_ticks(line) + 1)
    padding = " " if "`" in line else ""
    return f"{ticks}{padding}{line}{padding}{ticks}".replace("|", "\\|")


def fenced(text: str) -> str:
    """Text as a fenced block, verbatim, whatever fences it holds itself."""
    ticks = "`" * max(3, _longest_ticks(text) + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _front_matter(recipe: Recipe, base: str | None) -> str:
    from huggingface_hub import ModelCardData

    adapter = recipe.adapter is not None
    more: dict[str, Any] = {"base_model_relation": "adapter" if adapter else "finetune"} if base else {}
    tags = ["kto", "ktokit", *(["apo"] if recipe.loss.kind == "apo_zero_unpaired" else []), *(["lora"] * adapter)]
    return str(
        ModelCardData(
            base_model=base,
            datasets=sorted({found for source in recipe.data.train if (found := hub_id(source))}) or None,
            library_name="peft" if adapter else "transformers",
            pipeline_tag="text-generation",
            tags=tags,
            **more,
        ).to_yaml()
    ).strip()


def _model_path(output_dir: str) -> str:
    """The model's folder as the recipe has it, seen from where it was trained; of a path from the root, the end."""
    folder = Path(output_dir)
    return str((Path(folder.name) if folder.is_absolute() else folder) / "model")


def _name(path: str) -> str:
    """The last part of a path: where things lie on somebody's machine is nobody's business."""
    return Path(path).name or path


def _classes(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (name, f"{summary[f'rows_{name}']:,}", f"{summary.get(f'{name}_weight', 1.0):g}")
        for name in ("desirable", "undesirable")
        if f"rows_{name}" in summary
    ]


def _results(results: Mapping[str, Mapping[str, float]], *, without: str) -> dict[str, Any] | None:
    rows = [
        (name, [f"{column[key]:.4f}" if key in column else "" for column in results.values()])
        for key, name in METRICS
        if key != without and any(key in column for column in results.values())
    ]
    return {"columns": list(results), "rows": rows} if rows else None


def _settings(recipe: Recipe, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    optim, train, adapter = recipe.optim, recipe.train, recipe.adapter
    targets = adapter.target_modules if adapter else ()
    rows = [
        ("loss", recipe.loss.kind),
        ("beta", f"{recipe.loss.beta:g}"),
        ("reference", "initial" if recipe.model.reference == "initial" else _name(recipe.model.reference)),
        ("optimizer steps", f"{summary['steps']:,}" if "steps" in summary else ""),
        ("batch size", f"{train.batch_size} rows"),
        ("longest row", f"{recipe.data.max_length:,} tokens"),
        ("learning rate", f"{optim.learning_rate:g}, {optim.schedule}, warm-up {optim.warmup:g}"),
        ("optimizer", f"{optim.name}, betas {optim.betas[0]:g} and {optim.betas[1]:g}, eps {optim.eps:g}"),
        ("weight decay", f"{optim.weight_decay:g}" if optim.weight_decay else ""),
        ("gradient norm, at most", f"{optim.max_grad_norm:g}" if optim.max_grad_norm else ""),
        ("precision", {"no": "float32"}.get(train.precision, train.precision)),
        ("weights", recipe.model.dtype if recipe.model.dtype != "auto" else ""),
        ("quantization", recipe.model.quantization if recipe.model.quantization != "none" else ""),
        ("LoRA", f"rank {adapter.rank}, alpha {adapter.alpha}, dropout {adapter.dropout:g}" if adapter else ""),
        ("LoRA layers", targets if isinstance(targets, str) else ", ".join(targets)),
        ("trained parameters", _share(summary)),
        ("seed", str(train.seed)),
        ("tokens", f"{summary['tokens']:,}" if "tokens" in summary else ""),
        ("time", f"{summary['seconds'] / 60:.1f} minutes" if "seconds" in summary else ""),
    ]
    return [(name, value) for name, value in rows if value]


def _share(summary: Mapping[str, Any]) -> str:
    if "parameters" not in summary or "trained_parameters" not in summary:
        return ""
    share = summary["trained_parameters"] / max(1, summary["parameters"])
    return f"{summary['trained_parameters']:,} of {summary['parameters']:,} ({share:.2%})"


def _spoken(prompt: Any) -> str:
    """A sample's prompt as text: a chat as one turn per paragraph."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
