"""What a pack looks like to attention: the one description that all kernels read.

A pack is segments laid end to end. The tokens of a segment see, in order, a prefix (a prompt that lies elsewhere) and
the segment itself up to where they are: the last query sees all of it, each one before it a key fewer. In a unit (a
prompt P and completions C1, C2 ...) P and C1 are one segment without prefix; each further completion is one whose
prefix is P. Completions can also follow prompts of an earlier pass, whose keys and values were remembered.

The description travels as the keyword argument `ragged` of the model call, which hands it down to every attention
layer, through gradient checkpointing as well. What a kernel derives from it (masks, indices on the device) is made at
the first layer of the pass and held for the others: see `Ragged.once`.

Shapes: H query heads, K key/value heads, T tokens of the pack, D head size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from ktotrain.attention_mask import OWN_MASKS, Window
from ktotrain.batch import Unit
from ktotrain.errors import ModelError

Block: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values that meet: the last query sees all keys, each one before it a key fewer."""

Made = TypeVar("Made")


class NotServedError(ModelError):
    """A layer asks of attention what no kernel here computes: the start-up probe turns it into a layout's trouble."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """`length` tokens at `start` of the pack that see, before themselves, `prefix` tokens at `prefix_start`.

    The prefix lies in the same pack, or, for completions that follow, in the pass that was remembered.
    """

    start: int
    length: int
    prefix_start: int = 0
    prefix: int = 0

    @property
    def keys(self) -> int:
        """Keys that the last token sees."""
        return self.prefix + self.length


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """What a layer wants of attention: head counts and sizes, the factor on scores, and what is special about it.

    `window` counts the keys a query sees at most, itself included (0: all); `softcap` is a tanh cap on scores (0:
    none); with `sinks` there is one more logit per query head in the softmax.
    """

    heads: int
    key_heads: int
    key_size: int
    value_size: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False


class Memory:
    """Keys and values of every attention layer in a pass over a pack, and its last hidden states.

    `hidden` is [T, hidden], or [M, hidden] where only those of the tokens `held_M` (in order) were computed.
    Nothing is copied: what a pass with gradient holds anyway is kept reachable, without its graph.
    """

    def __init__(self) -> None:
        self.layers: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.hidden: Tensor | None = None
        self.held_M: Tensor | None = None

    def note(self, layer: nn.Module, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys and values; a second pass over the layer (gradient checkpointing) changes nothing."""
        self.layers.setdefault(layer, (key.detach(), value.detach()))


class Ragged:
    """The segments of one pack, and how often attention was called for it.

    With a `memory`, each layer's keys and values are noted there. `asks` is None, or a list that each call of the
    attention adds to; `unmasked` says whether a layer asked for a window that its mask did not have. `source` is the
    memory in which the segments' prefixes lie, None if they lie in the pack. `needed_M` says, in order, which tokens'
    last hidden states are read, None if all are: see `ktotrain.last_layer`.
    """

    source: Memory | None = None
    needed_M: Tensor | None = None

    def __init__(self, units: tuple[Unit, ...], memory: Memory | None = None) -> None:
        self.units, self.memory = units, memory
        self.calls = 0
        self.unmasked = False
        self.asks: list[Ask] | None = None
        self.segments = self._lay_out()
        self.sizes = [segment.length for segment in self.segments]
        self._held: dict[Hashable, object] = {}

    def _lay_out(self) -> list[Segment]:
        segments: list[Segment] = []
        start = 0
        for unit in self.units:
            prompt_start = start
            length = unit.prompt + sum(unit.completions[:1])
            segments.append(Segment(start, length))
            start += length
            for length in filter(None, unit.completions[1:]):
                segments.append(Segment(start, length, prompt_start, unit.prompt))
                start += length
        return segments

    def called(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | Window | None,
        scaling: float | None,
        sliding_window: int | None,
        softcap: float | None,
        s_aux: Tensor | None,
    ) -> Ask:
        """Count a call of the attention function, and put its arguments (in transformers' terms) as an `Ask`.

        Raises:
            NotServedError: there is a mask that is more than a window, or a window that is not the layer's.
        """
        self.calls += 1
        if isinstance(attention_mask, Window):
            if sliding_window and sliding_window != attention_mask.size:
                raise NotServedError(
                    f"its layers ask for a window of {sliding_window} and their masks for one of {attention_mask.size}"
                )
            sliding_window = attention_mask.size
        elif attention_mask is not None:
            raise NotServedError(OWN_MASKS)
        elif sliding_window:
            self.unmasked = True
        size = query.shape[-1]
        ask = Ask(
            heads=query.shape[1],
            key_heads=key.shape[1],
            key_size=size,
            value_size=value.shape[-1],
            scale=size**-0.5 if scaling is None else float(scaling),
            window=sliding_window or 0,
            softcap=float(softcap or 0.0),
            sinks=s_aux is not None,
        )
        if self.asks is not None:
            self.asks.append(ask)
        return ask

    def note(self, layer: nn.Module, key: Tensor, value: Tensor) -> None:
        """Put a layer's keys and values [1, K, T, D] into the memory, if there is one."""
        if self.memory is not None:
            self.memory.note(layer, key, value)

    def remembered(self, layer: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Keys and values [1, K, T', D] of the earlier pass in which the prefixes lie; None if they lie in the pack."""
        return None if self.source is None else self.source.layers[layer]

    def once(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returns, made at the first call with this `name` and held for the other layers."""
        if name not in self._held:
            self._held[name] = make()
        return cast(Made, self._held[name])

    def blocks(self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Iterator[Block]:
        """The segments of a layer with the keys and values they see, in the order of the pack."""
        self.note(layer, key, value)
        remembered = self.remembered(layer)
        # Split, not sliced: the backward of each slice of T tokens would allocate T tokens of zeros.
        parts = zip(self.segments, *(torch.split(x, self.sizes, 2) for x in (query, key, value)), strict=True)
        whole: tuple[Tensor, Tensor] | None = None
        prefix: tuple[Tensor, Tensor] | None = None
        at = -1
        for segment, q, k, v in parts:
            if not segment.prefix:
                whole, prefix = (k, v), None
                yield q, k, v
                continue
            if remembered is not None and at != segment.prefix_start:
                here = slice(segment.prefix_start, segment.prefix_start + segment.prefix)
                prefix, at = (remembered[0][:, :, here], remembered[1][:, :, here]), segment.prefix_start
            elif prefix is None:
                assert whole is not None, "a prompt lies before what follows it"
                prefix = whole[0][:, :, : segment.prefix], whole[1][:, :, : segment.prefix]
            yield q, torch.cat((prefix[0], k), 2), torch.cat((prefix[1], v), 2)


class Following(Ragged):
    """Completions alone, of prompts that a `Memory` holds at `spans` (start, length)."""

    def __init__(self, units: tuple[Unit, ...], spans: tuple[tuple[int, int], ...], memory: Memory) -> None:
        self.spans, self.source = spans, memory
        super().__init__(units)

    def _lay_out(self) -> list[Segment]:
        segments: list[Segment] = []
        start = 0
        for (prompt_start, prompt), unit in zip(self.spans, self.units, strict=True):
            for length in filter(None, unit.completions):
                segments.append(Segment(start, length, prompt_start, prompt))
                start += length
        return segments
