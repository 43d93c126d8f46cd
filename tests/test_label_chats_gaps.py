"""A message that cannot be read breaks the conversation of its own chat, and all others only if its chat is unknown."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ktodata.io import read_rows
from tests.test_label_chats import chat, export, message, run, short

CHATS = ("x", "y", "z")
# What of a message is wrong, and whether its chat is known.
WRONG: dict[str, tuple[dict[str, Any], bool]] = {
    "the time": ({"time": "soon"}, True),
    "no date": ({"time": 20230230}, True),
    "the author": ({"author": 5}, True),
    "the text": ({"text": ["x"]}, True),
    "the chat": ({"chat": ""}, False),
    "the chat and the time": ({"chat": "", "time": "soon"}, False),
}


def exchanges(count: int) -> list[dict[str, Any]]:
    """Bob asks Anna in each chat, in turns, and she answers: their messages alternate in the file."""
    return [
        {"chat": name, "author": author, "time": 60 * n + late, "text": f"{name}{n}{author}"}
        for n in range(count)
        for late, author in ((0, "Bob"), (30, "Anna"))
        for name in CHATS
    ]


def labelled(source: Path, *arguments: str) -> Counter[str]:
    """How often each prompt's length is there, as 'chat length', where one cannot be read."""
    aside = source.parent / "q.jsonl"
    out = str(source.parent / "o.jsonl")
    result = run(str(source), "-o", out, "--speaker", "Anna", "--quarantine", str(aside), *arguments)
    assert result.exit_code == 0, result.stderr
    assert "1 unreadable" in result.stderr
    return Counter(f"{answer[0]} {len(prompt)}" for prompt, answer in short(read_rows(out)))


@pytest.mark.parametrize("case", WRONG)
def test_the_chat_of_a_message_that_cannot_be_read_is_broken_alone(tmp_path: Path, case: str) -> None:
    wrong, known = WRONG[case]
    records = exchanges(3)
    records[6] |= wrong  # Bob's second in x
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    broken, whole = ["1", "1"], ["1", "3", "5"]
    parted = ["1", "1", "3"]  # all were answered, but the second is the first of a new conversation
    expected = {"x": broken, "y": whole if known else parted, "z": whole if known else parted}
    assert labelled(source) == Counter(f"{name} {length}" for name, lengths in expected.items() for length in lengths)


def test_a_line_that_does_not_parse_may_be_of_any_chat(tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in exchanges(2)]
    lines.insert(6, '{"chat": "x", "author"')
    (tmp_path / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert labelled(tmp_path / "a.jsonl") == Counter({f"{name} 1": 2 for name in CHATS})


def test_one_in_a_hundred_costs_its_own_rows(tmp_path: Path) -> None:
    """A hundred chats whose messages alternate: most conversations stay whole."""
    source = tmp_path / "a.csv"
    with source.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["chat", "author", "time", "text"])
        for n in range(2000):
            turn, place = divmod(n, 100)
            time = "soon" if n % 100 == turn * 7 % 100 else str(1700000000 + n)
            table.writerow([f"c{place}", "Anna" if turn % 2 else f"Bob{place}", time, f"{n}"])
    out, aside = str(tmp_path / "o.jsonl"), str(tmp_path / "q.jsonl")
    result = run(str(source), "-o", out, "--speaker", "Anna", "--quarantine", aside)
    assert result.exit_code == 0, result.stderr
    # Of 1,000 replies ten cannot be read, nor what ten others answer.
    assert len(read_rows(out)) == 980


def test_the_chats_of_an_account_are_broken_one_by_one(tmp_path: Path) -> None:
    said = [message(n, ("Anna", "Bob")[n % 2], f"{n}") for n in range(1, 7)]
    broken = [*said[:2], message(3, "Bob", 5), *said[3:]]
    for numbered in ([broken, said], [said, broken]):
        chats = [chat(*messages, name="Bob", number=n) for n, messages in enumerate(numbered)]
        source = export(tmp_path / "result.json", {"chats": {"list": chats}})
        result = run(
            source, "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna", "--quarantine", str(tmp_path / "q.jsonl")
        )
        assert result.exit_code == 0, result.stderr
        assert "1 nothing before it" in result.stderr
        # A prompt and reply that both chats begin with are one row.
        assert Counter(len(row.prompt) for row in read_rows(str(tmp_path / "o.jsonl"))) == Counter([1, 1, 3, 5])
