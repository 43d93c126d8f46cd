"""From row files to token ids: the only place where the trainer meets ktodata.

Tokens are as DESIGN section 7 has them: prompt and prompt + completion are tokenized, and the completion begins where
the two part. Plain-text completions end in EOS unless they already do; chats are rendered by the chat template.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ktodata.balance import balance_weights
from ktodata.io import read_rows
from ktodata.schema import Row, Text
from ktotrain.batch import IdArray, TokenizedRow
from ktotrain.errors import DataError, ModelError

# Texts handed to the tokenizer at once: enough to keep its threads busy, few enough to bound memory.
CHUNK = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Tokenized:
    """Rows that can be trained on, where they stood, how many were dropped and why, and how many will be cut."""

    rows: list[TokenizedRow]
    places: list[int]
    dropped: Mapping[str, int]
    cut: int

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


def tokenize(rows: Sequence[Row], tokenizer: Any, *, max_length: int) -> Tokenized:
    """Token ids for each row. A row whose prompt leaves no room for a completion is dropped, and counted.

    Raises:
        ModelError: the rows are chats and the tokenizer has no chat template.
        DataError: the chat template refuses a row.
    """
    chat = bool(rows) and rows[0].kind == "chat"
    render = _chat_renderer(tokenizer) if chat else _text_renderer()
    rendered = [render(row) for row in rows]
    prompt_ids = _encode_distinct((prompt for prompt, _ in rendered), tokenizer, special=not chat)
    whole_ids = _encode_distinct((whole for _, whole in rendered), tokenizer, special=not chat)
    eos = None if chat else tokenizer.eos_token_id
    groups: dict[bytes, int] = {}
    prompts: dict[bytes, int] = {}
    kept: list[TokenizedRow] = []
    places: list[int] = []
    dropped: Counter[str] = Counter()
    cut = 0
    for place, (row, (prompt, whole)) in enumerate(zip(rows, rendered, strict=True)):
        alone, both = prompt_ids[prompt], whole_ids[whole]
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
    return Tokenized(kept, places, dict(dropped), cut)


def _text_renderer() -> Any:
    def render(row: Row) -> tuple[str, str]:
        assert isinstance(row.prompt, str)
        assert isinstance(row.completion, str)
        return row.prompt, row.prompt + row.completion

    return render


def _chat_renderer(tokenizer: Any) -> Any:
    import jinja2

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
        except (jinja2.TemplateError, ValueError, IndexError) as error:
            # Templates refuse what their model never saw: roles out of turn, a system turn, no turn at all.
            raise DataError(
                f"the tokenizer's chat template refuses the row: {error}", where=f"{row.source} row {row.id}"
            ) from error

    return render


def _encode_distinct(texts: Iterable[str], tokenizer: Any, *, special: bool) -> dict[str, IdArray]:
    """Token ids of each distinct text."""
    distinct = list(dict.fromkeys(texts))
    encoded: dict[str, IdArray] = {}
    for start in range(0, len(distinct), CHUNK):
        chunk = distinct[start : start + CHUNK]
        # verbose=False: no warning about texts above the tokenizer's model_max_length; we cut, and count.
        ids = tokenizer(chunk, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
        encoded.update(zip(chunk, (np.asarray(one, dtype=np.int32) for one in ids), strict=True))
    return encoded


def _common_prefix(a: IdArray, b: IdArray) -> int:
    """How many leading ids two sequences share."""
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length
