"""How easily a classifier tells `corrupt`'s negatives from the completions they were made of.

    python -m benchmarks.leakage FILE [--limit N] [--seed N] [--intensity 0.3] [OPERATIONS ...]

FILE holds rows (such as `ktodata unpair` writes), or hh-rlhf pairs (`chosen`: the text after the last
"\\n\\nAssistant:" is the completion); any format that `ktodata` reads. For each operation alone, and for the default
(its name is `default`), a table line: rows, the AUC of a logistic regression on character 1-4-grams of
the completions alone (5 folds, all completions of a prompt in one), that of their length, and how different two seeds
are. AUC .5 is chance. What a classifier can see, the policy can learn instead of what was meant.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

from ktodata.errors import KtodataError, SourceError
from ktodata.io import read_records, read_rows
from ktodata.negatives.choose import Use, use
from ktodata.negatives.corrupt import CORRUPT, OPERATIONS
from ktodata.negatives.synthesize import synthesize
from ktodata.schema import Row, make_row, normalise, plain
from ktodata.sources.contract import string

FEWEST = 100
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


def auc_of(rows: list[Row]) -> tuple[float, float]:
    """Cross-validated AUC of character 1-4-grams (TF-IDF, logistic regression), and of length alone.

    NaN for fewer rows than would say anything.
    """
    if len(rows) < FEWEST:
        return math.nan, math.nan
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [plain(row.completion) for row in rows]
    labels = np.array([row.label for row in rows])
    groups = [row.prompt_id for row in rows]
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False, min_df=2, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000, solver="liblinear"),
    )
    folds = GroupKFold(5)
    scores = cross_val_predict(model, texts, labels, groups=groups, cv=folds, method="decision_function")
    lengths = np.array([len(text) for text in texts])
    by_length = roc_auc_score(labels, lengths)
    return float(roc_auc_score(labels, scores)), float(max(by_length, 1 - by_length))


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
    auc, by_length = auc_of([*(parents[row.parent_id] for row in first), *first])
    share = len(alike) / max(1, len(both))
    return {"made": len(first), "auc": auc, "length": by_length, "agree": share, "rate": len(rows) / seconds}


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
        help="such as delete or delete,sentences or default; left out: all and the default",
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


def print_table(source: str, operations: list[str], limit: int, intensity: float, seed: int) -> None:
    """A line for each of `operations`, or for all and the default. Their names are checked before anything is read.

    Raises:
        UsageError: an operation that does not exist, or an intensity that is not allowed.
        SourceError: the rows cannot be read.
    """
    default = ",".join(CORRUPT.options["operations"].default)
    names = [default if name == "default" else name for name in operations] or [default, *OPERATIONS]
    uses = {name: use("corrupt", operations=tuple(name.split(",")), intensity=intensity) for name in names}
    rows = desirable_rows(source, limit)
    print(f"{len(rows)} desirable rows, intensity {intensity}; `{default}` is the default")
    print(f"{'operations':<28}{'made':>6}{'AUC':>7}{'length':>8}{'seeds agree':>13}{'rows/s':>8}")
    # Loads nlpaug, outside the clock.
    measure(rows[:50], use("corrupt", operations=("delete", "spelling", "split"), intensity=0.3), seed)
    for name, chosen in uses.items():
        line = measure(rows, chosen, seed)
        numbers = (
            f"{line['made']:>6.0f}{line['auc']:>7.3f}{line['length']:>8.3f}{line['agree']:>13.1%}{line['rate']:>8.0f}"
        )
        print(f"{name:<28}{numbers}", flush=True)


if __name__ == "__main__":
    main()
