"""Runs strategies over rows: labels, provenance, retries, duplicates, counts.

The unit is a *job*: one negative of one strategy for one desirable row. All jobs of a prompt are done together and in
one order (by row id, strategy, k), because what one makes the next must not make again; prompts are independent, so
they can be spread over processes. Each job draws from a generator seeded by (seed, strategy, row id, k) alone. A row
that is there twice is one row: its copies are left out before jobs are made.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ktodata.engine import Engine, each
from ktodata.errors import KtodataError
from ktodata.negatives.choose import Use
from ktodata.negatives.contract import Ask, Run, Skip, Strategy, sampled
from ktodata.negatives.jobs import Job, asked_of, by_name, generator, jobs_of
from ktodata.schema import Message, Row, RowIds, Text, content_hash, normalise

TRIES = 5  # drafts of one negative that may equal something present before the job is counted as skipped
_CHUNK = 200  # prompts that a process gets at a time
REPEATED = "equal to a completion that is there"


Result: TypeAlias = Row | Skip
_Sent: TypeAlias = tuple[str, Text] | Skip
"""What a process sends back of a job: the id of the negative and its completion, or why there is none."""
_Same: TypeAlias = str | tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Synthesis:
    """What `synthesize` made: the negatives, in an order that does not depend on that of the input, and the counts.

    `desirable` different rows were asked for negatives; `made` counts negatives by strategy, `skipped` jobs by
    `strategy: reason`. Jobs made and skipped add up to all jobs; `refused` has the rows of those skipped, with the
    same words. `facts` is what strategies have to say for a card.
    """

    negatives: list[Row]
    desirable: int
    made: dict[str, int]
    skipped: dict[str, int]
    refused: list[tuple[Row, str]] = dataclasses.field(default_factory=list)
    facts: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    finish: Callable[[], None] = dataclasses.field(default=lambda: None, compare=False, repr=False)
    """To be called when the negatives are safely written: what was kept in case of a crash may go."""


@dataclasses.dataclass(slots=True)
class _Group:
    """A prompt: its jobs, and the normalised completions that a negative must not equal."""

    jobs: list[Job]
    taken: set[_Same]


def synthesize(
    rows: Sequence[Row],
    uses: Sequence[Use],
    *,
    per_row: int = 1,
    seed: int = 0,
    workers: int = 1,
    engine: Engine = "local",
    output: str = "",
    only_of: Collection[str] | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Synthesis:
    """`per_row` negatives for each desirable row: from each of the `uses`, or, if they have weights, from one of
    them that the row's own generator draws by weight. With `only_of`, for the rows of these ids only.

    A negative equals, after normalising, no completion that its prompt has, and no other negative. `output` is the
    file that the caller will write, "" for none: what a killed run leaves for the next lies beside it. `advance` is
    called with the number of jobs done.

    Raises:
        KtodataError: there is no desirable row, or a strategy cannot work with these rows and options.
    """
    rows = sorted(rows, key=place_of)
    require_desirable(sum(row.label for row in rows), len(rows))
    work = Synthesizer(uses, Run(rows, seed, output, sample=sampled(rows)), per_row=per_row, only_of=only_of)
    (block,) = work.blocks([rows], workers=workers, engine=engine, advance=advance)
    desirable = sum(row.label for row in block.rows)
    return Synthesis(
        block.negatives, desirable, dict(work.made), dict(work.skipped), block.refused, work.facts(), work.finish
    )


def require_desirable(desirable: int, rows: int) -> None:
    """Refuse rows of which none is desirable. Raises KtodataError."""
    if not desirable:
        raise KtodataError(f"none of {rows} rows is desirable", do="Negatives are made from desirable rows")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """What came of some rows: negatives, and rows for which there is none of some strategy, with the reason.

    `rows` are different ones; `repeated` are those that are there already, and were asked for nothing.
    """

    rows: Sequence[Row]
    repeated: Sequence[Row]
    negatives: list[Row]
    refused: list[tuple[Row, str]]


@dataclasses.dataclass(slots=True)
class _Pending:
    """A block under way: so many portions of it are still out."""

    rows: Sequence[Row]
    repeated: Sequence[Row]
    groups: list[_Group]
    out: int
    found: list[tuple[Job, Result]]


class Synthesizer:
    """Strategies, prepared once, over rows that come in blocks: all rows of a prompt in one of them, by `place_of`.

    `made` counts negatives by strategy and `skipped` jobs by `strategy: reason`, over the blocks so far.

    Raises:
        KtodataError: a strategy cannot work with the rows and options.
    """

    def __init__(
        self, uses: Sequence[Use], run: Run, *, per_row: int = 1, only_of: Collection[str] | None = None
    ) -> None:
        self.uses, self.seed, self.per_row, self.only_of = uses, run.seed, per_row, only_of
        run = dataclasses.replace(run, rows=_once(run.rows)[0])
        asked = asked_of(run, uses, per_row, only_of)
        self.pools = [
            use.strategy.prepare(dataclasses.replace(run, asked=count), **use.options) if use.strategy.prepare else None
            for use, count in zip(uses, asked, strict=True)
        ]
        self.made: Counter[str] = Counter({use.strategy.name: 0 for use in uses})
        self.skipped: Counter[str] = Counter()

    def blocks(
        self,
        blocks: Iterable[Sequence[Row]],
        *,
        workers: int = 1,
        engine: Engine = "local",
        advance: Callable[[int], object] = lambda count: None,
    ) -> Iterator[Block]:
        """What comes of each block, in their order. The next is begun while workers are busy with the last."""
        # What models make is made here; and rows take longer to send than to give what they were dealt.
        if all(use.strategy.one is None or use.strategy.part for use in self.uses):
            workers, engine = 1, "local"
        waiting: deque[list[_Group]] = deque()
        pending: deque[_Pending] = deque()

        def portions() -> Iterator[_Portion]:
            for block in blocks:
                rows, repeated = _once(block)
                groups = _grouped(rows, self.uses, self.per_row, self.seed, self.only_of)
                chunks = _chunks(groups, self.uses)
                pending.append(_Pending(rows, repeated, groups, len(chunks), []))
                for chunk in chunks:
                    waiting.append(chunk)
                    yield chunk, self._parts(chunk)

        shared = (*_bare(self.uses, self.pools), self.seed)
        for part in each(_run, portions(), shared=shared, workers=workers, engine=engine):
            jobs = [job for group in waiting.popleft() for job in group.jobs if self.uses[job.use].strategy.one]
            first = next(one for one in pending if one.out)
            first.out -= 1
            first.found += [
                (job, _row_of(job, sent, self.uses[job.use].strategy)) for job, sent in zip(jobs, part, strict=True)
            ]
            advance(len(part))
            while pending and not pending[0].out:
                yield self._finished(pending.popleft(), advance)
        while pending:
            yield self._finished(pending.popleft(), advance)

    def facts(self) -> dict[str, Mapping[str, Any]]:
        """What strategies have to say for a card, by name."""
        each_use = zip(self.uses, self.pools, strict=True)
        return {use.strategy.name: use.strategy.facts(pool) for use, pool in each_use if use.strategy.facts}

    def finish(self) -> None:
        """To be called when the negatives are safely written: what was kept in case of a crash may go."""
        for use, pool in zip(self.uses, self.pools, strict=True):
            if use.strategy.finish:
                use.strategy.finish(pool)

    def _parts(self, chunk: list[_Group]) -> list[Any]:
        """For each use, what these prompts need of a pool that is too large to send whole, else None."""
        rows = [job.row for group in chunk for job in group.jobs]
        uses = zip(self.uses, self.pools, strict=True)
        return [use.strategy.part(pool, rows) if use.strategy.part else None for use, pool in uses]

    def _finished(self, block: _Pending, advance: Callable[[int], object]) -> Block:
        """A block whose portions have come back; models take their turn now, over all of its prompts."""
        found = block.found
        taken = {group.jobs[0].row.prompt_id: group.taken for group in block.groups if group.jobs}
        for job, result in found:
            if isinstance(result, Row):
                taken[job.row.prompt_id].add(_same(result.completion))
        for index, use in enumerate(self.uses):
            if use.strategy.many is not None:
                jobs = [job for group in block.groups for job in group.jobs if job.use == index]
                found += _together(jobs, use, self.pools[index], self.seed, taken, advance)
        return self._counted(Block(block.rows, block.repeated, [], []), found)

    def _counted(self, block: Block, found: Iterable[tuple[Job, Result]]) -> Block:
        names = [use.strategy.name for use in self.uses]

        def place(item: tuple[Job, Result]) -> tuple[str, str, str, int]:
            job = item[0]
            return job.row.prompt_id, job.row.id, names[job.use], job.k

        for job, result in sorted(found, key=place):
            name = names[job.use]
            if isinstance(result, Row):
                block.negatives.append(result)
                self.made[name] += 1
            else:
                block.refused.append((job.row, f"{name}: {result.reason}"))
                self.skipped[f"{name}: {result.reason}"] += 1
        return block


def place_of(row: Row) -> tuple[str, ...]:
    """Where a row comes, whatever the order of the file: the provenance tells rows apart that are equal but for it."""
    return row.prompt_id, row.id, row.source, row.origin, row.strategy, row.parent_id


def _once(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Each row once, the first of those with its id, and the others."""
    there: set[str] = set()
    first: list[Row] = []
    repeated: list[Row] = []
    for row in rows:
        (repeated if row.id in there else first).append(row)
        there.add(row.id)
    return first, repeated


def _grouped(
    rows: Sequence[Row], uses: Sequence[Use], per_row: int, seed: int, only_of: Collection[str] | None
) -> list[_Group]:
    """The jobs by prompt, in the order of the rows."""
    groups: dict[str, _Group] = {}
    order = by_name(uses)
    for row in rows:
        group = groups.setdefault(row.prompt_id, _Group([], set()))
        group.taken.add(_same(row.completion))
        if row.label and (only_of is None or row.id in only_of):
            group.jobs += [Job(row, index, k) for index, k in jobs_of(row, uses, order, per_row, seed)]
    for group in groups.values():
        group.jobs.sort(key=lambda job: (job.row.id, uses[job.use].strategy.name, job.k))
    return list(groups.values())


def _local(group: _Group, uses: Sequence[Use], pools: Sequence[Any], seed: int) -> Iterator[_Sent]:
    """What comes of the jobs of one prompt whose strategies work row by row."""
    taken = set(group.taken)
    turns: Counter[tuple[int, str]] = Counter()
    prompt: Text = ""
    ids: RowIds | None = None
    for job in group.jobs:
        strategy = uses[job.use].strategy
        if strategy.one is None:
            continue
        options = {**uses[job.use].options, "pool": pools[job.use]}
        rng = generator(seed, strategy.name, job.row.id, job.k)
        result: Text | Skip = Skip(REPEATED)
        for _ in range(TRIES):
            if strategy.turns:
                options["turn"] = turns[job.use, job.row.id]
                turns[job.use, job.row.id] += 1
            result = _accepted(strategy.one(job.row, rng=rng, **options), job.row, taken)
            if result != Skip(REPEATED):
                break
        if ids is None or job.row.prompt != prompt:  # of one prompt they differ in capitals and white space at most
            prompt = job.row.prompt
            ids = RowIds(prompt)
        yield result if isinstance(result, Skip) else (ids.of(result, False), result)


def _row_of(job: Job, sent: _Sent, strategy: Strategy) -> Result:
    """A negative as a row. Its prompt, which is the longest part of it, did not have to travel."""
    if isinstance(sent, Skip):
        return sent
    row, (row_id, completion) = job.row, sent
    return Row(
        prompt=row.prompt,
        completion=completion,
        label=False,
        id=row_id,
        prompt_id=row.prompt_id,
        source=row.source,
        origin="synthetic",
        strategy=strategy.name,
        parent_id=row.id,
    )


def _together(
    jobs: list[Job],
    use: Use,
    pool: Any,
    seed: int,
    taken: dict[str, set[_Same]],
    advance: Callable[[int], object],
) -> list[tuple[Job, Result]]:
    """Jobs of a strategy that works on many rows at once; those whose drafts are refused go round again."""
    many, name = use.strategy.many, use.strategy.name
    assert many is not None
    done: list[Result] = [Skip("no result")] * len(jobs)
    waiting = list(range(len(jobs)))
    for draft in range(TRIES):
        if not waiting:
            break
        asks = [_ask(jobs[place], name, seed, draft) for place in waiting]
        replies: dict[int, str | Skip] = {}
        for index, reply in many(asks, **{**use.options, "pool": pool}):
            replies[index] = reply
            advance(int(draft == 0))
        # In the order of the jobs, not that in which they finished: of two equal drafts the first is taken.
        refused = []
        for index, place in enumerate(waiting):
            job = jobs[place]
            reply = replies.get(index, Skip("no result"))
            result = _accepted(reply, job.row, taken[job.row.prompt_id])
            if isinstance(result, Skip):
                done[place] = result
                refused += [place] if result.reason == REPEATED else []
            else:
                sent = (content_hash(job.row.prompt, result, False), result)
                done[place] = _row_of(job, sent, use.strategy)
        waiting = refused
    return list(zip(jobs, done, strict=True))


def _ask(job: Job, name: str, seed: int, draft: int) -> Ask:
    """A draft with a generator of its own, so that one that is found in a journal moves no other's."""
    key = f"{seed}/{name}/{job.row.id}/{job.k}/{draft}"
    return Ask(job.row, generator(seed, name, job.row.id, job.k, draft), key)


def _accepted(reply: str | Skip, row: Row, taken: set[_Same]) -> Text | Skip:
    """The completion with the reply in it, unless that is taken or empty; then it is taken."""
    if isinstance(reply, Skip):
        return reply
    if not reply.strip():
        return Skip("empty result")
    completion = _replaced(row.completion, reply)
    key = _same(completion)
    if key in taken:
        return Skip(REPEATED)
    taken.add(key)
    return completion


def _replaced(completion: Text, reply: str) -> Text:
    """The completion with another reply: of a chat, the content of the last assistant message."""
    if isinstance(completion, str):
        return reply
    last = max(place for place, message in enumerate(completion) if message["role"] == "assistant")
    changed: Message = {"role": "assistant", "content": reply}
    return [*completion[:last], changed, *completion[last + 1 :]]


def _same(completion: Text) -> _Same:
    """What two completions share that count as equal."""
    if isinstance(completion, str):
        return normalise(completion)
    return tuple((message["role"], normalise(message["content"])) for message in completion)


def _chunks(groups: list[_Group], uses: Sequence[Use]) -> list[list[_Group]]:
    """The groups that have something to do row by row, in portions."""
    local = {index for index, use in enumerate(uses) if use.strategy.one is not None}
    busy = [group for group in groups if any(job.use in local for job in group.jobs)]
    return [busy[start : start + _CHUNK] for start in range(0, len(busy), _CHUNK)]


_Context: TypeAlias = tuple[Sequence[Use], Sequence[Any], int]


def _bare(uses: Sequence[Use], pools: Sequence[Any]) -> tuple[list[Use], list[Any]]:
    """What workers need: models stay in this process, and what is done before and after need not pickle.

    A pool of which each portion needs a part travels with them.
    """
    kept = [pool if use.strategy.one and not use.strategy.part else None for use, pool in zip(uses, pools, strict=True)]
    bare: dict[str, Any] = {"options": {}, "prepare": None, "part": None, "finish": None, "facts": None}
    return [dataclasses.replace(use, strategy=dataclasses.replace(use.strategy, **bare)) for use in uses], kept


_Portion: TypeAlias = tuple[list[_Group], Sequence[Any]]
"""Prompts, and for each use the part of its pool that they need, None where workers have the pool."""


def _run(context: _Context, portion: _Portion) -> list[_Sent]:
    uses, whole, seed = context
    chunk, parts = portion
    pools = [pool if part is None else part for pool, part in zip(whole, parts, strict=True)]
    return list(itertools.chain.from_iterable(_local(group, uses, pools, seed) for group in chunk))
