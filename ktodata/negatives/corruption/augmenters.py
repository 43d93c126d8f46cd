"""nlpaug behind two functions: which words stay and in what order, and what typos they get.

nlpaug's own handling of text (it strips, splits and joins) destroys white space, so it is never shown any: for the
order it is given positions ("0 1 2 3"), for typos bare words one to a line, and `Layout.weave` puts the result back.
Its generator is the process's; `_Seeded` gives each augmenter the row's instead.
"""

from __future__ import annotations

import functools
import importlib
import random
import string
import sys
import threading
from typing import Any

from ktodata.negatives.corruption import keyboards

# nlpaug tries to import these at start for augmenters that are not used here: 4.9 s with them, 0.4 s without.
_UNUSED = ("torch", "transformers", "sklearn", "librosa", "matplotlib", "nltk", "gensim")
_LOCK = threading.Lock()


def reorder(action: str, count: int, *, rng: random.Random, share: float) -> list[int]:
    """Positions of `count` words after nlpaug's `swap`, `delete` or `crop` of a `share` of them.

    Two words at least, where there are four, because a reader should notice; of two none is dropped ("sounds good"
    is no better than "good"), and one always stays.
    """
    if count < (2 if action == "swap" else 3):
        return list(range(count))
    # `crop` of one word fails inside nlpaug, which then samples from nothing.
    augmenter = _augmenter("word", "RandomWordAug", action=action, aug_min=2 if count > 3 or action == "crop" else 1)
    augmenter.rng, augmenter.aug_p = rng, min(share, (count - 1) / count)
    kept = [int(place) for place in _augmented(augmenter, _places(count))]
    return _one_run(kept, count) if action == "crop" else kept


def _one_run(kept: list[int], count: int) -> list[int]:
    """What nlpaug's `crop` means to do. Its run may go left past the beginning and on at the end: of such a run only
    the longer part goes. And when it drops the first word, it brings back the second."""
    if kept[0] > 0 and kept[-1] < count - 1:
        before, after = kept[0], count - 1 - kept[-1]
        kept = list(range(kept[0], count)) if before >= after else list(range(kept[-1] + 1))
    return kept[1:] if kept[:1] == [1] and kept[1:2] > [2] else kept


def typos(kind: str, words: list[str], *, rng: random.Random, share: float, layout: str = "qwerty") -> list[str]:
    """The words with typos in a `share` of them, one typo a word: `keyboard`, `ocr`, `char`, `spelling` or `split`.
    `layout` is the keyboard's.

    Words that the kind knows nothing about (another script, an unlisted word) stay as they are.
    """
    if not words:
        return words
    if kind == "split":
        return _split(words, rng, share)
    if kind == "spelling":
        augmenter = _spelling()
        augmenter.aug_p = share
    else:
        augmenter = _char_augmenter(kind, words, rng, layout)
        augmenter.aug_word_p = share
    augmenter.rng = rng
    return _augmented(augmenter, words)


def _char_augmenter(kind: str, words: list[str], rng: random.Random, layout: str) -> Any:
    if kind == "keyboard":
        augmenter = _augmenter("char", "KeyboardAug")
        # Its own layouts lack accents, and have marks and digits where letters are meant.
        augmenter.model.model = keyboards.neighbours(layout)
        return augmenter
    if kind == "ocr":
        return _augmenter("char", "OcrAug", min_char=2)
    action = rng.choice(("swap", "delete", "insert", "substitute"))
    augmenter = _augmenter("char", "RandomCharAug", action=action)
    # Letters of the text itself, so that typos stay in its script.
    letters = sorted({char for word in words for char in word.lower() if char.isalpha()})
    augmenter.model = letters or list(string.ascii_lowercase)
    return augmenter


def _split(words: list[str], rng: random.Random, share: float) -> list[str]:
    """nlpaug returns the pieces in one list: gathered again word by word."""
    augmenter = _augmenter("word", "SplitAug", aug_min=1)
    augmenter.rng, augmenter.aug_p = rng, share
    pieces = iter(_augmented(augmenter, words))
    split = []
    for word in words:
        parts, size = [], 0
        while size < len(word):
            parts.append(next(pieces))
            size += len(parts[-1])
        split.append(" ".join(parts))
    return split


@functools.cache
def _augmenter(family: str, name: str, **settings: Any) -> Any:
    """One augmenter per setting and process: making one costs more than using it."""
    most: dict[str, Any] = {"aug_max": None} if family == "word" else {"aug_word_max": None, "aug_char_max": 1}
    base = getattr(_module(family), name)
    return type(name, (_Seeded, base), {})(reverse_tokenizer=list, **most, **settings)


@functools.cache
def _spelling() -> Any:
    augmenter = _augmenter("word", "SpellingAug", include_reverse=False)
    # nlpaug builds the lists through sets, so their order is another in each process.
    augmenter.model.dict = {
        word: sorted(set(wrong) - {word}) for word, wrong in augmenter.model.dict.items() if set(wrong) - {word}
    }
    return augmenter


def _augmented(augmenter: Any, tokens: list[str]) -> list[str]:
    """What the augmenter makes of `tokens`. It wants a text to split, in which it then looks for each token, in
    quadratic time: so it gets a short one, and these tokens whatever the text."""
    augmenter.tokenizer = lambda text: tokens
    changed = augmenter.augment("tokens")[0]
    # The text itself comes back where it found nothing to change.
    return tokens if isinstance(changed, str) else list(changed)


@functools.lru_cache(maxsize=4096)
def _places(count: int) -> list[str]:
    return [str(place) for place in range(count)]


class _Seeded:
    """Mixed into an augmenter: what it draws comes from `rng`, and the process's generators stay untouched."""

    rng: random.Random

    def sample(self, x: Any, num: int | None = None) -> Any:
        """nlpaug's one way to draw: `num` items of a list, or a place inside a word of `x` letters."""
        return self.rng.sample(x, num or 1) if isinstance(x, list) else self.rng.randint(1, max(1, x - 1))


@functools.cache
def _module(family: str) -> Any:
    """`nlpaug.augmenter.word` or `.char`, without what its other augmenters would bring in."""
    with _LOCK:
        absent = [name for name in _UNUSED if name not in sys.modules]
        # None in sys.modules makes an import fail, which nlpaug takes for "not installed".
        sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
        try:
            return importlib.import_module(f"nlpaug.augmenter.{family}")
        finally:
            for name in absent:
                sys.modules.pop(name, None)
