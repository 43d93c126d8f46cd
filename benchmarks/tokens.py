"""What the token cache saves: the same rows tokenized without it, with an empty one, and with a full one.

    python -m benchmarks.tokens [SOURCE] [--rows 100000]

SOURCE is anything that `ktodata unpair` reads. Its rows are repeated, each time with another number before the prompt,
until there are enough of them: so every text is distinct but for completions of one prompt.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.shapes import make_tokenizer
from benchmarks.vs_trl import SOURCES
from ktodata.io import read_rows
from ktotrain.data import tokenize
from ktotrain.token_cache import TokenCache, fingerprint


def main() -> None:
    parser = argparse.ArgumentParser(description="What the token cache saves.")
    parser.add_argument("source", nargs="?", default=str(next(path for path in SOURCES if path.exists())))
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "rows.jsonl"
        unpair = [sys.executable, "-m", "ktodata", "unpair", options.source, "--as", "text", "-o", str(path)]
        subprocess.run(unpair, check=True, stderr=subprocess.DEVNULL)
        rows = list(read_rows(str(path)))
        tokenizer = make_tokenizer(f"{row.prompt}{row.completion}" for row in rows)
        many = [
            dataclasses.replace(rows[n % len(rows)], prompt=f"{n // len(rows)} {rows[n % len(rows)].prompt}")
            for n in range(options.rows)
        ]
        start = time.perf_counter()
        name = fingerprint(tokenizer)
        print(f"{len(many):,} rows; fingerprint of the tokenizer {time.perf_counter() - start:.2f} s")
        for what, cache in (
            ("without a cache", None),
            ("with an empty one", TokenCache(Path(work), name)),
            ("with a full one", TokenCache(Path(work), name)),
        ):
            wall, cpu = time.perf_counter(), time.process_time()
            found = tokenize(many, tokenizer, max_length=1024, cache=cache)
            print(
                f"  {what:18} {time.perf_counter() - wall:6.1f} s, {time.process_time() - cpu:6.1f} s of CPU; "
                f"{found.encoded:,} texts tokenized, {found.recalled:,} known; "
                f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
            )
        size = sum(file.stat().st_size for file in Path(work).rglob("*.safetensors"))
        print(f"  on disk {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
