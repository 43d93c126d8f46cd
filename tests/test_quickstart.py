"""The quickstart's parts: its rows, its style rule, its model and its recipe. test_quickstart_demo.py runs it whole."""

import importlib
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from ktodata.schema import Row, parse_row
from ktotrain.recipe import load_recipe

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart"
CHATS = QUICKSTART / "chats.jsonl"
MODEL = QUICKSTART / "model"


def part(name: str) -> ModuleType:
    """A module of recipes/quickstart, which is a folder of scripts and no package."""
    if str(QUICKSTART) not in sys.path:
        sys.path.append(str(QUICKSTART))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    lines = CHATS.read_text(encoding="utf-8").splitlines()
    return [parse_row(json.loads(line), where=f"line {n}", source="chats") for n, line in enumerate(lines, 1)]


def last_line(row: Row) -> str:
    assert not isinstance(row.prompt, str)
    return row.prompt[-1]["content"]


def reply(row: Row) -> str:
    assert isinstance(row.completion, list)
    assert [message["role"] for message in row.completion] == ["assistant"]
    return row.completion[0]["content"]


def test_the_data_file_is_what_its_script_makes() -> None:
    assert "".join(part("make_data").lines()).encode() == CHATS.read_bytes()


def test_rows_are_many_casual_and_distinct(rows: list[Row]) -> None:
    style = part("style")
    assert len(rows) >= 1000
    assert all(row.label for row in rows)
    assert len({row.prompt_id for row in rows}) == len(rows)
    assert len({last_line(row).lower() for row in rows}) == len(rows)
    assert len({reply(row) for row in rows}) == len(rows)
    styles = Counter(style.style_of(reply(row)) for row in rows)
    assert styles["casual"] > 0.98 * len(rows)
    assert CHATS.stat().st_size < 500_000


def test_some_rows_have_earlier_turns_and_all_end_with_the_user(rows: list[Row]) -> None:
    shapes = Counter(tuple(message["role"] for message in row.prompt) for row in rows if isinstance(row.prompt, list))
    assert sum(shapes.values()) == len(rows)
    assert set(shapes) == {
        ("user",),
        ("system", "user"),
        ("user", "assistant", "user"),
        ("system", "user", "assistant", "user"),
    }
    assert min(shapes.values()) > 10


def test_no_topic_dominates() -> None:
    grammar = part("grammar")
    found = Counter(chat.intent for chat in itertools.islice(grammar.exchanges(5), 2000))
    assert set(found) == {intent["name"] for intent in grammar.grammar()["intent"]}
    assert max(found.values()) < 0.06 * 2000


def test_measured_prompts_are_held_out(rows: list[Row]) -> None:
    measure, grammar = part("measure"), part("grammar")
    prompts = measure.held_out(200)
    lines = {prompt[-1]["content"].lower() for prompt in prompts}
    assert len(lines) == 200
    assert not lines & {last_line(row).lower() for row in rows}
    assert all(grammar.is_held_out(prompt) for prompt in prompts)
    assert not any(grammar.is_held_out(row.prompt) for row in rows)
    # What the base model reads comes from here:
    read = itertools.islice(grammar.exchanges(2), 3000)
    assert not lines & {chat.prompt[-1]["content"].lower() for chat in read}


def test_no_exchange_has_an_unfilled_slot_or_a_doubled_mark() -> None:
    for chat in itertools.islice(part("grammar").exchanges(7), 3000):
        for text in (chat.casual, chat.formal, *(message["content"] for message in chat.prompt)):
            assert text == text.strip()
            assert not set("{}") & set(text), text
            assert "  " not in text, text
        assert ".." not in chat.formal, chat.formal


def test_both_replies_of_an_exchange_are_told_apart_by_the_rule() -> None:
    style = part("style")
    chats = list(itertools.islice(part("grammar").exchanges(7), 1000))
    assert style.share([chat.casual for chat in chats], "casual") > 0.98
    assert style.share([chat.formal for chat in chats], "formal") > 0.98


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yeah sure, gonna be there at 8 lol 😊", "casual"),
        ("Yes, sure. I am going to be there at 8.", "formal"),
        ("omg!! that's amazing", "casual"),
        ("I'm so sorry! can i help?", "casual"),
        ("Certainly. I would be delighted to attend.", "formal"),
        ("I do not know. Could you ask Mia?", "formal"),
        ("It is cold in Oslo.", "formal"),
        ("haha same", "casual"),
        ("Don't worry about it.", "neither"),
        ("", "neither"),
    ],
)
def test_the_style_rule(text: str, expected: str) -> None:
    style = part("style")
    assert style.style_of(text) == expected, style.kinds(text)


def test_the_style_rule_counts_kinds_not_marks() -> None:
    style = part("style")
    assert style.kinds("Hello!!!!! 😊😊😊") == (["exclamation mark", "emoji"], [])
    assert style.kinds("hello! 😊")[0] == ["lower case", "exclamation mark", "emoji"]


def test_babble_is_not_well_formed() -> None:
    style = part("style")
    known = frozenset(["so", "good", "i'm"])
    assert style.is_well_formed("i'm so good!! 😊", known)
    assert not style.is_well_formed("", known)
    assert not style.is_well_formed("😊", known)
    assert not style.is_well_formed("so so so good", known)
    assert not style.is_well_formed("i'm goodropect", known)
    assert not style.is_well_formed("so good " * 30, known)
    with pytest.raises(ValueError, match="no replies"):
        style.share([])


def test_the_model_is_small_and_loads_as_a_chat_model(rows: list[Row]) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer

    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 4_000_000
    assert AutoConfig.from_pretrained(MODEL).dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.pad_token not in (None, tokenizer.eos_token)
    for row in rows:
        text = tokenizer.apply_chat_template(row.prompt, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*row.prompt, *row.completion], tokenize=False)
        assert whole == text + reply(row) + "<|end|>"
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == whole
        assert len(ids) <= load_recipe(ROOT / "recipes" / "quickstart.toml").data.max_length


def test_the_base_model_replies_in_both_styles() -> None:
    measure = part("measure")
    found = measure.measure(MODEL, measure.held_out(60))
    assert 0.3 < found.casual < 0.7
    assert 0.3 < found.formal < 0.7


def test_the_recipe_is_valid_and_names_what_is_there() -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.toml")
    assert ROOT / recipe.model.path == MODEL
    assert recipe.data.train == ("demo/train.parquet",)
    assert recipe.train.output_dir == "demo/run"
    assert recipe.adapter is not None
    assert (recipe.loss.desirable_weight, recipe.loss.undesirable_weight) == (1.0, 1.0)
