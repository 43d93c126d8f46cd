"""Replies as `contaminate` compares them: without marks, emoji and laughter, as words and as clauses."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from ktodata.negatives.corruption.layout import UNSPACED
from ktodata.schema import normalise

ALIKE = 0.5  # of the letter triples of two replies that are the same: then they say the same
MANY = 3  # different prompts that get a reply which then suits all
_WORDS = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['’\-][^\W_{UNSPACED}]+)*")
_CLAUSES = re.compile(r"[.!?…;:,\n。！？，]+|\b(?:lo+l|(?:ha)+h?)\b|[^\w\s'’\-.,]+")
_LAUGHTER = re.compile(r"(?:a?(?:h[aei]){2,}h?|(?:ja|je){2,}|lo+l|lmf?ao+|xd+|mdr)")
_PAIRS = 50_000  # compared at once
_CELLS = 4_000_000  # likewise, where all of some are compared with all of others


def words(text: str) -> list[str]:
    """The words of a text, case-folded, apostrophes straight, laughter left out. Chinese and its like by the letter."""
    return words_of(normalise(text))


def words_of(key: str) -> list[str]:
    """`words` of a text that is normalised."""
    found = _WORDS.findall(key.replace("’", "'"))
    return [word for word in found if not _LAUGHTER.fullmatch(word)]


def is_generic(core: list[str]) -> bool:
    """Whether a reply of these words suits almost any prompt: thanks, greetings, "ok", "what do you mean?", or none."""
    return len(core) <= _LONGEST and bool(_generic().fullmatch(" ".join(core)))


class Shapes:
    """Replies, each by its words, as the sets of three letters that stand together in them."""

    def __init__(self, cores: Sequence[Sequence[str]]) -> None:
        import numpy as np
        from scipy.sparse import csr_matrix

        texts = [f" {' '.join(core)} " for core in cores]
        letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
        sizes = np.array([len(text) for text in texts], dtype=np.int64)
        owners = np.repeat(np.arange(len(texts)), sizes)
        inside = owners[:-2] == owners[2:]  # neither of the two that begin near the end of a text
        triples = ((letters[:-2] << 42) | (letters[1:-1] << 21) | letters[2:])[inside]
        known, columns = np.unique(triples, return_inverse=True)
        shape = (len(texts), max(1, len(known)))
        matrix = csr_matrix((np.ones(len(columns), np.float32), (owners[:-2][inside], columns)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        self._matrix, self._sizes = matrix, np.diff(matrix.indptr)

    def alike(self, ones: Any, others: Any) -> Any:
        """Whether two replies say nearly the same, letter by letter, for each pair of places: an array of bool."""
        import numpy as np

        found = np.zeros(len(ones), dtype=bool)
        few = np.minimum(self._sizes[ones], self._sizes[others])
        (may,) = np.nonzero(few >= ALIKE * np.maximum(self._sizes[ones], self._sizes[others]))
        for start in range(0, len(may), _PAIRS):
            some = may[start : start + _PAIRS]
            one, other = ones[some], others[some]
            shared = np.asarray(self._matrix[one].multiply(self._matrix[other]).sum(axis=1)).ravel()
            found[some] = shared >= ALIKE * (self._sizes[one] + self._sizes[other] - shared)
        return found

    def alike_any(self, ones: Any, among: Any) -> Any:
        """Whether each reply of `among` says nearly the same as any of `ones`: an array of bool."""
        import numpy as np

        found = np.zeros(len(among), dtype=bool)
        others, sizes = self._matrix[among].T.tocsr(), self._sizes[among]
        size = max(1, _CELLS // max(1, len(among)))
        for start in range(0, len(ones), size):
            some = ones[start : start + size]
            shared = (self._matrix[some] @ others).toarray()
            found |= (shared >= ALIKE * (self._sizes[some][:, None] + sizes - shared)).any(axis=0)
        return found


def clauses(key: str) -> frozenset[str]:
    """Clauses of three words or more of a normalised text: replies that share one can be right in the same place."""
    found = (_WORDS.findall(piece) for piece in _CLAUSES.split(key.replace("’", "'")))
    long = ([word for word in piece if not _LAUGHTER.fullmatch(word)] for piece in found if len(piece) >= 3)
    return frozenset(" ".join(piece) for piece in long if len(piece) >= 3)


_LONGEST = 16  # words of a reply that can be generic


@functools.cache
def _generic() -> re.Pattern[str]:
    """A run of phrases of generic.toml, nothing included."""
    table = tomllib.loads((resources.files(__package__) / "generic.toml").read_text(encoding="utf-8"))
    phrases = sorted({" ".join(words(phrase)) for phrases in table.values() for phrase in phrases}, key=len)
    any_of = "|".join(re.escape(phrase) for phrase in reversed(phrases) if phrase)
    return re.compile(rf"(?:(?:{any_of})(?: |$))*")
