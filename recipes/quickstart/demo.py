"""The quickstart, start to finish: `make demo`, or `python recipes/quickstart/demo.py [--out FOLDER]`.

A tiny base model answers casually and formally alike. From casual chats alone, `ktodata negatives` makes a training
file, `ktodata balance` sets the weights, `ktotrain run` trains, and the model answers casually. Commands are run as
printed, from the repository root; everything lands in demo/, which is emptied first.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing here needs the network; said before a library that would ask it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Matrices this small gain nothing from a second thread, and threads that wait for each other on a busy machine made
# training ten times slower (309 s in place of 30 s, measured beside four other jobs on 2 cores).
os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from style import style_of

if TYPE_CHECKING:
    from measure import Measured

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = Path("recipes/quickstart/model")
PROMPTS = 100
SAMPLES = 8
COLOUR = {"casual": "green", "formal": "yellow", "neither": "default"}

console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every step; 0, or 1 with a message that names the step which failed."""
    parser = argparse.ArgumentParser(description="The quickstart, start to finish.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to work in, emptied first")
    out: Path = parser.parse_args(arguments).out
    if not out.is_absolute():
        out = Path(os.path.relpath(out.absolute(), ROOT)) if out != Path("demo") else out
    os.chdir(ROOT)
    try:
        return demo(out)
    except StepError as error:
        console.print(f"[bold red]demo:[/] {error}", soft_wrap=True)
        return 1


class StepError(Exception):
    """A step of the demo failed; says which, and what to look at."""


def demo(out: Path) -> int:
    """The steps, in order; `out` is the working folder, relative to the repository root or absolute."""
    fresh(out)
    title("The base model", "1.5 million parameters, made by recipes/quickstart/make_model.py")
    before = ask(MODEL)
    console.print(f"Of {len(before.replies)} replies to prompts it never saw, {told(before)}.")

    title("Half of a training file", "1,200 casual chats, all of them desirable")
    train = out / "train.parquet"
    run("ktodata", "negatives", "recipes/quickstart/chats.jsonl", "-o", train, "--strategy", "corrupt",
        "--set", "corrupt.operations=tone", "--set", "corrupt.intensity=1")  # fmt: skip

    title("Weights", "by the paper's rule, into a copy of recipes/quickstart.toml")
    recipe = out / "quickstart.toml"
    shutil.copyfile("recipes/quickstart.toml", recipe)
    run("ktodata", "balance", train, "--write", recipe)

    title("Training", "a KTO run with a LoRA adapter")
    # The committed recipe says demo/; any other folder is said on the command line.
    moved = [] if out == Path("demo") else ["--set", f"data.train={train}", "--set", f"train.output_dir={out / 'run'}"]
    seconds = run("ktotrain", "run", recipe, *moved)

    title("The trained model", f"trained in {seconds:.0f} s")
    after = ask(out / "run" / "model")
    summary = summarise(before, after, train)
    console.print(samples(before, after))
    console.print(shares(summary, len(after.replies)))
    report(out, before, after, {**summary, "training_seconds": round(seconds, 1)})
    return 0


def fresh(out: Path) -> None:
    """Empty the working folder, unless it is something else than a demo's."""
    if out.exists() and out != Path("demo") and not (out / "quickstart.toml").exists() and any(out.iterdir()):
        raise StepError(f"{out} is not empty and not from an earlier demo. Name another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)


def run(command: str, *arguments: str | Path) -> float:
    """Print a command line, run it, and return its seconds.

    Raises:
        StepError: it is not installed, or its exit status is not 0; what it printed is on the terminal.
    """
    words = [command, *map(str, arguments)]
    console.print(f"[bold]$ {shlex.join(words)}[/]", soft_wrap=True)
    program = Path(sys.executable).parent / command
    if not program.exists():
        raise StepError(f"{program} is missing. `make setup` installs it")
    start = time.monotonic()
    status = subprocess.run([str(program), *words[1:]], check=False).returncode
    if status:
        raise StepError(f"`{shlex.join(words[:2])}` failed with exit status {status}; its message is above")
    return time.monotonic() - start


def ask(folder: Path) -> Measured:
    """The replies of a model or adapter folder to the held-out prompts."""
    from measure import held_out, measure

    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise StepError(f"{folder} holds neither a model nor an adapter")
    return measure(folder, held_out(PROMPTS))


def title(step: str, note: str) -> None:
    """A heading."""
    console.print(f"\n[bold cyan]{step}[/] [dim]{note}[/]")


def told(found: Measured) -> str:
    """The shares of a model, in words."""
    return f"{found.casual:.0%} are casual and {found.formal:.0%} formal"


def samples(before: Measured, after: Measured) -> Table:
    """The first few prompts and both models' replies, coloured by style."""
    table = Table("the user says", "before", "after", show_lines=True, expand=True)
    for prompt, old, new in list(zip(before.prompts, before.replies, after.replies, strict=True))[:SAMPLES]:
        table.add_row(Text(prompt[-1]["content"]), *(Text(text, style=COLOUR[style_of(text)]) for text in (old, new)))
    return table


def summarise(before: Measured, after: Measured, train: Path) -> dict[str, Any]:
    """The measures by model and name. A well-formed reply is made of words of the grammar and the training file."""
    import pyarrow.parquet as pq
    from measure import known_words

    completions = pq.read_table(train, columns=["completion"])["completion"].to_pylist()
    known = known_words(message["content"] for completion in completions for message in completion)
    return {
        name: {"casual": found.casual, "formal": found.formal, "well_formed": found.well_formed(known)}
        for name, found in (("before", before), ("after", after))
    }


def shares(summary: Mapping[str, Mapping[str, float]], count: int) -> Table:
    """What the demo is about: the share of casual replies before and after."""
    table = Table(f"of {count} held-out prompts", *(Column(name, justify="right") for name in summary))
    for label, name in (("casual replies", "casual"), ("formal replies", "formal"), ("well-formed", "well_formed")):
        style = "bold green" if name == "casual" else ""
        table.add_row(label, *(f"{measures[name]:.0%}" for measures in summary.values()), style=style)
    return table


def report(out: Path, before: Measured, after: Measured, summary: Mapping[str, Any]) -> None:
    """Write summary.json and replies.jsonl, and name what there is to look at."""
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with (out / "replies.jsonl").open("w", encoding="utf-8") as file:
        for prompt, old, new in zip(before.prompts, before.replies, after.replies, strict=True):
            file.write(json.dumps({"prompt": prompt, "before": old, "after": new}, ensure_ascii=False) + "\n")
    plots = sorted((out / "run" / "plots").glob("*.png"))
    if not plots:
        raise StepError(f"{out / 'run' / 'plots'} holds no plots")
    console.print("Plots:", *(f"  {path}" for path in plots), sep="\n", soft_wrap=True)
    console.print(f"All {len(after.replies)} replies: {out / 'replies.jsonl'}. The run: {out / 'run'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
