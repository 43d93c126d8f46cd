"""What a check says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["pass", "skipped", "warn", "fail"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer.

    `said` is one line; `figures` are what it rests on, for programs; `examples` name rows (counted from 1, in the
    order of the file); `do` is what to do about it, "" where nothing is to be done.
    """

    name: str
    verdict: Verdict
    said: str
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: Sequence[str] = ()
    do: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """All findings about a source of so many rows."""

    source: str
    rows: int
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """The worst of all; a check that was skipped does not count."""
        found = {finding.verdict for finding in self.findings}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"


def graded(count: int, *, fail: bool) -> Verdict:
    """`pass` for none, else `fail` or `warn`."""
    return "pass" if not count else "fail" if fail else "warn"


def named_rows(places: Sequence[int], most: int = 5) -> str:
    """`rows 1, 7 and 9`, counted from 1, for places counted from 0; the first few."""
    shown = [str(place + 1) for place in places[:most]]
    if len(places) > most:
        return f"rows {', '.join(shown)} and {len(places) - most} more"
    return f"row {shown[0]}" if len(shown) == 1 else f"rows {', '.join(shown[:-1])} and {shown[-1]}"
