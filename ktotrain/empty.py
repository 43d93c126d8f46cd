"""A pack without rows: what a process computes when others have one more than it."""

from __future__ import annotations

import dataclasses

import numpy as np

from ktotrain.batch import Branch, PackedBatch
from ktotrain.packing import Layout, pack


def empty_pack(layout: Layout) -> PackedBatch:
    """One token and nothing scored: a forward pass that counts nothing, and whose gradient is zero."""
    token = np.zeros(1, dtype=np.int32)
    (batch,) = pack([Branch(0, 0, token, token)], pack_tokens=1, layout=layout)
    scored = [field.name for field in dataclasses.fields(batch) if field.name.endswith("_N")]
    return dataclasses.replace(batch, rows=(), **{name: getattr(batch, name)[:0] for name in scored})
