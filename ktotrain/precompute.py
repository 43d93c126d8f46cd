"""All reference scores of a run before its first step, so that the reference can go, and later runs need none.

The plan says which sequences there will be: each row's own completion once, and each mismatched pair, which differ
from epoch to epoch. Sequences of many steps are packed together, so a prompt is encoded once for all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import torch

from ktotrain.batch import Branch, TokenizedRow
from ktotrain.cache import KEY_BYTES, ScoreCache, sequence_key
from ktotrain.lockstep import fill
from ktotrain.losses import Loss
from ktotrain.packing import pack
from ktotrain.plan import Step
from ktotrain.reference import reference_pass
from ktotrain.step import Machinery, Packing, graded_branches, mismatched_branches

# Sequences that are packed together: enough to fill packs and to keep a prompt's branches side by side.
CHUNK = 4096
# Chunks from one write of the cache to the next: what a kill costs.
WRITE_EVERY = 16
# Times that progress is told.
REPORTS = 20


def missing_sequences(
    steps: Sequence[Step], rows: Sequence[TokenizedRow], max_length: int, loss: Loss, cache: ScoreCache
) -> dict[bytes, Branch]:
    """The sequences of some steps whose scores are not known, each once."""
    missing: dict[bytes, Branch] = {}
    for step in steps:
        branches = graded_branches(step, rows, max_length=max_length)
        if loss.estimates_z_ref:
            branches += mismatched_branches(step, rows, max_length=max_length)
        for branch in branches:
            key = sequence_key(branch)
            if key not in cache.scores:
                missing.setdefault(key, branch)
    return missing


def _by_prompt(missing: dict[bytes, Branch]) -> list[tuple[bytes, Branch]]:
    """Sequences of one prompt side by side, wherever in the plan they stand, with prompts numbered among them all.

    Training and evaluation rows number their prompts each from 0; what makes a prompt one is its token ids.
    """
    numbers: dict[bytes, int] = {}
    items = []
    for key, branch in missing.items():
        ids = hashlib.blake2b(branch.prompt_ids.tobytes(), digest_size=KEY_BYTES).digest()
        items.append((key, dataclasses.replace(branch, prompt=numbers.setdefault(ids, len(numbers)))))
    return sorted(items, key=lambda item: item[1].prompt)


def precompute(
    missing: dict[bytes, Branch],
    packing: Packing,
    machinery: Machinery,
    cache: ScoreCache,
    *,
    main: bool,
    report: Callable[[int], None],
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Score `missing` sequences with the reference and put them into `cache`, which the main process writes.

    Chunks depend on what is missing alone and are kept whole or not at all, so that a run that was stopped or killed
    here goes on with the very chunks that were left, and gets the same numbers.

    Args:
        report: called with the number of sequences done so far, some twenty times.
        stopping: whether to end early. It may change between packs only where there is one process, and otherwise
            when numbers are summed over processes.

    Returns:
        whether all are scored.
    """
    items = _by_prompt(missing)
    found: dict[bytes, float] = {}
    stride = max(1, len(items) // (CHUNK * REPORTS))
    for number, start in enumerate(range(0, len(items), CHUNK), start=1):
        chunk = items[start : start + CHUNK]
        branches = [dataclasses.replace(branch, row=place) for place, (_, branch) in enumerate(chunk)]
        packs = pack(branches, pack_tokens=packing.pack_tokens, layout=packing.layout, pad_id=packing.pad_id)
        scores = torch.zeros(len(chunk), dtype=torch.float32, device=machinery.device)
        mine = packs[packing.process :: packing.processes]
        if packing.lockstep:
            mine = fill(mine, -(-len(packs) // packing.processes), packing.layout)
        for cpu_batch in mine:
            if stopping():
                break
            batch = cpu_batch.to(machinery.device)
            with machinery.autocast():
                scores[list(batch.rows)] = reference_pass(machinery.reference, batch)
        if packing.processes == 1 and stopping():
            break
        values = machinery.total(scores).tolist()
        found |= {key: value for (key, _), value in zip(chunk, values, strict=True)}
        if main and number % WRITE_EVERY == 0:
            cache.add(found)
        if number % stride == 0 or start + CHUNK >= len(items):
            report(min(start + CHUNK, len(items)))
        if stopping():
            break
    if main and found:
        cache.add(found)
    else:
        cache.scores |= found
    return len(found) == len(missing)
