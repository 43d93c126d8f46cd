"""Replies per second of CPU by the back end transformers: one at a time, static batches, continuous batching.

    python -m benchmarks.generate [--rows 200] [--model FOLDER] [--device cpu]

All three give the same replies, which is checked; the seconds are those of this process, not of the wall.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ktodata.generate.contract import Outcome, Reply, Request, Sampling
from ktodata.generate.transformers import Transformers
from ktodata.io import read_rows

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart"
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"batch": 1},
    "static batches of 32": {"batch": 32},
    "continuous, 32 at a time": {"batch": 32, "batching": "continuous"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--model", default=str(QUICKSTART / "model"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    rows = read_rows(str(QUICKSTART / "chats.jsonl"))[: options.rows]
    requests = [Request(row.id, row.prompt, seed) for seed, row in enumerate(rows)]
    sampling = Sampling(temperature=1.3, top_p=0.95, max_tokens=options.max_tokens)
    first: dict[str, Outcome] = {}
    base = 0.0
    for name, settings in WAYS.items():
        back_end = Transformers(options.model, sampling=sampling, device=options.device, **settings)
        list(back_end.generate([Request("warm", "hello", 0)], known=()))
        start = time.process_time() if options.device == "cpu" else time.perf_counter()
        found = {request.key: reply for request, reply in back_end.generate(requests, known=())}
        spent = (time.process_time() if options.device == "cpu" else time.perf_counter()) - start
        first, base = first or found, base or spent
        same = sum(found[key] == reply for key, reply in first.items())
        tokens = sum(len(reply.text) for reply in found.values() if isinstance(reply, Reply))
        print(
            f"{name:<26} {len(found) / spent:7.1f} replies/s  x{base / spent:5.2f}  "
            f"{same} of {len(first)} replies the same, {tokens} characters"
        )


if __name__ == "__main__":
    main()
