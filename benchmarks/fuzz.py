"""Feeds mutated recipes and row files to the commands: no traceback, no hang, one clear error, nothing half-written.

    python -m benchmarks.fuzz [--count 10000] [--seed 0] [--case N] [--quiet]

Of ten cases four go to `ktotrain check`, one to `ktotrain run --dry-run`, two through reading and tokenizing as a run
does it, three to the commands of `ktodata` that read rows. Each runs in this process, under a limit
of 20 s of CPU and 120 s of wall time, and must end with exit code 0, 1 or 2; if not with 0, with exactly one error, of
bounded length and without control characters, and without an output file. `--case N` makes one case again and shows it.
Ends with exit code 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from benchmarks import mutations

ROOT = Path(__file__).parents[1]
VERBS = ("unpair", "label", "negatives", "balance", "split", "mix", "convert", "check")
CPU_SECONDS, WALL_SECONDS = 20, 120
MEMORY = 8 * 2**30
LONGEST = 20_000  # characters of everything on stderr
_ERROR = re.compile(r"^error:", re.MULTILINE | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_VERDICT = re.compile(r"\bfail", re.IGNORECASE)  # exit code 1 of `ktodata check` is a verdict on rows it could read
_TEMPORARY = re.compile(r"^\.|\.tmp$|~$")


class HangError(BaseException):
    """A case took too long. No `Exception`, so that nothing on its way catches it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended: an exit code, what was printed, and what is wrong with that, or ""."""

    kind: str
    code: int
    stderr: str
    finding: str = ""
    trace: str = ""


class Fuzz:
    """The cases, by number. `home` holds the model and rows that a recipe names before it is mutated."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.seed = home, seed
        self.work = home / "work"
        shutil.copytree(ROOT / "recipes" / "quickstart" / "model", home / "model")
        rng = random.Random(0)
        for name in ("rows", "eval"):
            rows = [one for _ in range(3) for one in _good_rows(rng)]
            (home / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
        (home / "empty.jsonl").touch()
        self._tokenizer: Any = None

    def case(self, number: int) -> Outcome:
        """Make and run one case."""
        rng = random.Random(f"{self.seed} {number}")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        kinds: Sequence[Callable[[random.Random], Outcome]] = (
            *[self._check] * 4, self._dry_run, *[self._tokenize] * 2, *[self._ktodata] * 3,
        )  # fmt: skip
        return kinds[number % 10](rng)

    def _recipe(self, rng: random.Random) -> list[str]:
        path = self.work / "recipe.toml"
        path.write_bytes(mutations.recipe(rng, self.home))
        sets = [mutations.override(rng, self.home) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
        name = str(path)
        if rng.random() < 0.02:
            name = rng.choice((str(self.home), "", "-", "/dev/null", "nowhere.toml", "x" * 5000, "/dev/zero"))
        return [name, *(part for one in sets for part in ("--set", one))]

    def _check(self, rng: random.Random) -> Outcome:
        from ktotrain.cli import main

        return _invoke("ktotrain check", main, ["check", *self._recipe(rng)])

    def _dry_run(self, rng: random.Random) -> Outcome:
        from ktotrain.cli import main

        return _invoke("ktotrain run --dry-run", main, ["run", *self._recipe(rng), "--dry-run"])

    def _tokenize(self, rng: random.Random) -> Outcome:
        """What a run does with its rows, without the recipe and the tokenizer's loading, which other cases have."""
        from ktotrain import cli, data
        from ktotrain.model import load_tokenizer

        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(str(self.home / "model"))
        path = mutations.row_file(rng, self.work, "rows", pairs=False, chat=rng.random() < 0.4)
        max_length = rng.choice((1, 8, 64, 4096))

        @click.group(cls=type(cli.main))  # which shows errors as the command does
        def group() -> None:
            pass

        @group.command()
        def tokenize() -> None:
            data.tokenize(data.read([str(path)]), self._tokenizer, max_length=max_length)

        return _invoke("reading and tokenizing", group, ["tokenize"])

    def _ktodata(self, rng: random.Random) -> Outcome:
        from ktodata.cli import main

        verb = rng.choice(("unpair", "unpair", *VERBS))
        pairs, chat = verb == "unpair" and rng.random() < 0.7, rng.random() < 0.4
        source = str(mutations.row_file(rng, self.work, "in", pairs=pairs, chat=chat))
        out = self.work / f"out{rng.choice(('.jsonl', '.jsonl', '.parquet', '.csv', '.json', '.jsonl.gz'))}"
        more = {
            "negatives": ["--strategy", "corrupt"],
            "split": ["--eval", str(self.work / "held.jsonl")],
            "convert": ["--to", rng.choice(("trl", "axolotl", "axolotl-chat", "llama-factory", "halos", "ktokit"))],
            "label": ["--desirable", mutations.condition(rng), "--undesirable", mutations.condition(rng)],
            "check": ["--html", str(self.work / "page.html")],
        }.get(verb, [])
        if verb == "mix":
            more = [str(mutations.row_file(rng, self.work, "more", pairs=False, chat=chat))]
        arguments = [verb, source, *more, *([] if verb in ("balance", "check") else ["-o", str(out)])]
        if verb == "unpair" and rng.random() < 0.5:
            arguments += ["--quarantine", str(self.work / "bad.jsonl")]
        before = {path.name for path in self.work.iterdir()}
        outcome = _invoke(f"ktodata {verb}", main, arguments)
        left = sorted({path.name for path in self.work.iterdir()} - before)
        bad = [name for name in left if _TEMPORARY.search(name) or (outcome.code and name.startswith("out"))]
        if bad and not outcome.finding:
            return dataclasses.replace(outcome, finding=f"left behind: {', '.join(bad)}")
        return outcome


def _good_rows(rng: random.Random) -> Iterator[str]:
    import json

    for label in (True, False):
        word = f"{rng.randrange(10**6)}"
        yield (
            json.dumps({"prompt": f"Say {word}", "completion": f" {word}{'!' if label else '?'}", "label": label})
            + "\n"
        )


def _invoke(kind: str, command: click.Command, arguments: list[str]) -> Outcome:
    """Run a command as a user would, under the limits."""
    try:
        with _limited():
            result = CliRunner().invoke(command, arguments)
    except HangError:
        return Outcome(kind, -1, "", "hangs", traceback.format_exc())
    stderr = result.stderr
    error = result.exception
    trace = "".join(traceback.format_exception(error)) if error is not None else ""
    finding = ""
    if isinstance(error, HangError):
        finding = "hangs"
    elif error is not None and not isinstance(error, SystemExit):
        finding = f"{type(error).__name__}: {str(error)[:200]}"
    elif result.exit_code not in (0, 1, 2):
        finding = f"exit code {result.exit_code}"
    elif "Traceback (most recent call last)" in result.output:
        finding = "prints a traceback"
    elif result.exit_code and len(_ERROR.findall(stderr)) != 1 and not _VERDICT.search(result.stdout):
        finding = f"{len(_ERROR.findall(stderr))} errors on stderr"
    elif len(stderr) > LONGEST:
        finding = f"{len(stderr):,} characters on stderr"
    elif found := _CONTROL.search(stderr):
        finding = f"control character {found[0]!r} on stderr"
    return Outcome(kind, result.exit_code, stderr, finding, trace)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    # Within a library no signal is heeded.
    faulthandler.dump_traceback_later(2 * WALL_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)


def run(numbers: Sequence[int], *, seed: int = 0, shown: bool = False) -> list[tuple[int, Outcome]]:
    """Run these cases; gives each with its outcome."""
    done: list[tuple[int, Outcome]] = []
    old = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "KTOKIT_CACHE")}
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ktokit-fuzz-") as name:
        os.environ |= {"HF_HUB_OFFLINE": "1", "KTOKIT_CACHE": f"{name}/cache"}
        os.chdir(name)
        try:
            fuzz = Fuzz(Path(name), seed)
            for number in numbers:
                outcome = fuzz.case(number)
                done.append((number, outcome))
                if shown or outcome.finding:
                    print(
                        f"case {number} ({outcome.kind}): {outcome.finding or f'exit code {outcome.code}'}", flush=True
                    )
                if shown:
                    for path in sorted(fuzz.work.iterdir()):
                        print(
                            f"--- {path.name}: {path.read_bytes()[:3000]!r}" if path.is_file() else f"--- {path.name}/"
                        )
                    print(f"--- stderr\n{outcome.stderr[:5000]}\n{outcome.trace}")
        finally:
            os.chdir(here)
            for key, value in old.items():
                os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
    return done


def main() -> None:
    """Run the cases and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one alone, and show it")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    began, cpu = time.perf_counter(), time.process_time()
    numbers = [options.case] if options.case is not None else range(options.first, options.first + options.count)
    done = run(numbers, seed=options.seed, shown=options.case is not None)
    counts = Counter((outcome.kind, "finding" if outcome.finding else outcome.code) for _, outcome in done)
    print("\n| command | cases | exit 0 | exit 1 | exit 2 | findings |\n|---|---:|---:|---:|---:|---:|")
    for kind in sorted({kind for kind, _ in counts}):
        row = [counts[kind, end] for end in (0, 1, 2, "finding")]
        print(f"| {kind} | {' | '.join(f'{count:,}' for count in (sum(row), *row))} |")
    findings = sum(bool(outcome.finding) for _, outcome in done)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"\n{len(done):,} cases, {findings} findings; {wall:.0f} s, CPU {cpu:.0f} s")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
