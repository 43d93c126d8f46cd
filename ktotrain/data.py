"""From row files to token ids: the only place where the trainer meets ktodata.

Tokens are as DESIGN section 7 has them: prompt and prompt + completion are tokenized, and the completion begins where
the two part. Plain-text completions end in EOS unless they already do; chats are rendered by the chat template. Each
distinct text is tokenized once, in batches, and kept on disk for later runs (`ktotrain.token_cache`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ktodata.balance import balance_weights
from ktodata.io import read_rows
from ktodata.schema import Row, Text
from ktotrain.batch import IdArray, TokenizedRow
from ktotrain.errors import DataError, ModelError
from ktotrain.token_cache import PART_IDS, TokenCache, text_key

Renderer: TypeAlias = Callable[[Row], tuple[str, str]]
"""A row's prompt, and its prompt and completion, as the texts that are tokenized."""

# Texts handed to the tokenizer at once: enough to keep its threads busy, few enough to bound memory.
CHUNK = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Tokenized:
    """Rows that can be trained on, where they stood, how many were dropped and why, and how many will be cut.

    Of the distinct texts among them (prompts, and prompts with a completion) `encoded` were tokenized now and
    `recalled` were known from an earlier run.
    """

    rows: list[TokenizedRow]
    places: list[int]
    dropped: Mapping[str, int]
    cut: int
    encoded: int = 0
    recalled: int = 0

    @property
    def desirable(self) -> int:
        """Desirable rows."""
        return sum(row.label for row in self.rows)

    @property
    def undesirable(self) -> int:
        """Undesirable rows."""
        return len(self.rows) - self.desirable


def read(sources: Sequence[str]) -> list[Row]:
    """The rows of some files, folders or Hub ids, one after the other.

    Raises:
        KtodataError: a source cannot be read, or a row in it is malformed.
        DataError: there is no row, or chats and plain text are mixed.
    """
    rows = [row for source in sources for row in read_rows(source)]
    if not rows:
        raise DataError("no rows", where=", ".join(sources))
    kinds = {row.kind for row in rows}
    if len(kinds) > 1:
        raise DataError(
            "some rows are plain text and some are chats",
            where=", ".join(sources),
            do="Make them one kind, for example with `ktodata unpair --as chat`",
        )
    return rows


def require_both_classes(data: Tokenized, *, where: str) -> None:
    """Refuse rows of one class: without the other, rewards run away and nothing is learned.

    Raises:
        DataError: there are no desirable or no undesirable rows.
    """
    if data.desirable and data.undesirable:
        return
    missing = "desirable" if not data.desirable else "undesirable"
    raise DataError(
        f"{len(data.rows)} rows and not one of them {missing}",
        where=where,
        do="KTO needs both classes; `ktodata negatives` makes undesirable rows from desirable ones",
    )


def rule_weights(data: Tokenized) -> tuple[float, float]:
    """desirable_weight and undesirable_weight by the paper's rule, from the rows that will be trained on."""
    weights = balance_weights(data.desirable, data.undesirable)
    return float(weights.desirable), float(weights.undesirable)


def tokenize(rows: Sequence[Row], tokenizer: Any, *, max_length: int, cache: TokenCache | None = None) -> Tokenized:
    """Token ids for each row. A row whose prompt leaves no room for a completion is dropped, and counted.

    Args:
        cache: what is known of this tokenizer from earlier runs; new texts are added to it.

    Raises:
        ModelError: the rows are chats and the tokenizer has no chat template.
        DataError: the chat template refuses a row.
    """
    chat = bool(rows) and rows[0].kind == "chat"
    render = _chat_renderer(tokenizer) if chat else _text_renderer()
    # Texts are named by their hashes, and rendered again when they have to be tokenized: never all held at once.
    keys = [tuple(text_key(text, special=not chat) for text in render(row)) for row in rows]
    wanted = set(itertools.chain.from_iterable(keys))
    texts = functools.partial(_texts_of, rows, keys, render)
    ids, recalled = _ids_of(wanted, texts, tokenizer, special=not chat, cache=cache)
    eos = None if chat else tokenizer.eos_token_id
    groups: dict[bytes, int] = {}
    prompts: dict[bytes, int] = {}
    kept: list[TokenizedRow] = []
    places: list[int] = []
    dropped: Counter[str] = Counter()
    cut = 0
    for place, (row, (prompt, whole)) in enumerate(zip(rows, keys, strict=True)):
        alone, both = ids[prompt], ids[whole]
        border = _common_prefix(alone, both)
        if border == len(both) and border and both[-1] == eos:
            border -= 1  # an empty completion, and a tokenizer that ends every text: this end is the completion's
        border = max(border, 1)  # the first token of all has nothing to be predicted from
        shared, completion = both[:border], both[border:]
        if eos is not None and (not len(completion) or completion[-1] != eos):
            completion = np.append(completion, np.int32(eos))
        if len(shared) >= max_length:
            dropped[f"the prompt alone fills max_length ({max_length} tokens)"] += 1
        elif not len(completion):
            dropped["the completion has no tokens"] += 1
        else:
            cut += len(shared) + len(completion) > max_length
            group = groups.setdefault(alone.tobytes(), len(groups))
            number = prompts.setdefault(shared.tobytes(), len(prompts))
            places.append(place)
            kept.append(TokenizedRow(group, number, shared, completion, row.label, f"{row.source} {row.id[:8]}"))
    return Tokenized(kept, places, dict(dropped), cut, encoded=len(wanted) - recalled, recalled=recalled)


def _text_renderer() -> Renderer:
    def render(row: Row) -> tuple[str, str]:
        assert isinstance(row.prompt, str)
        assert isinstance(row.completion, str)
        return row.prompt, row.prompt + row.completion

    return render


def _chat_renderer(tokenizer: Any) -> Renderer:
    if not tokenizer.chat_template:
        raise ModelError(
            "the rows are chats and the tokenizer has no chat template",
            where="model.path",
            do="Use an instruction-tuned model, or make the rows plain text with `ktodata unpair --as text`",
        )

    def render(row: Row) -> tuple[str, str]:
        prompt: Text = row.prompt
        assert isinstance(prompt, list)
        assert isinstance(row.completion, list)
        try:
            return (
                tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False),
                tokenizer.apply_chat_template([*prompt, *row.completion], tokenize=False),
            )
        except Exception as error:
            # Templates refuse what their model never saw: roles out of turn, a system turn, no turn at all. They are
            # programs that somebody else wrote, sandboxed by transformers, and fail in all the ways that programs do.
            raise DataError(
                f"the tokenizer's chat template refuses the row: {str(error) or type(error).__name__}",
                where=f"{row.source} row {row.id}",
            ) from error

    return render


def _texts_of(
    rows: Sequence[Row], keys: Sequence[tuple[bytes, ...]], render: Renderer, missing: set[bytes]
) -> Iterator[tuple[bytes, str]]:
    """The texts of some keys, each once, in the order of the rows."""
    for row, of_row in zip(rows, keys, strict=True):
        if missing.isdisjoint(of_row):
            continue
        for key, text in zip(of_row, render(row), strict=True):
            if key in missing:
                missing.discard(key)
                yield key, text


def _ids_of(
    wanted: set[bytes],
    texts: Callable[[set[bytes]], Iterator[tuple[bytes, str]]],
    tokenizer: Any,
    *,
    special: bool,
    cache: TokenCache | None,
) -> tuple[dict[bytes, IdArray], int]:
    """Token ids by key, and how many of them were known.

    Args:
        texts: gives the texts of the keys it is called with.
    """
    if cache is None:
        return dict(_encoded(texts(set(wanted)), tokenizer, special=special)), 0
    ids = cache.find(wanted)
    if len(ids) == len(wanted):
        return ids, len(ids)
    with cache.filling():
        ids |= cache.find(wanted - ids.keys())  # what another process has written meanwhile
        recalled = len(ids)
        part: dict[bytes, IdArray] = {}
        size = 0
        for key, one in _encoded(texts(wanted - ids.keys()), tokenizer, special=special):
            ids[key] = part[key] = one
            size += len(one)
            if size >= PART_IDS:
                cache.add(part)
                part, size = {}, 0
        cache.add(part)
    return ids, recalled


def _encoded(texts: Iterable[tuple[bytes, str]], tokenizer: Any, *, special: bool) -> Iterator[tuple[bytes, IdArray]]:
    """Token ids of texts, in batches."""
    texts = iter(texts)
    while chunk := list(itertools.islice(texts, CHUNK)):
        # verbose=False: no warning about texts above the tokenizer's model_max_length; we cut, and count.
        ids = tokenizer(
            [text for _, text in chunk], add_special_tokens=special, return_attention_mask=False, verbose=False
        )["input_ids"]
        for (key, _), one in zip(chunk, ids, strict=True):
            yield key, np.asarray(one, dtype=np.int32)


def _common_prefix(a: IdArray, b: IdArray) -> int:
    """How many leading ids two sequences share."""
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length
