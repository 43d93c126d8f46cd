"""Where the completion begins and ends, with tokenizers of every kind (DESIGN section 7, point 5)."""

from typing import Any

import pytest
from support import byte_tokenizer

from ktodata.schema import make_row
from ktotrain.data import Tokenized, tokenize

BOS, EOS = 1, 2


def tokenizer_with(template: str) -> Any:
    """The byte tokenizer, putting its own tokens around each text as the template says."""
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    around = processors.TemplateProcessing(single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    tokenizer.backend_tokenizer.post_processor = around
    return tokenizer


def merging_tokenizer() -> Any:
    """Bytes, but `: I` is one token wherever it occurs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(":", "Ġ"), (":Ġ", "I")]
    names = ["<pad>", "<s>", "</s>", *alphabet, *map("".join, merges)]
    merging = Tokenizer(models.BPE(vocab={name: place for place, name in enumerate(names)}, merges=merges))
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merging.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=merging, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def read(tokenizer: Any, *pairs: tuple[str, str], max_length: int = 100) -> Tokenized:
    rows = [make_row(prompt, completion, True, source="test", origin="pair") for prompt, completion in pairs]
    return tokenize(rows, tokenizer, max_length=max_length)


def ids(text: str) -> list[int]:
    return list(byte_tokenizer()(text)["input_ids"])


@pytest.mark.parametrize(
    ("template", "first"), [("$A", []), ("<s> $A", [BOS]), ("$A </s>", []), ("<s> $A </s>", [BOS])]
)
def test_one_beginning_and_one_end_whatever_the_tokenizer_adds(template: str, first: list[int]) -> None:
    rows = read(tokenizer_with(template), ("ab", "cd"), ("ab", ""), ("ab", "c</s>")).rows
    assert [row.prompt_ids.tolist() for row in rows] == [first + ids("ab")] * 3
    assert [row.completion_ids.tolist() for row in rows][:2] == [[*ids("cd"), EOS], [EOS]]
    assert rows[0].group == rows[1].group == rows[2].group
    assert rows[0].prompt == rows[1].prompt == rows[2].prompt


def test_a_token_across_the_border_belongs_to_the_completion() -> None:
    tokenizer = merging_tokenizer()
    merged, plain = read(tokenizer, ("ab:", " I say"), ("ab:", " no")).rows
    assert tokenizer.convert_ids_to_tokens(merged.prompt_ids.tolist()) == ["a", "b"]
    assert tokenizer.convert_ids_to_tokens(merged.completion_ids.tolist())[:2] == [":ĠI", "Ġ"]
    assert tokenizer.decode(plain.prompt_ids.tolist()) == "ab"  # `: ` is a token too
    assert merged.group == plain.group, "one prompt, wherever the border lies"


def test_an_empty_prompt_lends_the_first_token_of_the_completion() -> None:
    (row,) = read(tokenizer_with("$A"), ("", "cde")).rows
    assert (row.prompt_ids.tolist(), row.completion_ids.tolist()) == (ids("c"), [*ids("de"), EOS])
    (row,) = read(tokenizer_with("<s> $A"), ("", "cde")).rows
    assert (row.prompt_ids.tolist(), row.completion_ids.tolist()) == ([BOS], [*ids("cde"), EOS])


def test_a_prompt_that_fills_max_length_is_dropped_and_what_is_longer_is_counted_as_cut() -> None:
    found = read(tokenizer_with("$A"), ("abcd", "e"), ("abc", "e"), ("a", "bcd"), ("a", "bc"), max_length=4)
    assert [len(row.completion_ids) for row in found.rows] == [2, 4, 3], "uncut: mismatched pairs may use more of them"
    assert sum(found.dropped.values()) == 1
    assert found.cut == 2
