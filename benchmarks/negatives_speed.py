"""How fast the strategies that need no model are, and whether what they make keeps its promises.

    python -m benchmarks.negatives_speed [--rows 20000] [--workers 2] [STRATEGY ...]

The rows are casual chats of the quickstart's grammar, no two alike. For each strategy, a table line: rows per second of
one process (CPU time); of `--workers` by the clock; and of `--workers` by CPU time (that of this process and an equal
share of the workers', which is what the clock would say if nothing else ran). Start-up, which is a run on a few rows,
is taken off both. Then the share of rows that got a negative, the share of negatives that are distinct, and how often
two seeds agree on rows of eight words or more. And what must hold: the file is the same, byte for byte, for one
process, for `--workers` and for shuffled rows; no negative equals a desirable completion of its prompt.
`NAME:key=value` sets an option, as in `contaminate:from=similar`. Leakage is not measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "quickstart"))

from grammar import exchanges

from ktodata.io import rows_of, write_rows
from ktodata.negatives.choose import Use, parse_uses
from ktodata.negatives.registry import STRATEGIES
from ktodata.negatives.synthesize import Synthesis, synthesize
from ktodata.schema import Row, make_row, normalise, plain
from ktodata.sort_out import in_training_order, keyed

SEED = 11
FEW = 40


def casual_rows(count: int) -> list[Row]:
    """`count` different chat rows in a casual tone."""
    rows: dict[str, Row] = {}
    for found in exchanges(SEED):
        row = make_row(
            found.prompt,
            [{"role": "assistant", "content": found.casual}],
            True,
            source="grammar",
            origin="feedback",
        )
        rows.setdefault(row.id, row)
        if len(rows) == count:
            break
    return list(rows.values())


def parsed(text: str) -> Use:
    """A strategy as the command line here names it: `NAME` or `NAME:key=value:key=value`."""
    name, *settings = text.split(":")
    return parse_uses([name], [f"{name}.{setting}" for setting in settings])[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Seconds: by the clock, of this process, of its children."""

    clock: float
    own: float
    children: float

    @staticmethod
    def now() -> Cost:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(time.perf_counter(), own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.clock - other.clock, self.own - other.own, self.children - other.children)


def timed(rows: list[Row], use: Use, workers: int) -> tuple[Cost, Synthesis]:
    """What it costs, and what is made."""
    start = Cost.now()
    done = synthesize(rows, [use], workers=workers)
    return Cost.now() - start, done


def rates(rows: list[Row], use: Use, workers: int) -> tuple[list[float], Synthesis, Synthesis]:
    """Rows per second of one process, of several by the clock and by CPU time; and what both made."""
    timed(rows[:FEW], use, 1)  # imports
    alone, one = timed(rows, use, 1)
    startup, _ = timed(rows[:FEW], use, workers)
    together, several = timed(rows, use, workers)
    net = together - startup
    seconds = (alone.own, net.clock, net.own + net.children / workers)
    return [len(rows) / each for each in seconds], one, several


def written(rows: list[Row], done: Synthesis) -> bytes:
    """The file that the command would write."""
    with tempfile.TemporaryDirectory() as folder:
        every = [*rows, *done.negatives]
        ordered = in_training_order([keyed(every, rows[0].kind)], most=len(every), seed=0, folder=Path(folder))
        write_rows(rows_of(ordered), f"{folder}/rows.jsonl")
        return Path(f"{folder}/rows.jsonl").read_bytes()


def agreement(rows: list[Row], one: Synthesis, use: Use) -> float:
    """How often another seed makes the same of a row of eight words or more."""
    long = {row.id for row in rows if len(plain(row.completion).split()) >= 8}
    other = {row.parent_id: _text(row) for row in synthesize(rows, [use], seed=1).negatives}
    both = [row for row in one.negatives if row.parent_id in long and row.parent_id in other]
    return sum(_text(row) == other[row.parent_id] for row in both) / max(1, len(both))


def _text(row: Row) -> str:
    return normalise(plain(row.completion))


def main() -> None:
    """Print the table; exit code 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_intermixed_args()
    rows = casual_rows(options.rows)
    right = {(row.prompt_id, _text(row)) for row in rows}
    names = options.strategies or [name for name, entry in STRATEGIES.items() if not entry.needs]
    print(f"{len(rows)} casual chats, {len({row.prompt_id for row in rows})} prompts")
    columns = f"{'CPU, 1':>9}{f'clock, {options.workers}':>10}{f'CPU, {options.workers}':>9}"
    print(f"{'rows/s:':<28}{columns}{'yield':>8}{'distinct':>10}{'seeds agree':>13}  same bytes, none right")
    broken = False
    for name in names:
        use = parsed(name)
        speeds, one, several = rates(rows, use, options.workers)
        shuffled = synthesize(random.Random(3).sample(rows, len(rows)), [use])
        same = len({written(rows, done) for done in (one, several, shuffled)}) == 1
        fine = all((row.prompt_id, _text(row)) not in right for row in one.negatives)
        distinct = len({_text(row) for row in one.negatives}) / max(1, len(one.negatives))
        made = f"{len(one.negatives) / len(rows):>8.1%}{distinct:>10.1%}{agreement(rows, one, use):>13.1%}"
        alone, clock, together = speeds
        said = ["yes" if good else "NO" for good in (same, fine)]
        print(f"{name:<28}{alone:>9.0f}{clock:>10.0f}{together:>9.0f}{made}  {', '.join(said)}", flush=True)
        for reason, count in itertools.islice(sorted(one.skipped.items(), key=lambda item: -item[1]), 3):
            print(f"    {count} {reason}")
        broken = broken or not (same and fine)
    sys.exit(int(broken))


if __name__ == "__main__":
    main()
