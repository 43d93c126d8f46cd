"""Runs strategies over rows: labels, provenance, retries, duplicates, counts.

The unit is a *job*: one negative of one strategy for one desirable row. All jobs of a prompt are done together and in
one order (by row id, strategy, k), because what one makes the next must not make again; prompts are independent, so
they can be spread over processes. Each job draws from a generator seeded by (seed, strategy, row id, k) alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeAlias

from ktodata.errors import KtodataError
from ktodata.negatives.choose import Use
from ktodata.negatives.contract import Pool, Skip, Strategy
from ktodata.schema import Message, Row, Text, make_row, normalise

TRIES = 5  # drafts of one negative that may equal something present before the job is counted as skipped
_CHUNK = 200  # prompts that a process gets at a time
REPEATED = "equal to a completion that is there"


Result: TypeAlias = Row | Skip
_Same: TypeAlias = str | tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Synthesis:
    """What `synthesize` made: the negatives, in an order that does not depend on that of the input, and the counts.

    `desirable` rows were asked for negatives; `made` counts negatives by strategy, `skipped` jobs by
    `strategy: reason`. Jobs made and skipped add up to all jobs.
    """

    negatives: list[Row]
    desirable: int
    made: dict[str, int]
    skipped: dict[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    row: Row
    use: int  # its place among the uses
    k: int


@dataclasses.dataclass(slots=True)
class _Group:
    """A prompt: its jobs, and the normalised completions that a negative must not equal."""

    jobs: list[_Job]
    taken: set[_Same]


def synthesize(
    rows: Sequence[Row],
    uses: Sequence[Use],
    *,
    per_row: int = 1,
    seed: int = 0,
    workers: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> Synthesis:
    """`per_row` negatives for each desirable row: from each of the `uses`, or, if they have weights, from one of
    them that the row's own generator draws by weight.

    A negative equals, after normalising, no completion that its prompt has, and no other negative. `advance` is
    called with the number of jobs done.

    Raises:
        KtodataError: there is no desirable row.
    """
    groups = _grouped(rows, uses, per_row, seed)
    desirable = sum(row.label for row in rows)
    if not desirable:
        raise KtodataError(f"none of {len(rows)} rows is desirable", do="Negatives are made from desirable rows")
    pool = Pool(rows if any(use.strategy.needs_pool for use in uses) else ())
    found: list[tuple[_Job, Result]] = []
    with _runner(workers, uses, pool, seed) as run:
        for part in run(list(chunk) for chunk in _chunks(groups)):
            found += part
            advance(len(part))
    # What those made is taken for the models, which run here, in full batches over all prompts.
    taken = {group.jobs[0].row.prompt_id: group.taken for group in groups if group.jobs}
    for job, result in found:
        if isinstance(result, Row):
            taken[job.row.prompt_id].add(_same(result.completion))
    for index, use in enumerate(uses):
        if use.strategy.many is not None:
            jobs = [job for group in groups for job in group.jobs if job.use == index]
            found += _in_batches(jobs, use, pool, seed, taken, advance)
    return _summed(found, uses, desirable)


def _grouped(rows: Sequence[Row], uses: Sequence[Use], per_row: int, seed: int) -> list[_Group]:
    """The jobs by prompt, both in an order that the content decides."""
    groups: dict[str, _Group] = {}
    # The provenance too, for rows that are equal but for that.
    for row in sorted(rows, key=lambda row: (row.prompt_id, row.source, row.origin, row.strategy, row.parent_id)):
        group = groups.setdefault(row.prompt_id, _Group([], set()))
        group.taken.add(_same(row.completion))
        if row.label:
            group.jobs += _jobs(row, uses, per_row, seed)
    for group in groups.values():
        group.jobs.sort(key=lambda job: (job.row.id, uses[job.use].strategy.name, job.k))
    return list(groups.values())


def _jobs(row: Row, uses: Sequence[Use], per_row: int, seed: int) -> Iterator[_Job]:
    weights = [use.weight for use in uses]
    # By name, so that a mix does not depend on the order in which its strategies are named.
    order = sorted(range(len(uses)), key=lambda index: uses[index].strategy.name)
    for k in range(per_row):
        if any(weight is None for weight in weights):
            yield from (_Job(row, index, k) for index in order)
        else:
            rng = generator(seed, "mix", row.id, k)
            yield _Job(row, rng.choices(order, [weights[index] or 0.0 for index in order])[0], k)


def generator(seed: int, strategy: str, row_id: str, k: int) -> random.Random:
    """The generator of one job. Nothing else decides what it draws."""
    digest = hashlib.sha256(f"{seed}\n{strategy}\n{row_id}\n{k}".encode()).digest()
    return random.Random(int.from_bytes(digest[:16]))


def _local(group: _Group, uses: Sequence[Use], pool: Pool, seed: int) -> list[tuple[_Job, Result]]:
    """The jobs of one prompt whose strategies work row by row."""
    taken, done = set(group.taken), []
    for job in group.jobs:
        one = uses[job.use].strategy.one
        if one is None:
            continue
        strategy = uses[job.use].strategy
        rng = generator(seed, strategy.name, job.row.id, job.k)
        result: Result = Skip(REPEATED)
        for _ in range(TRIES):
            result = _accepted(one(job.row, pool=pool, rng=rng, **uses[job.use].options), job.row, strategy, taken)
            if not (isinstance(result, Skip) and result.reason == REPEATED):
                break
        done.append((job, result))
    return done


def _in_batches(
    jobs: list[_Job],
    use: Use,
    pool: Pool,
    seed: int,
    taken: dict[str, set[_Same]],
    advance: Callable[[int], None],
) -> list[tuple[_Job, Result]]:
    """Jobs of a strategy that works on many rows at once; those whose drafts are refused go round again."""
    many = use.strategy.many
    assert many is not None
    rngs = {id(job): generator(seed, use.strategy.name, job.row.id, job.k) for job in jobs}
    done: dict[int, Result] = {}
    waiting = jobs
    for _ in range(TRIES):
        for start in range(0, len(waiting), use.strategy.batch):
            batch = waiting[start : start + use.strategy.batch]
            replies = many([job.row for job in batch], pool=pool, rngs=[rngs[id(job)] for job in batch], **use.options)
            before = len(done)
            for job, reply in zip(batch, replies, strict=True):
                done[id(job)] = _accepted(reply, job.row, use.strategy, taken[job.row.prompt_id])
            advance(len(done) - before)
        waiting = [job for job in waiting if done[id(job)] == Skip(REPEATED)]
    return [(job, done[id(job)]) for job in jobs]


def _accepted(reply: str | Skip, row: Row, strategy: Strategy, taken: set[_Same]) -> Result:
    """The negative as a row, unless its completion is taken or empty; then it is taken."""
    if isinstance(reply, Skip):
        return reply
    if not reply.strip():
        return Skip("empty result")
    completion = _replaced(row.completion, reply)
    key = _same(completion)
    if key in taken:
        return Skip(REPEATED)
    taken.add(key)
    return make_row(
        row.prompt,
        completion,
        False,
        source=row.source,
        origin="synthetic",
        strategy=strategy.name,
        parent_id=row.id,
    )


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


def _summed(found: Iterable[tuple[_Job, Result]], uses: Sequence[Use], desirable: int) -> Synthesis:
    names = [use.strategy.name for use in uses]
    negatives: list[Row] = []
    made: Counter[str] = Counter(dict.fromkeys(names, 0))
    skipped: Counter[str] = Counter()

    def place(item: tuple[_Job, Result]) -> tuple[str, str, str, int]:
        job = item[0]
        return job.row.prompt_id, job.row.id, names[job.use], job.k

    for job, result in sorted(found, key=place):
        if isinstance(result, Row):
            negatives.append(result)
            made[names[job.use]] += 1
        else:
            skipped[f"{names[job.use]}: {result.reason}"] += 1
    return Synthesis(negatives, desirable, dict(made), dict(skipped))


def _chunks(groups: list[_Group]) -> Iterator[list[_Group]]:
    """Groups in portions of about equal work."""
    busy = [group for group in groups if group.jobs]
    return (busy[start : start + _CHUNK] for start in range(0, len(busy), _CHUNK))


Chunks = Iterable[list[_Group]]
Runner = Callable[[Chunks], Iterable[list[tuple[_Job, Result]]]]
_context: tuple[Sequence[Use], Pool, int] | None = None


@contextlib.contextmanager
def _runner(workers: int, uses: Sequence[Use], pool: Pool, seed: int) -> Iterator[Runner]:
    """Runs chunks here or in `workers` processes; results come in the order of the chunks.

    Raises:
        KtodataError: a process died, which Python itself never does for an error of ours.
    """
    if workers == 1:
        yield lambda chunks: (_run(chunk, (uses, pool, seed)) for chunk in chunks)
        return
    # `spawn` is the start method that every platform has and that threads cannot break.
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(uses, pool, seed),
    )
    try:
        yield lambda chunks: executor.map(_run, chunks)
    except BrokenProcessPool:
        raise KtodataError("a worker process died", do="It may have run out of memory: use fewer --workers") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _prepare(uses: Sequence[Use], pool: Pool, seed: int) -> None:
    global _context
    _context = (uses, pool, seed)


def _run(chunk: list[_Group], context: tuple[Sequence[Use], Pool, int] | None = None) -> list[tuple[_Job, Result]]:
    uses, pool, seed = context or _context or ((), Pool(), 0)
    return list(itertools.chain.from_iterable(_local(group, uses, pool, seed) for group in chunk))
