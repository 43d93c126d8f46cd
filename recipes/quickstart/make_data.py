"""Write chats.jsonl: 1,200 casual chats as rows, for `ktodata negatives` to make the other half of a training file.

    python recipes/quickstart/make_data.py            # writes recipes/quickstart/chats.jsonl
    python recipes/quickstart/make_data.py OUT.jsonl

The rows are ours, drawn from grammar.toml: no two share their last user line. Same seed, same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from grammar import exchanges

HERE = Path(__file__).parent
ROWS = 1200
SEED = 1


def lines(rows: int = ROWS, seed: int = SEED) -> Iterator[str]:
    """`rows` lines of JSON, each a row with a prompt of its own, a casual completion and the label true."""
    seen: set[str] = set()
    replies: set[str] = set()
    for found in exchanges(seed):
        line = found.prompt[-1]["content"].lower()
        if line in seen or found.casual.lower() in replies:
            continue
        seen.add(line)
        replies.add(found.casual.lower())
        completion = [{"role": "assistant", "content": found.casual}]
        yield json.dumps({"prompt": found.prompt, "completion": completion, "label": True}, ensure_ascii=False) + "\n"
        if len(seen) == rows:
            return


def main() -> None:
    """Write the file that the first argument names, or chats.jsonl beside this script."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "chats.jsonl"
    out.write_text("".join(lines()), encoding="utf-8", newline="\n")
    print(f"{ROWS} casual chats → {out} ({out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
