"""Prompts that are also in an evaluation set."""

from __future__ import annotations

from collections.abc import Iterable

from ktodata.check.finding import Finding, named_rows
from ktodata.check.look import Look
from ktodata.near import Prompts, signs_of
from ktodata.order import number_of
from ktodata.schema import Text, hash_prompt

SHOWN = 5
BATCH = 2000


class Overlap:
    """Which of the rows' prompts are in another set, exactly (after normalising) or nearly."""

    def __init__(self, name: str, prompts: Iterable[Text], threshold: float) -> None:
        self.name, self.threshold = name, threshold
        kept = {number_of(hash_prompt(prompt)): prompt for prompt in prompts}
        self.theirs = frozenset(kept)
        self._near = Prompts()
        self._sign(kept)
        self._first: dict[int, int] = {}
        self._shared: list[int] = []
        self._waiting: dict[int, Text] = {}

    def _sign(self, prompts: dict[int, Text]) -> None:
        import numpy as np

        self._near.add(signs_of(np.array(list(prompts), dtype=np.uint64), list(prompts.values())))

    def add(self, look: Look) -> None:
        """See one row."""
        if look.prompt in self.theirs:
            self._shared.append(look.place)
        elif look.prompt not in self._first:
            self._first[look.prompt] = look.place
            self._waiting[look.prompt] = look.row.prompt
            if len(self._waiting) >= BATCH:
                self._sign(self._waiting)
                self._waiting = {}

    def findings(self) -> list[Finding]:
        """Shared prompts are a failure, nearly equal ones a warning."""
        import numpy as np

        self._sign(self._waiting)
        groups = self._near.groups(self.threshold)
        theirs, ours = (groups.of(np.array(list(some), dtype=np.uint64)) for some in (self.theirs, self._first))
        near = np.array(list(self._first.values()))[np.isin(ours, theirs)].tolist()
        return [
            Finding(
                "shared prompts",
                "fail" if self._shared else "warn" if near else "pass",
                f"{len(self._shared)} rows have a prompt of {self.name}, {len(near)} prompts are nearly equal to one",
                {"rows": len(self._shared), "near": len(near), "prompts": len(self.theirs)},
                [
                    f"{what}: {named_rows(places)}"
                    for what, places in (("shared", self._shared), ("near", near))
                    if places
                ],
                "What was seen in training measures nothing: `ktodata split` parts by prompt"
                if self._shared or near
                else "",
            )
        ]
