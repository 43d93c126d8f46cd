"""How casual a model answers before and after: `python recipes/chat_style/compare.py BEFORE AFTER`, two model folders.

Asks both the quickstart's held-out prompts, which are in neither training file, and prints the share of casual, formal
and well-formed replies by the quickstart's rule (../quickstart/style.py). In English, for the tiny model speaks no
Italian.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "quickstart"))
from measure import held_out, known_words, measure  # noqa: E402

PROMPTS = 100


def main() -> None:
    """Print a line for each folder."""
    chats = (json.loads(line) for line in (HERE / "chats.jsonl").read_text(encoding="utf-8").splitlines())
    known = known_words(row["completion"][0]["content"] for row in chats)
    print(f"{PROMPTS} held-out prompts    casual  formal  well-formed")
    for name, folder in zip(("before", "after"), sys.argv[1:3], strict=True):
        found = measure(Path(folder), held_out(PROMPTS))
        print(f"{name:<24}{found.casual:>6.0%}{found.formal:>8.0%}{found.well_formed(known):>13.0%}")


if __name__ == "__main__":
    main()
