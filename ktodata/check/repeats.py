"""Contradictions, duplicates and near-duplicates."""

from __future__ import annotations

from array import array
from typing import Any

from ktodata.arrange import mixed
from ktodata.check.finding import Finding, graded, named_rows
from ktodata.check.look import Look
from ktodata.near import Prompts, groups_of, signs_of
from ktodata.schema import Text
from ktodata.signed import Signed
from ktodata.sketch import signatures

MANY = 0.05  # share of rows from which duplicates are a failure
SHOWN = 5
BATCH = 2000  # rows whose text is held


class Repeats:
    """What is said twice. Memory: 17 bytes a row, and about 100 for each prompt; signatures are on disk when many."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.prompts, self.completions, self.labels = array("Q"), array("Q"), array("b")
        self._near = Prompts()
        self._seen: set[int] = set()
        self._waiting: list[tuple[int, Text, Text]] = []
        self._signed = Signed()

    def add(self, look: Look) -> None:
        """See one row."""
        self.prompts.append(look.prompt)
        self.completions.append(look.completion)
        self.labels.append(look.row.label)
        self._waiting.append((look.prompt, look.row.prompt, look.row.completion))
        if len(self._waiting) >= BATCH:
            self._sign()

    def _sign(self) -> None:
        import numpy as np

        new = {number: prompt for number, prompt, _ in self._waiting if number not in self._seen}
        if new:
            self._near.add(signs_of(np.array(list(new), dtype=np.uint64), list(new.values())))
            self._seen |= new.keys()
        self._signed.add(signatures([completion for _, _, completion in self._waiting]))
        self._waiting = []

    def findings(self) -> list[Finding]:
        """Contradictions, duplicates, near-duplicates and near-contradictions."""
        import numpy as np

        if self._waiting:
            self._sign()
        prompts, completions = (np.array(numbers, dtype=np.uint64) for numbers in (self.prompts, self.completions))
        labels = np.array(self.labels, dtype=bool)
        _, same = np.unique(mixed(prompts, completions), return_inverse=True)
        both = _both(same, labels)
        doubled = _later(same, labels)
        near = groups_of(self._signed, self.threshold, self._near.groups(self.threshold).of(prompts))
        # What is equal was told already: of equal rows one counts, and contradictions do not.
        near_both = [group for group in _both(near, labels) if len(np.unique(same[group])) > 1]
        near_both = [group for group in near_both if not _is_contradiction(group, same, labels)]
        near_doubled = np.setdiff1d(_later(near, labels), doubled)
        contrary = sum(map(len, both))
        return [
            Finding(
                "contradictions",
                graded(contrary, fail=True),
                f"{contrary} rows whose completion carries both labels for one prompt",
                {"rows": contrary, "completions": len(both)},
                [named_rows(group.tolist()) for group in both[:SHOWN]],
                "They cancel each other out: `ktodata unpair --on-conflict drop` or majority" if contrary else "",
            ),
            _repeated("duplicates", doubled, len(labels), "repeat another of the same label", "`ktodata unpair`"),
            _repeated(
                "near-duplicates",
                near_doubled,
                len(labels),
                f"are nearly equal to another of the same label ({self.threshold:g})",
                "`ktodata unpair --near-duplicates drop`",
                strict=False,
            ),
            Finding(
                "near-contradictions",
                graded(len(near_both), fail=False),
                f"{len(near_both)} groups of nearly equal rows with both labels",
                {"groups": len(near_both), "rows": sum(map(len, near_both))},
                [named_rows(group.tolist()) for group in near_both[:SHOWN]],
                "Look at some: a wrong digit may be all the difference, or none" if near_both else "",
            ),
        ]


def _both(groups: Any, labels: Any) -> list[Any]:
    """The places of each group that has both labels, groups in the order of their first rows."""
    import numpy as np

    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []
    found = [part for part in parts if len(part) > 1 and labels[part].any() and not labels[part].all()]
    return sorted(found, key=lambda part: int(part[0]))


def _is_contradiction(group: Any, same: Any, labels: Any) -> bool:
    """Whether all that a group of near rows has of both labels is equal after normalising."""
    import numpy as np

    return all(len(np.unique(same[group[labels[group] == label]])) == 1 for label in (True, False)) and (
        same[group[labels[group]]][0] == same[group[~labels[group]]][0]
    )


def _later(groups: Any, labels: Any) -> Any:
    """The places of rows whose group has an earlier row of the same label."""
    import numpy as np

    key = groups.astype(np.int64) * 2 + labels
    first = np.unique(key, return_index=True)[1]
    return np.setdiff1d(np.arange(len(key)), first)


def _repeated(name: str, places: Any, rows: int, what: str, do: str, *, strict: bool = True) -> Finding:
    count = len(places)
    return Finding(
        name,
        graded(count, fail=strict and count > MANY * rows),
        f"{count} rows {what}",
        {"rows": count, "share": count / rows if rows else 0.0},
        [named_rows(places.tolist())] if count else [],
        f"{do} takes them out" if count else "",
    )
