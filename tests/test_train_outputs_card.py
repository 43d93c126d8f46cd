"""The model card: front matter that the Hub reads, true numbers, and nothing that user text can break."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from ktotrain.card import code, fenced, hub_id, prose, render_card, results_of, write_card
from ktotrain.errors import TrainingError
from ktotrain.recipe import Recipe, recipe_from_dict

SUMMARY: dict[str, Any] = {
    "rows_desirable": 9000,
    "rows_undesirable": 3000,
    "rows_dropped": 1,
    "desirable_weight": 1.0,
    "undesirable_weight": 2.5,
    "chat": True,
    "steps": 375,
    "tokens": 1_234_567,
    "seconds": 90.0,
    "parameters": 1000,
    "trained_parameters": 25,
    "device": "one CPU",
    "results": {"step 1": {"loss": 0.5}, "step 9": {"loss": 0.25, "rewards/auc": 0.75}},
    "samples": [{"prompt": "hey", "before": "Dear Sir", "after": "yo"}],
}


def recipe(**tables: dict[str, Any]) -> Recipe:
    whole: dict[str, Any] = {
        "model": {"path": "Qwen/Qwen2.5-0.5B"},
        "data": {"train": ["Anthropic/hh-rlhf", "/a/b/c.jsonl"]},
    }
    for name, table in tables.items():
        whole[name] = whole.get(name, {}) | table
    return recipe_from_dict(whole)


def front_matter(card: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return loaded


def test_front_matter_is_the_hubs() -> None:
    card = render_card(recipe(adapter={}), SUMMARY)
    assert front_matter(card) == {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "base_model_relation": "adapter",
        "datasets": ["Anthropic/hh-rlhf"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["kto", "ktokit", "lora"],
    }
    parsed = ModelCard(card)
    assert parsed.data.base_model == "Qwen/Qwen2.5-0.5B"
    assert parsed.text.lstrip().startswith("# my-run")


def test_local_models_and_files_are_not_passed_off_as_the_hubs(tmp_path: Path) -> None:
    card = render_card(recipe(model={"path": str(tmp_path)}, data={"train": "c.jsonl"}), {})
    assert front_matter(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["kto", "ktokit"],
    }
    assert str(tmp_path) not in card
    assert str(tmp_path.parent) not in card
    assert f"`{tmp_path.name}`" in card


def test_the_card_tells_what_happened() -> None:
    card = render_card(recipe(), SUMMARY)
    for text in (
        "| desirable | 9,000 | 1 |",
        "| undesirable | 3,000 | 2.5 |",
        "1 more row was dropped",
        "| metric | step 1 | step 9 |",
        "| loss | 0.5000 | 0.2500 |",
        "| AUC |  | 0.7500 |",
        "| trained parameters | `25 of 1,000 (2.50%)` |",
        "| time | `1.5 minutes` |",
        "| learning rate | `5e-06, cosine, warm-up 0.1` |",
        "https://arxiv.org/abs/2402.01306",
        "torch ",
        "on one CPU",
        "`Anthropic/hh-rlhf`, `c.jsonl`",
        "Dear Sir",
    ):
        assert text in card
    assert "2408.06266" not in card


def test_what_is_unknown_is_left_out() -> None:
    card = render_card(recipe(), {})
    for text in ("## Results", "## Samples", "| class |", "dropped", "trained parameters", "None", "\n\n\n"):
        assert text not in card
    assert "## Training" in card


def test_apo_is_called_apo() -> None:
    card = render_card(
        recipe(loss={"kind": "apo_zero_unpaired"}), SUMMARY | {"results": {"step 1": {"loss": 1, "kl": 0}}}
    )
    assert "apo" in front_matter(card)["tags"]
    assert "2408.06266" in card
    assert "z_ref" not in card


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_the_snippet_is_python_that_loads_the_right_class(adapter: bool, chat: bool) -> None:
    tables: dict[str, Any] = {"adapter": {}} if adapter else {}
    tables["train"] = {"output_dir": 'runs/a"b\\'}
    card = render_card(recipe(**tables), SUMMARY | {"chat": chat})
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names = {node.id for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Name)}
    assert ("AutoPeftModelForCausalLM" in names) is adapter
    assert ("AutoModelForCausalLM" in names) is not adapter
    assert ("apply_chat_template" in snippet) is chat


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown)


HOSTILE = [
    "a|b",
    "`x` ``` y",
    "<script>alert(1)</script>",
    "*b* _c_ [d](e) #f",
    "two\nlines\n---\n# head",
    "a fence\n```\n# out",
    "\\`",
    "{{ 1 }}",
    "$x$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str) -> None:
    import html

    line = " ".join(text.split())
    assert rendered(prose(text)) == f"<p>{html.escape(line)}</p>\n"
    table = rendered(f"| a | b |\n|---|---|\n| x | {code(text)} |\n")
    assert f"<td><code>{html.escape(line)}</code></td>" in table
    assert table.count("<td>") == 2
    assert rendered(fenced(text)) == f'<pre><code class="language-text">{html.escape(text)}\n</code></pre>\n'


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_run_makes_a_card_of_the_same_shape(text: str) -> None:
    def shape(value: str) -> list[str]:
        train = {"output_dir": f"runs/{value}".rstrip("/")}
        samples = [{"prompt": [{"role": "user", "content": value}], "before": value, "after": value}]
        more = SUMMARY | {"samples": samples, "device": value}
        card = render_card(recipe(train=train, data={"train": [value]}, model={"path": value}), more)
        body = card.split("---\n", 2)[2]
        assert set(front_matter(card)) == {"library_name", "pipeline_tag", "tags"}
        return [token.type for token in MarkdownIt("commonmark").enable("table").parse(body)]

    assert shape(text) == shape("some words")


def test_results_are_first_step_mean_of_last_and_last_evaluation() -> None:
    records: list[dict[str, Any]] = [{"step": step, "loss": float(step), "kl": 0.0} for step in range(1, 31)]
    records[-1]["rewards/auc"] = 0.5
    records[9:9] = [{"step": 9, "eval_loss": 7.0}]
    records.append({"step": 30, "eval_loss": 6.0, "eval_rewards/auc": 0.75, "epoch": 1.0})
    assert results_of(records) == {
        "step 1": {"loss": 1.0, "kl": 0.0},
        "mean of steps 28 to 30": {"loss": 29.0, "kl": 0.0, "rewards/auc": 0.5},
        "evaluation": {"loss": 6.0, "rewards/auc": 0.75},
    }
    assert results_of(records[:2])["step 2"]["loss"] == 2.0
    assert results_of([]) == {}


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("gpt2", True),
        ("Qwen/Qwen2.5-0.5B", True),
        ("a/b/c", False),
        ("/a/b", False),
        ("./a", False),
        ("../a", False),
        ("a.parquet", False),
        ("data/a.jsonl.gz", False),
        ("a b", False),
        ("", False),
        ("naïve", False),
    ],
)
def test_hub_ids(name: str, is_one: bool) -> None:
    assert hub_id(name) == (name if is_one else None)


def test_an_existing_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert hub_id("gpt2") is None


def test_the_card_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_card(tmp_path / "run", recipe=recipe(), summary=SUMMARY)
    assert (tmp_path / "run" / "README.md").read_text(encoding="utf-8") == render_card(recipe(), SUMMARY)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(TrainingError, match="cannot be written"):
        write_card(tmp_path / "file", recipe=recipe(), summary={})
