"""One row as checks see it, and what a check is: it is shown every row in file order, and then asked."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ktodata.check.finding import Finding
from ktodata.schema import Row, Text


class Look(NamedTuple):
    """A row, its place (from 0), and numbers that are equal for equal prompts and completions, after normalising."""

    row: Row
    place: int
    prompt: int
    completion: int


class Check(Protocol):
    """One or several of the things that are looked for. What it keeps of rows should not be their text."""

    def add(self, look: Look) -> None:
        """See one row."""

    def findings(self) -> list[Finding]:
        """What is to be said, when all rows have been seen."""


def turns(text: Text) -> list[str]:
    """The contents of a prompt or completion, turn by turn."""
    return [text] if isinstance(text, str) else [message["content"] for message in text]
