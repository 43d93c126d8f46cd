"""Write chats.jsonl: 600 casual chats in English and 600 in Italian, as rows, all of them desirable.

    python recipes/chat_style/make_data.py            # writes recipes/chat_style/chats.jsonl
    python recipes/chat_style/make_data.py OUT.jsonl

The rows are ours: the English ones from ../quickstart/grammar.toml (with a seed of their own, so they are other rows
than the quickstart's), the Italian ones from italian.toml. No two share their last user line or their reply. Same seed,
same bytes.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from italian import Message
from italian import exchanges as italian

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "quickstart"))
from grammar import exchanges as english  # noqa: E402

ROWS = 600
SEED = 3


def lines(rows: int = ROWS, seed: int = SEED) -> Iterator[str]:
    """`rows` rows of each language, in turns, as lines of JSON."""
    both = zip(
        _distinct((found.prompt, found.casual) for found in english(seed)), _distinct(italian(seed)), strict=False
    )
    for prompt, reply in itertools.islice(itertools.chain.from_iterable(both), 2 * rows):
        completion = [{"role": "assistant", "content": reply}]
        yield json.dumps({"prompt": prompt, "completion": completion, "label": True}, ensure_ascii=False) + "\n"


def _distinct(chats: Iterator[tuple[list[Message], str]]) -> Iterator[tuple[list[Message], str]]:
    """Those whose last user line and whose reply are new."""
    seen: set[str] = set()
    for prompt, reply in chats:
        line = prompt[-1]["content"].lower()
        if not seen & {line, reply.lower()}:
            seen |= {line, reply.lower()}
            yield prompt, reply


def main() -> None:
    """Write the file that the first argument names, or chats.jsonl beside this script."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "chats.jsonl"
    out.write_text("".join(lines()), encoding="utf-8", newline="\n")
    print(f"{2 * ROWS} casual chats → {out} ({out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
