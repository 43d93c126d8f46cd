"""How similar prompts are: TF-IDF over the words of the last thing said, compared a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ktodata.negatives.contamination.replies import words
from ktodata.schema import Text

_CELLS = 8_000_000  # similarities held at once: 32 MB, whatever the number of prompts
_COMMON = 0.2  # of all prompts that have a word which tells nothing about them
_MARK = "\n\nHuman:"
_LONGEST = 2000  # characters of a prompt that are compared
Vector = dict[int, float]


def last_said(prompt: Text) -> str:
    """What the reply answers: the last user message, or the text after the last `\\n\\nHuman:` if there is one."""
    if isinstance(prompt, str):
        return prompt.rpartition(_MARK)[2].removesuffix("\n\nAssistant:")[-_LONGEST:]
    said = [message["content"] for message in prompt if message["role"] == "user"]
    return (said or [message["content"] for message in prompt] or [""])[-1][-_LONGEST:]


class Prompts:
    """Different prompts, as unit vectors. They should come sorted, so that the vectors are the same in every run."""

    def __init__(self, said: Sequence[str]) -> None:
        self._matrix = _vectors(said)
        self._ends: list[int] = self._matrix.indptr.tolist()
        self._words: list[int] = self._matrix.indices.tolist()
        self._weights: list[float] = self._matrix.data.tolist()
        self._cache: dict[int, Vector] = {}

    def vector(self, index: int) -> Vector:
        """A prompt's words by number, with their weights."""
        if index not in self._cache:
            start, end = self._ends[index], self._ends[index + 1]
            self._cache[index] = dict(zip(self._words[start:end], self._weights[start:end], strict=True))
        return self._cache[index]

    def cosine(self, one: int, other: int) -> float:
        """How similar two prompts are, 0 to 1."""
        few, many = sorted((self.vector(one), self.vector(other)), key=len)
        return sum(weight * many[word] for word, weight in few.items() if word in many)

    def each(self, places: Sequence[int], among: Sequence[int]) -> Iterator[Any]:
        """For each prompt of `places`, its similarity to all prompts of `among`, as an array of float32."""
        targets = self._matrix[list(among)].T.tocsr()
        size = max(1, _CELLS // max(1, len(among)))
        for start in range(0, len(places), size):
            yield from (self._matrix[list(places[start : start + size])] @ targets).toarray()


def _vectors(said: Sequence[str]) -> Any:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    def model(most: float) -> Any:
        analyzer: Callable[[str], list[str]] = words
        return TfidfVectorizer(analyzer=analyzer, sublinear_tf=True, max_df=most, dtype=np.float32)

    if not any(words(text) for text in said):
        # Prompts without a word have nothing in common; the vectorizer would refuse them.
        return model(1.0).fit(["none"]).transform(said)
    # Among few prompts a word that many share may be all that they have.
    return model(_COMMON if len(said) >= 1000 else 1.0).fit_transform(said)
