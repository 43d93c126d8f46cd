"""How easily a classifier tells negatives from the completions they were made of.

    python -m benchmarks.leakage FILE [--limit N] [--seed N] [--intensity 0.25] [WHAT ...]

FILE holds rows (such as `ktodata unpair` writes), or hh-rlhf pairs (`chosen`: the text after the last
"\\n\\nAssistant:" is the completion); any format that `ktodata` reads. WHAT is `default` (`corrupt` as it is),
operations of `corrupt` such as `delete,swap`, or another strategy, `contaminate` or `contaminate:from=similar`; left
out, it is the default, each operation alone, and each strategy that needs no model. For each a table line: rows, the
AUC of a logistic regression on character 1-4-grams of the completions alone (5 folds, all completions of a prompt in
one), that of their length, and how different two seeds are. AUC .5 is chance. What a classifier can see, the policy can
learn instead of what was meant.
"""

from __future__ import annotations

import argparse
import sys
import time

from ktodata.errors import KtodataError, SourceError
from ktodata.io import read_records, read_rows
from ktodata.leakage import leakage_of
from ktodata.negatives.choose import Use, parse_uses, use
from ktodata.negatives.corrupt import CORRUPT, OPERATIONS
from ktodata.negatives.registry import STRATEGIES
from ktodata.negatives.synthesize import synthesize
from ktodata.schema import Row, make_row, normalise, plain
from ktodata.sources.contract import string

MARK = "\n\nAssistant:"


def desirable_rows(source: str, limit: int) -> list[Row]:
    """The first `limit` desirable rows of a file of rows or of hh-rlhf pairs.

    Raises:
        SourceError: it cannot be read, or has no such row.
    """
    if any("chosen" in raw.values() for raw in read_records(source, limit=1)):
        rows = []
        for raw in read_records(source):
            prompt, mark, completion = string(raw.values(), "chosen", raw.where).rpartition(MARK)
            if completion.strip():
                rows.append(make_row(prompt + mark, completion, True, source=raw.source, origin="pair"))
            if len(rows) == limit:
                break
    else:
        rows = [row for row in read_rows(source) if row.label][:limit]
    if not rows:
        raise SourceError("no desirable rows", where=source, do="Negatives are made of desirable ones")
    return rows


def measure(rows: list[Row], chosen: Use, seed: int) -> dict[str, float]:
    """One line of the table. `agree` is the share of rows of eight words or more that two seeds corrupt alike."""
    start = time.process_time()
    first = synthesize(rows, [chosen], seed=seed).negatives
    seconds = time.process_time() - start
    second = {row.parent_id: row for row in synthesize(rows, [chosen], seed=seed + 1).negatives}
    parents = {row.id: row for row in rows}
    long = [row for row in first if len(plain(parents[row.parent_id].completion).split()) >= 8]
    both = [row for row in long if row.parent_id in second]
    alike = [row for row in both if normalise(plain(row.completion)) == _text(second[row.parent_id])]
    told = leakage_of(first, rows)
    share = len(alike) / max(1, len(both))
    return {
        "made": len(first),
        "auc": told.ngrams,
        "length": told.length,
        "agree": share,
        "rate": len(rows) / seconds,
    }


def _text(row: Row) -> str:
    return normalise(plain(row.completion))


def main() -> None:
    """Print the table, or one line that says what is wrong: exit code 1 for the data, 2 for the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument(
        "operations",
        nargs="*",
        default=[],  # without one, argparse asks for an operation where options and arguments are mixed
        metavar="WHAT",
        help="such as delete,swap or default or contaminate:from=similar; left out: all",
    )
    parser.add_argument("--limit", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--intensity", type=float, default=CORRUPT.options["intensity"].default)
    options = parser.parse_intermixed_args()
    try:
        print_table(options.file, options.operations, options.limit, options.intensity, options.seed)
    except KtodataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def chosen(name: str, intensity: float) -> Use:
    """What is measured under a name.

    Raises:
        UsageError: it is neither an operation nor a strategy, or an option is not right.
    """
    if name == "default":
        return use("corrupt", intensity=intensity)
    strategy, *settings = name.split(":")
    if strategy in STRATEGIES:
        return parse_uses([strategy], [f"{strategy}.{setting}" for setting in settings])[0]
    return use("corrupt", operations=tuple(name.split(",")), intensity=intensity)


def print_table(source: str, operations: list[str], limit: int, intensity: float, seed: int) -> None:
    """A line for each of `operations`, or for all and the default. Their names are checked before anything is read.

    Raises:
        UsageError: an operation that does not exist, or an intensity that is not allowed.
        SourceError: the rows cannot be read.
    """
    others = [name for name, entry in STRATEGIES.items() if not entry.needs and name != "corrupt"]
    uses = {name: chosen(name, intensity) for name in operations or ["default", *OPERATIONS, *others]}
    rows = desirable_rows(source, limit)
    print(f"{len(rows)} desirable rows, intensity of `corrupt` {intensity}")
    print(f"{'what':<28}{'made':>6}{'AUC':>7}{'length':>8}{'seeds agree':>13}{'rows/s':>8}")
    # Loads nlpaug, outside the clock.
    measure(rows[:50], use("corrupt", operations=("delete", "spelling", "split"), intensity=0.3), seed)
    for name, each in uses.items():
        line = measure(rows, each, seed)
        numbers = (
            f"{line['made']:>6.0f}{line['auc']:>7.3f}{line['length']:>8.3f}{line['agree']:>13.1%}{line['rate']:>8.0f}"
        )
        print(f"{name:<28}{numbers}", flush=True)


if __name__ == "__main__":
    main()
