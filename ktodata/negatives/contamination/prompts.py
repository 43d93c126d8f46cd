"""How similar prompts are: TF-IDF over the words of the last thing said, compared many pairs or a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ktodata.negatives.contamination.replies import words
from ktodata.schema import Text

_CELLS = 8_000_000  # similarities held at once: 32 MB, whatever the number of prompts
_COMMON = 0.2  # of all prompts that have a word which tells nothing about them
_MARK = "\n\nHuman:"
_LONGEST = 2000  # characters of a prompt that are compared


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
        self._turned = self._matrix.T.tocsr()

    def cosines(self, ones: Any, others: Any) -> Any:
        """How similar two prompts are, 0 to 1, for each pair of places in `ones` and `others`: an array of float32."""
        import numpy as np

        return np.asarray(self._matrix[ones].multiply(self._matrix[others]).sum(axis=1)).ravel()

    def to_all(self, place: int) -> Any:
        """The similarity of one prompt to all: an array of float32."""
        return (self._matrix[[place]] @ self._turned).toarray()[0]

    def blocks(self, places: Sequence[int], among: Sequence[int]) -> Iterator[Any]:
        """The similarities of all prompts of `places` to all of `among`: arrays of float32, some lines at a time."""
        targets = self._matrix[list(among)].T.tocsr()
        size = max(1, _CELLS // max(1, len(among)))
        for start in range(0, len(places), size):
            yield (self._matrix[list(places[start : start + size])] @ targets).toarray()


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
