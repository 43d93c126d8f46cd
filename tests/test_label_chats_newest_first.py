"""A table of messages whose newest come first gives the rows that it gives with the oldest first."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ktodata.io import read_rows
from ktodata.schema import Row
from tests.test_label_chats import run, short


def rows_of(folder: Path, records: list[dict[str, Any]]) -> list[Row]:
    """Bob's replies; their source is the same wherever the folder is."""
    folder /= "here"
    folder.mkdir(parents=True)
    (folder / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    out = str(folder / "o.jsonl")
    result = run(str(folder / "chats.jsonl"), "-o", out, "--speaker", "Bob", "--quarantine", str(folder / "q.jsonl"))
    assert result.exit_code == 0, result.output
    return read_rows(out)


def chat(*said: tuple[str, str, str], name: str = "x") -> list[dict[str, Any]]:
    return [{"time": time, "author": author, "text": text, "chat": name} for time, author, text in said]


def answers(rows: list[Row]) -> set[tuple[str, ...]]:
    """What was said before each reply, and the reply."""
    return {(*(text for _, text in before), reply) for before, reply in short(rows)}


def test_nothing_answers_what_stands_beyond_an_unreadable_message(tmp_path: Path) -> None:
    said = chat(
        ("2024-03-01T10:00", "Anna", "hi"),
        ("2024-03-01T10:01", "Bob", "hello"),
        ("2024-03-01T10:02", "Anna", "When is the wedding?"),
        ("01.03.2024 10:03", "Anna", "Do you drink tea?"),
        ("2024-03-01T10:04", "Bob", "Yes, every day"),
        ("2024-03-01T10:05", "Anna", "ok"),
        ("2024-03-01T10:06", "Bob", "bye"),
    )
    assert answers(rows_of(tmp_path / "new", said[::-1])) == {("hi", "hello"), ("ok", "bye")}


SAME_MINUTE = [("10:00", "Anna", "Q1"), ("10:00", "Bob", "A1"), ("10:01", "Anna", "Q2"), ("10:01", "Bob", "A2")]


def minutes(*said: tuple[str, str, str], name: str = "x") -> list[dict[str, Any]]:
    return chat(*((f"2024-03-01 {time}", *rest) for time, *rest in said), name=name)  # type: ignore[misc]


def test_questions_come_before_answers_of_the_same_minute(tmp_path: Path) -> None:
    both = {("Q1", "A1"), ("Q1", "A1", "Q2", "A2")}
    assert answers(rows_of(tmp_path / "old", minutes(*SAME_MINUTE))) == both
    assert answers(rows_of(tmp_path / "new", minutes(*SAME_MINUTE)[::-1])) == both


def test_a_chat_of_one_minute_is_as_the_others_of_its_file(tmp_path: Path) -> None:
    """One that tells its own order keeps that."""
    brief = minutes(*(("10:00", author, f"brief {text}") for _, author, text in SAME_MINUTE), name="y")
    long = minutes(*SAME_MINUTE)
    expected = answers(rows_of(tmp_path / "old", long + brief))
    assert {("Q1", "A1"), ("brief Q1", "brief A1")} < expected
    assert answers(rows_of(tmp_path / "new", long[::-1] + brief[::-1])) == expected
    other = minutes(("09:00", "Anna", "other"), ("09:00", "Bob", "way"), ("09:01", "Bob", "round"), name="z")
    long += minutes(("10:02", "Anna", "bye"))
    assert answers(rows_of(tmp_path / "mixed", (long + brief)[::-1] + other)) == expected | {("other", "way\nround")}


@pytest.mark.parametrize("seed", range(12))
def test_a_file_turned_round_gives_the_same_rows(seed: int, tmp_path: Path) -> None:
    """With messages in it that cannot be read or say nothing, and times to the minute."""
    rng = random.Random(seed)
    minute = 0
    records: list[dict[str, Any]] = []
    for n in range(120):
        minute += rng.choice([0, 0, 1, 2, 500 if rng.random() < 0.1 else 1])
        record = {"chat": rng.choice("xyz"), "author": rng.choice(["Anna", "Bob"])}
        record |= {"time": 60 * minute, "text": f"t{n}"}
        wrong = rng.random()
        if wrong < 0.15:
            record |= rng.choice([{"time": "soon"}, {"chat": ""}, {"text": 5}])
        elif wrong < 0.25:
            record |= rng.choice([{"text": ""}, {"text": "", "time": None}])
        records.append(record)
    old = rows_of(tmp_path / "old", records)
    assert len(old) > 5
    assert rows_of(tmp_path / "new", records[::-1]) == old
