"""The last decoder layer, for the tokens alone whose hidden states are read.

Of a prompt only the last token predicts something that is scored. In every layer but the last its other tokens are
needed for what follows them; in the last only their keys and values are. So this layer runs twice: up to its
attention for all tokens, and then whole for the needed ones, in which attention returns what was computed before.
Output projection, MLP and norms, and their backward passes, are spared for the rest, and on a CPU so is what they see;
what is computed twice are the needed tokens' queries, keys and values.

The layer's class is exchanged for a subclass of it, so that copies of the model, gradient checkpointing and adapters
need not know. Whether a layer is shaped as expected is tried by `ktotrain.probe`, by hidden states.

Shapes: T tokens of the pack, M of them needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ktotrain.attention_pack import NotServedError, Ragged

# With more needed than this, computing some of the layer twice costs more than it spares.
MOST_NEEDED = 0.75


class Until:
    """Stands for `ragged` in the first run: attention is computed, and nothing after it."""

    def __init__(self, ragged: Ragged) -> None:
        self.ragged = ragged


class Given:
    """Stands for `ragged` in the second run: attention is what it was, for the needed tokens."""

    def __init__(self, attended: Tensor) -> None:
        self.attended = attended


class _Reached(Exception):  # noqa: N818 (no error)
    """Ends the first run; `attended` [1, T, H, D] is its attention's result."""

    def __init__(self, attended: Tensor) -> None:
        super().__init__()
        self.attended = attended


def in_two_runs(attend: Callable[..., tuple[Tensor, None]]) -> Callable[..., tuple[Tensor, None]]:
    """An attention function that knows both runs."""

    def attention(*arguments: Any, ragged: Ragged | Until | Given | None = None, **more: Any) -> tuple[Tensor, None]:
        if ragged is None:
            raise NotServedError("its layers do not pass on to attention where the rows of a pack begin")
        if isinstance(ragged, Given):
            return ragged.attended, None
        if isinstance(ragged, Until):
            needed_M = ragged.ragged.needed_M
            raise _Reached(attend(*arguments, ragged=ragged.ragged, needed_M=needed_M, **more)[0])
        return attend(*arguments, ragged=ragged, **more)

    return attention


class _LastLayer(nn.Module):
    """Goes before a layer's own class: see `install`."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        ragged: Ragged | None = named.get("ragged")
        if ragged is None or ragged.needed_M is None:
            return super().forward(*arguments, **named)
        needed_M, tokens = ragged.needed_M, sum(ragged.sizes)
        if any(hasattr(module, "reshard") for module in self.modules() if module is not self):
            # Sharded in pieces within the layer, none of which may be left half-way.
            return _taken(super().forward(*arguments, **named), needed_M, tokens)
        try:
            super().forward(*arguments, **named | {"ragged": Until(ragged)})
        except _Reached as reached:
            attended = reached.attended
        else:
            raise RuntimeError("the last layer never called the attention")
        arguments, named = _taken((arguments, named), needed_M, tokens)
        return super().forward(*arguments, **named | {"ragged": Given(attended.index_select(1, needed_M))})


def _taken(value: Any, needed_M: Tensor, tokens: int) -> Any:
    """The same with the needed tokens alone, in everything that has one entry for each: [1, T, …] or [T]."""
    if isinstance(value, Tensor):
        if value.ndim > 1 and value.shape[:2] == (1, tokens):
            return value.index_select(1, needed_M)
        return value.index_select(0, needed_M) if value.shape == (tokens,) else value
    if isinstance(value, tuple | list):
        return type(value)(_taken(one, needed_M, tokens) for one in value)
    if type(value) is dict:
        return {name: _taken(one, needed_M, tokens) for name, one in value.items()}
    return value


def install(decoder: Any, layers: int) -> bool:
    """Make the last of a decoder's `layers` do without what is not needed; False if it cannot be found."""
    lists = (module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == layers)
    found = next(lists, None)
    if found is None or not len(found):
        return False
    layer = found[-1]
    own = type(layer)
    if not isinstance(layer, _LastLayer):
        # Under its own name: others know layers by the name of their class.
        layer.__class__ = type(own.__name__, (_LastLayer, own), {"__module__": own.__module__})
    return True


def uninstall(decoder: Any) -> None:
    """Give the last layer its own class back."""
    for module in decoder.modules():
        if isinstance(module, _LastLayer):
            assert type(module).__mro__[1] is _LastLayer, "nobody has put a class of theirs on top"
            module.__class__ = type(module).__mro__[2]


def installed(decoder: Any) -> bool:
    """Whether the last layer takes `needed_M`."""
    return any(isinstance(module, _LastLayer) for module in decoder.modules())


def worth_it(needed_M: Tensor, tokens: int) -> bool:
    """Whether so few tokens are needed that it pays."""
    return len(needed_M) <= MOST_NEEDED * tokens
