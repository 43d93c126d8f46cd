"""Counts, lengths and licences of a dataset, gathered as its rows pass: nothing is kept of their text."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ktodata.order import number_of
from ktodata.schema import Kind, Row, plain
from ktodata.sources import SOURCES, read_stamp
from ktodata.sources.contract import NOT_COMMERCIAL


class Counts:
    """The rows of one split, or of all: how many there are of each label by source, origin and strategy."""

    def __init__(self) -> None:
        self.labels: Counter[bool] = Counter()
        self.by: dict[str, Counter[tuple[str, bool]]] = {name: Counter() for name in ("source", "origin", "strategy")}
        self.lengths: dict[bool, array[int]] = {True: array("q"), False: array("q")}
        self.kind: Kind = "text"
        self._prompts: set[int] = set()

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, counted."""
        for row in rows:
            self.kind = row.kind
            self.labels[row.label] += 1
            for name, counter in self.by.items():
                counter[getattr(row, name), row.label] += 1
            self.lengths[row.label].append(len(plain(row.completion)))
            self._prompts.add(number_of(row.prompt_id))
            yield row

    @property
    def rows(self) -> int:
        """All of them."""
        return self.labels.total()

    @property
    def prompts(self) -> int:
        """Different prompts, after normalising."""
        return len(self._prompts)

    def table(self, name: str) -> list[tuple[str, int, int]]:
        """Values of `source`, `origin` or `strategy`, with their desirable and undesirable rows; the largest first."""
        counter = self.by[name]
        values = sorted(
            {value for value, _ in counter}, key=lambda one: (-counter[one, True] - counter[one, False], one)
        )
        return [(value, counter[value, True], counter[value, False]) for value in values]

    def median(self, label: bool) -> int:
        """The median length of a class's completions, in characters; 0 if it has none."""
        import numpy as np

        found = self.lengths[label]
        return int(np.median(np.array(found))) if found else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """A source that rows name, the dataset that it is of, as far as that can be told, and that dataset's licence."""

    source: str
    dataset: str = ""
    licence: str = ""
    sure: bool = True

    @property
    def terms(self) -> str:
        """A sentence on the licence."""
        if not self.sure:
            return f"if the rows of {self.source} are of {self.dataset}, their licence is {self.licence}"
        return f"the licence of {self.dataset} ({self.source}) is {self.licence}"

    @property
    def listed(self) -> str:
        """The same, among others."""
        if not self.sure:
            return f"{self.source}, if its rows are of {self.dataset}: {self.licence}"
        return f"{self.dataset} ({self.source}): {self.licence}"

    @property
    def commercial(self) -> bool:
        """Whether nothing is known to forbid commercial use."""
        return NOT_COMMERCIAL not in self.licence


def origin_of(source: str) -> Origin:
    """What is known of the `source` of a row: of those from the Hub by its id, of local copies by their folder's name
    or by the preset in front of it (see `ktodata.sources.stamped`).

    A dataset that has the layout of a preset, but is not its own, is taken to have its licence: said to be so.
    """
    preset_of, asked, rest = read_stamp(source)
    repo, *path = rest.partition(":")[0].lower().split("/")
    names = {repo, *path}
    told: tuple[int, Origin] | None = None
    for preset in SOURCES.values():
        for hub_id in filter(None, (preset.hub_id, *preset.kin)):
            exact = "/".join((repo, *path)) == hub_id.lower()
            if not exact and hub_id.lower().rpartition("/")[2] not in names:
                continue
            own = hub_id == preset.hub_id
            licence = preset.licence if own or not preset.licence else f"as {preset.hub_id}: {preset.licence}"
            found = (2 * exact + own, Origin(source, hub_id, licence))
            told = found if told is None or found[0] > told[0] else told
    if told is None and preset_of is not None:
        return Origin(source, preset_of.hub_id, preset_of.licence, sure=asked)
    return told[1] if told else Origin(source)


# What the Hub calls the licences of the presets.
_IDS = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "CC-BY-4.0": "cc-by-4.0",
    f"CC-BY-NC-4.0: {NOT_COMMERCIAL}": "cc-by-nc-4.0",
}


def licence_id(origins: Sequence[Origin]) -> str:
    """What the Hub calls the licence of rows from all of these: the one that all have, else `other`; "" for none."""
    licences = {origin.licence if origin.sure else origin.terms for origin in origins}
    if licences <= {""}:
        return ""
    return _IDS.get(next(iter(licences)), "other") if len(licences) == 1 else "other"
