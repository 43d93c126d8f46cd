"""What a model raises that is fed what it was not written for, and what must not be taken for that."""

from __future__ import annotations

from ktotrain.errors import is_shortage

FAILURES = (TypeError, RuntimeError, ValueError, AttributeError, IndexError, KeyError)


def failure(error: Exception) -> str:
    """What a trial says of an error of a library: half a sentence.

    Raises:
        Exception: the error, if memory ran out: that says nothing about what was tried.
    """
    if is_shortage(error):
        raise error
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:100]}"
