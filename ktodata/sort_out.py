"""Many rows cleaned and put in order, a part of them at a time.

Rows of one prompt meet in one part, which is all that cleaning needs (`ktodata.clean`); rows of one stretch of the
order meet in another (`ktodata.order`). The result is that of all rows at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from ktodata.arrange import mixed, turned
from ktodata.clean import (
    Conflicts,
    Item,
    OnConflict,
    OnePerPrompt,
    contradictions,
    drop_duplicates,
    resolve_conflicts,
    resolve_near,
)
from ktodata.io import Spill, Table, rows_of, table_of
from ktodata.io.ahead import made_ahead
from ktodata.near import Groups, groups_of
from ktodata.order import Keys, arrange, keys_of, tail
from ktodata.schema import COLUMNS, Kind, Row, plain
from ktodata.sketch import alike, comparable, folded, signatures_of
from ktodata.stretches import Dealing, Dealt, stretch_count

PARTS = 128  # for cleaning: a part of a file of 100 GB is still held easily
MOST_PARTS = 256  # for the order: as many files as are open at a time
PROVENANCE = ("source", "origin", "strategy", "parent_id")
CLEANED = ("id", "prompt_id", "_completion", "label", *PROVENANCE)


def keyed(rows: Sequence[Row], kind: Kind) -> Table:
    """Rows as a table with the columns by which they are set aside and put in order, for `in_training_order`."""
    import pyarrow

    keys = keys_of(rows)
    table = table_of(rows, kind)
    for name, numbers in (("_id", keys.ids), ("_prompt", keys.prompts), ("_completion", keys.completions)):
        table = table.append_column(name, pyarrow.array(numbers, type=pyarrow.uint64()))
    return table


def part_of(table: Table, groups: Groups | None = None) -> Any:
    """The part for cleaning that each row belongs to: all rows of a prompt, or of a group of prompts, to the same."""
    import numpy as np

    prompts = table.column("_prompt").to_numpy()
    return ((groups.of(prompts) if groups else prompts) % np.uint64(PARTS)).astype(np.int64)


class Regrouped:
    """Rows that are set aside by `part_of` without groups, in parts by `part_of` with them: most stay where they are.

    A context manager: what it sets aside itself is gone at its end. `folder` is where that goes if it is much.
    """

    def __init__(self, rows: Spill, groups: Groups, folder: Path | None) -> None:
        self._rows, self._groups = rows, groups
        self._moved = Spill(PARTS, folder)
        self._left: dict[int, Any] = {}  # where rows went, by part: which of it stay

    def __enter__(self) -> Self:
        import pyarrow

        self._moved.__enter__()
        for part in self._groups.leaving(PARTS):
            table = self._rows.read(part)
            assert table is not None, "the prompts that leave it are of rows"
            to = part_of(table, self._groups)
            self._left[part] = to == part
            self._moved.add(table.filter(pyarrow.array(to != part)), to[to != part])
        self._moved.finish()
        return self

    def __exit__(self, *error: Any) -> None:
        self._moved.__exit__(*error)

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table | None:
        """The rows of a part; None if it has none."""
        import pyarrow

        table = self._rows.read(part, columns)
        if table is not None and part in self._left:
            table = table.filter(pyarrow.array(self._left[part]))
        whole = _joined(table, self._moved.read(part, columns))
        return whole if whole is not None and whole.num_rows else None

    def drained(self) -> Iterator[Table]:
        """The rows of each part that has any, once; see `Spill.drained`."""
        return (table for _, table in self._rows.in_turn(self._read_once) if table is not None)

    def _read_once(self, part: int) -> Table | None:
        table = self.read(part)
        self._rows.forget(part)
        self._moved.forget(part)
        return table


class Cleaning:
    """Contradictions, duplicates and one completion per prompt, over the parts of a `Spill` by `part_of`.

    Args:
        drop: is told of the rows that go, as a table, with the reason.
        groups: the groups of near prompts, if rows that are nearly equal shall go (`threshold` says how nearly); the
            parts are by `part_of` with these groups.
    """

    def __init__(
        self,
        rows: Spill | Regrouped,
        *,
        on_conflict: OnConflict,
        one_per_prompt: bool,
        seed: int,
        drop: Callable[[str, Table], None],
        groups: Groups | None = None,
        threshold: float = 1.0,
    ) -> None:
        self.rows, self.on_conflict, self.drop = rows, on_conflict, drop
        self.groups, self.threshold = groups, threshold
        self.single = OnePerPrompt(seed) if one_per_prompt else None

    def tables(self) -> Iterator[Table]:
        """The rows that stay, part by part.

        Raises:
            SourceError: there are contradictions, and they are to be errors.
        """
        if self.on_conflict == "error":
            self._refuse_contradictions()
        if self.single:
            for part in range(PARTS):
                left = self._items(part)
                texts = self.rows.read(part, ("completion", "_prompt")) if self.groups is not None else None
                for _, dropped in self._reduced(left, texts):
                    left = _less(left, dropped)
                self.single.count(left)
        for table in self.rows.drained():
            yield self._cleaned(self._items_in(table), table)

    def _cleaned(self, items: list[Item], table: Table) -> Table:
        import pyarrow

        gone: list[Item] = []
        for reason, dropped in self._reduced(items, table):
            self._drop(reason, dropped, table)
            gone += dropped
        if self.single:
            dropped = self.single.choose(_less(items, gone)).dropped
            self._drop("one per prompt", dropped, table)
            gone += dropped
        if not gone:
            return table
        return table.filter(pyarrow.array(_except(table.num_rows, gone)))

    def _drop(self, reason: str, dropped: list[Item], table: Table) -> None:
        if dropped:
            self.drop(reason, _taken(table, dropped))

    def _reduced(self, items: list[Item], table: Table | None) -> Iterator[tuple[str, list[Item]]]:
        """What goes of a part for saying the same as something else, step by step.

        Args:
            items: those of the part's rows that mean what another means, at least.
            table: the part, or of it at least `completion` and `_prompt` if `items` are all of its rows.
        """
        agreed = resolve_conflicts(items, self.on_conflict)
        yield "both labels", agreed.dropped
        distinct = drop_duplicates(agreed.kept)
        yield "duplicate", distinct.dropped
        if self.groups is not None and table is not None:
            near = self._near(items, [*agreed.dropped, *distinct.dropped], table)
            yield from zip(("near-contradiction", "near-duplicate"), near, strict=True)

    def _near(self, items: list[Item], gone: list[Item], table: Table) -> tuple[list[Item], list[Item]]:
        """What goes of rows whose prompts are near, and whose completions are."""
        import numpy as np
        import pyarrow

        assert self.groups is not None
        places = np.flatnonzero(_except(table.num_rows, gone))
        group, sizes = _numbered(self.groups.of(table.column("_prompt").to_numpy()[places]))
        places, group = places[sizes[group] > 1], group[sizes[group] > 1]
        texts = table.column("completion")
        looked_at = comparable(_lengths(texts, places), group, self.threshold)
        places, group = places[looked_at], group[looked_at]
        words = folded(texts.take(pyarrow.array(places)).to_pylist())
        left = np.flatnonzero(alike(words, group, self.threshold))
        signed = signatures_of([words[place] for place in left.tolist()])
        near, sizes = _numbered(groups_of(signed, self.threshold, group[left]))
        places, near = places[left][sizes[near] > 1], near[sizes[near] > 1]
        if self.single:
            known = {item.place: item for item in items}
            several = [known[place] for place in places.tolist()]
        else:
            several = _items_of(table, places)
        both, same = resolve_near(several, near.tolist(), self.on_conflict)
        return both.dropped, same.dropped

    def _items(self, part: int) -> list[Item]:
        """What `_items_in` gives of a part."""
        table = self.rows.read(part, CLEANED if self.single else [*CLEANED, "_prompt"])
        return [] if table is None else self._items_in(table)

    def _items_in(self, table: Table) -> list[Item]:
        """The rows of a part that cleaning looks at: those that mean what another means, or all for one per prompt."""
        import numpy as np

        if self.single:
            return _items_of(table, np.arange(table.num_rows))
        numbers = mixed(table.column("_prompt").to_numpy(), table.column("_completion").to_numpy())
        order = np.argsort(numbers, kind="stable")
        twin = numbers[order][1:] == numbers[order][:-1]
        places = np.sort(order[np.concatenate([twin, [False]]) | np.concatenate([[False], twin])])
        return _items_of(table, places) if len(places) else []

    def _refuse_contradictions(self) -> None:
        conflicts = Conflicts()
        for part in range(PARTS):
            both = contradictions(self._items(part))
            if both:
                table = self.rows.read(part)
                assert table is not None, "it has contradictions"
                places = table.column("_where").to_pylist()
                for items in both.values():
                    (first,) = rows_of([_taken(table, items[:1])])
                    told = [f"{'desirable' if one.label else 'undesirable'} at {places[one.place]}" for one in items]
                    conflicts.add(plain(first.completion), told)
        conflicts.refuse()


def in_training_order(tables: Iterable[Table], *, most: int, seed: int, folder: Path | None) -> Iterator[Table]:
    """The rows of some tables in the order of `ktodata.order`, stretch by stretch.

    Args:
        tables: with the columns of `ktodata.transform.spill_schema`.
        most: there are as many rows, or fewer.
        folder: where rows are set aside, if they are many.
    """
    return made_ahead(_stretches(tables, most=most, seed=seed, folder=folder))


def _stretches(tables: Iterable[Table], *, most: int, seed: int, folder: Path | None) -> Generator[Callable[[], Table]]:
    """What makes each stretch: its rows are copied while the next one is arranged."""
    import numpy as np
    import pyarrow

    parts = min(stretch_count(most), MOST_PARTS)
    share = (2**64 - 1) // parts  # of the numbers that rows draw; about those of one stretch
    more = share // 8  # the first part's, for all that a stretch needs to be there with the part of its number
    dealing = Dealing(seed, most)
    with Spill(parts, folder) as spill:
        for table in tables:
            kept = table.select([*COLUMNS, "_id", "_prompt", "_completion"])
            drawn = dealing.add(_keys(kept))
            spill.add(kept.append_column("_drawn", pyarrow.array(drawn)), _shares(drawn, share, more, parts))
        spill.finish()
        dealt = dealing.finish()
        del dealing  # what it kept of each row is not needed any more
        before: Keys | None = None
        begun, waiting = 0, _small(spill, dealt)
        for part, table in enumerate(spill.parted()):
            if table is not None and dealt.small is not None:
                table = table.filter(pyarrow.array(~dealt.is_small(_keys(table))))
            waiting = _joined(waiting, table)
            done = dealt.count if part == parts - 1 else dealt.whole((part + 1) * share + more)
            if waiting is None or done == begun:
                continue
            keys = _keys(waiting)
            stretch_of = dealt.of(keys, waiting.column("_drawn").to_numpy())
            for stretch in range(begun, done):
                places = np.flatnonzero(stretch_of == stretch)
                if not len(places):  # rows that are equal are all dealt to one stretch, which may leave others empty
                    continue
                here = keys.take(places)
                order = arrange(here, seed=seed, before=before, provenance=_provenance_of(waiting, places))
                if stretch < dealt.count - 1:
                    order = turned(order, here, before)
                before = tail(here.take(order), before)
                yield functools.partial(waiting.select(list(COLUMNS)).take, pyarrow.array(places[order]))
            begun, waiting = done, waiting.take(pyarrow.array(np.flatnonzero(stretch_of >= done)))


def _small(spill: Spill, dealt: Dealt) -> Table | None:
    """The rows of the small deck, if there is one."""
    import pyarrow

    found = None
    for part in range(spill.parts) if dealt.small is not None else ():
        table = spill.read(part)
        if table is not None:
            found = _joined(found, table.filter(pyarrow.array(dealt.is_small(_keys(table)))))
    return found


def _shares(drawn: Any, share: int, more: int, parts: int) -> Any:
    """Which of so many equal shares of the numbers each is in, where the first one has more, and the last one less."""
    import numpy as np

    beyond = np.maximum(drawn, np.uint64(more)) - np.uint64(more)
    return np.minimum(beyond // np.uint64(share), np.uint64(parts - 1)).astype(np.int64)


def _joined(one: Table | None, other: Table | None) -> Table | None:
    import pyarrow

    if one is None or other is None or not one.num_rows:
        return one if other is None else other
    return pyarrow.concat_tables([one, other])


def _keys(table: Table) -> Keys:
    ids, prompts, completions, labels = (
        table.column(name).to_numpy() for name in ("_id", "_prompt", "_completion", "label")
    )
    return Keys(ids, prompts, completions, labels)


def _provenance_of(table: Table, places: Any) -> Callable[[int], tuple[str, ...]]:
    def provenance(row: int) -> tuple[str, ...]:
        return tuple(table.column(name)[int(places[row])].as_py() for name in ("source", "strategy", "parent_id"))

    return provenance


def _items_of(table: Table, places: Any) -> list[Item]:
    """What cleaning needs of the rows in these places."""
    import pyarrow

    some = table.select(list(CLEANED)).take(pyarrow.array(places))
    ids, prompts, completions, labels, *provenance = (some.column(name).to_pylist() for name in CLEANED)
    origins = zip(*provenance, strict=True)
    return [Item(*values) for values in zip(ids, prompts, completions, labels, origins, places.tolist(), strict=True)]


def _less(items: list[Item], gone: list[Item]) -> list[Item]:
    places = {item.place for item in gone}
    return [item for item in items if item.place not in places]


def _except(count: int, gone: list[Item]) -> Any:
    """For each of so many places whether it is another than these: an array of bool."""
    import numpy as np

    stays = np.ones(count, dtype=bool)
    stays[[item.place for item in gone]] = False
    return stays


def _lengths(texts: Any, places: Any) -> Any:
    """The characters of the texts in these places of a column: plain texts, or chats."""
    import numpy as np
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_list(texts.type) or pyarrow.types.is_large_list(texts.type):
        chats = texts.take(pyarrow.array(places)).to_pylist()
        return np.array([len(plain(text)) for text in chats], dtype=np.int64)
    return compute.utf8_length(texts).to_numpy()[places]


def _numbered(values: Any) -> tuple[Any, Any]:
    """A number from 0 for each value, equal for equal ones, and how often each occurs."""
    import numpy as np

    _, numbers, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return numbers, sizes


def _taken(table: Table, items: list[Item]) -> Table:
    import pyarrow

    return table.take(pyarrow.array([item.place for item in items], type=pyarrow.int64()))
