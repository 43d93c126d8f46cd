"""The recipe: defaults as designed, every error at once with its line, overrides, and a way back."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from ktotrain import recipe_docs
from ktotrain.errors import RecipeError
from ktotrain.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict, recipe_to_toml
from ktotrain.recipe_keys import convert, key_of
from ktotrain.recipe_names import ELSEWHERE, keys_of
from ktotrain.recipe_tables import TABLES, TRACKERS

ROOT = Path(__file__).parents[1]
SMALL = '[model]\npath = "m"\n[data]\ntrain = ["a.jsonl"]\n'

# DESIGN section 6, key for key; the keys that are ours besides are in OURS.
DESIGNED = {
    "model": {
        "dtype": "auto",
        "reference": "initial",
        "reference_logps": "auto",
        "quantization": "none",
        "attention": "auto",
        "gradient_checkpointing": False,
    },
    "data": {"eval": [], "max_length": 1024, "shuffle": True},
    "loss": {"kind": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "optim": {
        "name": "adamw",
        "learning_rate": 5e-6,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.0,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "max_grad_norm": 1.0,
    },
    "train": {
        "output_dir": "runs/my-run",
        "epochs": 1,
        "max_steps": 0,
        "batch_size": 32,
        "pack_tokens": 8192,
        "precision": "bf16",
        "seed": 0,
        "log_every": 1,
        "eval_every": 0,
        "save_every": 0,
        "keep_checkpoints": 2,
        "trackers": [],
    },
}
ADAPTER = {"kind": "lora", "rank": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear", "init": ""}
OURS = {
    "model": {"revision": "", "trust_remote_code": False},
    "loss": {"z_ref_share": 1.0, "z_ref_pairs": "step"},
    "train": {"max_bad_steps": 3},
    "samples": {"count": 4, "max_new_tokens": 64, "temperature": 0.0, "prompts": []},
}


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def errors(folder: Path, text: str, *overrides: str) -> list[str]:
    """The error lines for a recipe, without their common beginning; every one must name its place."""
    path = written(folder, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    if len(lines) > 1:
        assert lines.pop(0) == f"{path} has {len(lines)} errors"
    assert all(line.startswith((str(path), "--set ")) for line in lines), lines
    return [line.removeprefix(str(path)) for line in lines]


def test_defaults_are_the_designed_ones(tmp_path: Path) -> None:
    tables = recipe_to_dict(load_recipe(written(tmp_path, SMALL + "[adapter]\n")))
    expected = {name: dict(values) for name, values in (DESIGNED | {"adapter": ADAPTER}).items()}
    expected["model"] |= {"path": "m"}
    expected["data"] |= {"train": ["a.jsonl"]}
    for name, values in OURS.items():
        expected[name] = expected.get(name, {}) | values
    assert tables == expected


def test_no_adapter_table_means_no_adapter(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL))
    assert recipe.adapter is None
    assert "adapter" not in recipe_to_dict(recipe)


def test_a_recipe_is_frozen_and_slotted(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL))
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.train.seed = 3  # type: ignore[misc]
    assert not hasattr(recipe.train, "__dict__")


def test_values_reach_their_keys_with_their_types(tmp_path: Path) -> None:
    text = """
    model = { path = "m", quantization = "nf4" }
    data.train = "one.jsonl"
    optim.betas = [0, 0.95]
    [loss]
    beta = 1
    desirable_weight = "auto"
    [adapter]
    target_modules = ["q_proj", "v_proj"]
    [train]
    trackers = "wandb"
    """
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.data.train == ("one.jsonl",)
    assert recipe.optim.betas == (0.0, 0.95)
    assert isinstance(recipe.optim.betas[0], float)
    assert isinstance(recipe.loss.beta, float)
    assert recipe.loss.desirable_weight == "auto"
    assert recipe.adapter is not None
    assert recipe.adapter.target_modules == ("q_proj", "v_proj")
    assert recipe.train.trackers == ("wandb",)
    assert recipe.model.quantization == "nf4"


def test_json_and_toml_lead_back_to_the_same_recipe(tmp_path: Path) -> None:
    text = SMALL.replace('"m"', '"a \\"quoted\\" naïve\\nname"') + '[adapter]\ntarget_modules = ["q"]\n'
    recipe = load_recipe(written(tmp_path, text), ["samples.prompts=['hey', 'yo']", "optim.learning_rate=3e-7"])
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe
    assert load_recipe(written(tmp_path, recipe_to_toml(recipe))) == recipe


def test_all_errors_are_shown_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """lr = 3
[model]
pth = "x"
dtype = "float23"
quantization = "nf4"
[optmi]
x = 1
[data]
train = []
max_length = true
[loss]
note = '''
beta = 3
'''
beta = -0.1
learning_rate = 3
[optim]
betas = [0.9, 1.0]
warmup = 100
learning_rate = nan
[train]
batch_size = 0
epochs = 1.5
"""
    expected = [
        ":1: key 'lr' stands in no table. Here that is 'learning_rate' in [optim]",
        ":2: [model] path is missing",
        ":3: unknown key 'pth' in [model]. Did you mean 'path'?",
        ':4: [model] dtype is "float23"; it must be one of "auto", "float32"',
        ":5: [model] quantization freezes the weights, and there is no [adapter]",
        ":6: unknown table [optmi]. Did you mean [optim]?",
        ":9: [data] train is []; it must be a list of texts, at least one",
        ":10: [data] max_length is true; it must be a whole number of at least 2",
        ":12: unknown key 'note' in [loss]. Known: kind, beta, desirable_weight, undesirable_weight",
        ":15: [loss] beta is -0.1; it must be a number above 0",
        ":16: unknown key 'learning_rate' in [loss]. It belongs in [optim]",
        ":18: [optim] betas is [0.9, 1.0]; it must be a list of 2 numbers of at least 0 and below 1",
        ":19: [optim] warmup is 100; it must be a number of at least 0 and at most 1",
        ":20: [optim] learning_rate is NaN; it must be a number above 0 and at most 1",
        ":22: [train] batch_size is 0; it must be a whole number of at least 1",
        ":23: [train] epochs is 1.5; it must be a whole number of at least 1",
    ]
    found = errors(tmp_path, text)
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[train]\nbatch_size = -1", "a whole number of at least 1"),
        ('[train]\nbatch_size = "8"', "a whole number"),
        ("[train]\nbatch_size = true", "a whole number"),
        ("[train]\nseed = 4294967296", "at most 4294967295"),
        ('[train]\ntrackers = ["wandbb"]', 'Did you mean "wandb"?'),
        ("[train]\ntrackers = [1]", "a list of any of"),
        ('[train]\noutput_dir = ""', "a text that is not empty"),
        ("[train]\noutput_dir = 2024-01-02", "[train] output_dir is 2024-01-02; it must be a text"),
        ("[data]\nshuffle = 1", "true or false"),
        ('[data]\ntrain = [""]', "a list of texts"),
        ("[optim]\nlearning_rate = 0", "a number above 0"),
        ("[optim]\nlearning_rate = inf", "a number above 0"),
        ("[optim]\nbetas = [0.9]", "a list of 2 numbers"),
        ("[optim]\nbetas = 0.9", "a list of 2 numbers"),
        ('[optim]\nschedule = "cosin"', 'Did you mean "cosine"?'),
        ("[loss]\ndesirable_weight = 0", 'a number above 0 or "auto"'),
        ('[loss]\ndesirable_weight = "aut"', 'Did you mean "auto"?'),
        ('[loss]\nkind = "dpo"', 'one of "kto", "apo_zero_unpaired"'),
        ('[adapter]\ntarget_modules = "all-liner"', 'Did you mean "all-linear"?'),
        ("[adapter]\ntarget_modules = []", "at least one"),
        ("[adapter]\nrank = 0", "at least 1"),
        ("[samples]\ntemperature = -1", "at least 0"),
        ("[loss]\nbeta = 1" + "0" * 400, "a number above 0"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(line: str, says: str) -> None:
    tables = tomllib.loads(SMALL)
    for name, table in tomllib.loads(line).items():
        tables.setdefault(name, {}).update(table)
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(tables)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[train]\neval_every = 5", ":6: [train] eval_every is set, and [data] eval names no rows"),
        ('[loss]\ndesirable_weight = "auto"\nundesirable_weight = 2', ':7: [loss] desirable_weight is "auto"'),
        ('[loss]\nundesirable_weight = "auto"\ndesirable_weight = 2', ':7: [loss] undesirable_weight is "auto"'),
        ('[train]\nprecision = "fp16"', None),
        ('[loss]\ndesirable_weight = "auto"\nundesirable_weight = 1', None),
        ('[loss]\ndesirable_weight = "auto"\nundesirable_weight = "auto"', None),
        ('[adapter]\ninit = "folder"\nrank = 4', None),
    ],
)
def test_keys_are_checked_against_each_other(tmp_path: Path, more: str, says: str | None) -> None:
    if says is None:
        assert isinstance(load_recipe(written(tmp_path, SMALL + more)), Recipe)
    else:
        (found,) = errors(tmp_path, SMALL + more)
        assert found.startswith(says)


def test_fp16_needs_float32_weights(tmp_path: Path) -> None:
    (found,) = errors(tmp_path, SMALL, "train.precision=fp16", "model.dtype=float16")
    assert found.startswith('--set train.precision=fp16: [train] precision "fp16" scales gradients')


def test_a_key_that_is_wrong_itself_is_not_checked_against_others(tmp_path: Path) -> None:
    (found,) = errors(tmp_path, SMALL.replace("train = ", "eval = 3\ntrain = ") + "[train]\neval_every = 5\n")
    assert "[data] eval is 3" in found
    (found,) = errors(
        tmp_path, f"adapter = 3\n{SMALL}[loss]\n[optim]\n".replace('path = "m"', 'path="m"\nquantization="nf4"')
    )
    assert found.startswith(":1: adapter is 3; it must be a table")


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + "[train]\nbatch_size = 0\n")
    overrides = [
        "train.batch_size=8",
        "train.precision=no",
        "train.output_dir=2024-01-02",  # text, though TOML would see a date
        "model.path=7",
        "model.trust_remote_code=true",
        'data.train=["a b.jsonl", "c.jsonl"]',
        "data.eval=d.jsonl",
        "adapter.rank = 4",
        "optim.betas=[0.8,0.9]",
        "samples.prompts=what = that?",
        "train.seed=1",
        "train.seed=2",
    ]
    recipe = load_recipe(path, overrides)
    assert (recipe.train.batch_size, recipe.train.precision, recipe.train.output_dir) == (8, "no", "2024-01-02")
    assert (recipe.model.path, recipe.model.trust_remote_code) == ("7", True)
    assert (recipe.data.train, recipe.data.eval) == (("a b.jsonl", "c.jsonl"), ("d.jsonl",))
    assert recipe.adapter is not None
    assert recipe.adapter.rank == 4
    assert recipe.optim.betas == (0.8, 0.9)
    assert recipe.samples.prompts == ("what = that?",)
    assert recipe.train.seed == 2  # the last one counts


def test_errors_of_overrides_name_them_and_come_with_the_others(tmp_path: Path) -> None:
    found = errors(
        tmp_path, "[model]\n" + SMALL[8:] + "x = 1\n", "train.sede=3", "lr=3", "train.epochs=1.5", "loss.beta", "x.y=1"
    )
    assert found[0].startswith(":5: unknown key 'x' in [data]")
    assert set(found[1:]) == {
        "--set train.sede=3: unknown key 'sede' in [train]. Did you mean 'seed'?",
        "--set lr=3: not table.key=value. Here that is 'learning_rate' in [optim]",
        "--set train.epochs=1.5: [train] epochs is 1.5; it must be a whole number of at least 1",
        "--set loss.beta: not table.key=value",
        "--set x.y=1: unknown table [x]. Known: model, adapter, data, loss, optim, train, samples",
    }


def test_an_override_cannot_smuggle_in_other_keys(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL), ["train.output_dir='a'\nseed = 3"])
    assert recipe.train.output_dir == "'a'\nseed = 3"
    assert recipe.train.seed == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[model\npath = 3", "recipe.toml:1: not valid TOML: "),
        (b"[model]\npath = 3\npath = 4\n", "recipe.toml:3: not valid TOML: "),
        (b"[model]\npath =", "not valid TOML: "),
        (b"\xff\xfe[model]", "recipe.toml: is not UTF-8 text (byte 0)"),
    ],
)
def test_what_is_not_toml_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nope\.toml: no such file"):
        load_recipe(tmp_path / "nope.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


def test_an_empty_recipe_names_what_must_be_there(tmp_path: Path) -> None:
    found = errors(tmp_path, "")
    assert [line[: line.index(" is missing")] for line in found] == [": [model] path", ": [data] train"]


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "\ufeff" + SMALL)).model.path == "m"


def test_every_key_has_a_sentence_and_a_default_that_passes_its_own_check() -> None:
    checked = 0
    for name, table in TABLES.items():
        hints = get_type_hints(table)
        for field in dataclasses.fields(table):
            doc = key_of(field).doc
            assert doc[0].isupper() or doc[0] == "`" or doc[0].isdigit(), f"{name}.{field.name}: {doc}"
            assert doc.endswith("."), f"{name}.{field.name}: {doc}"
            if field.default is not dataclasses.MISSING:
                assert convert(hints[field.name], field.default, key_of(field)) == field.default
            checked += 1
    assert checked >= 45


def test_other_trainers_names_lead_to_keys_that_exist_and_are_no_keys_here() -> None:
    ours = {key for table in TABLES for key in keys_of(table)}
    for name, target in ELSEWHERE.items():
        table, _, key = target.partition(".")
        assert key in keys_of(table), target
        assert name not in ours


def test_trackers_are_those_of_accelerate() -> None:
    from accelerate.utils import LoggerType

    assert set(TRACKERS) == {str(tracker.value) for tracker in LoggerType} - {"all"}


def test_the_reference_is_current() -> None:
    current = recipe_docs.recipe_reference()
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == current, (
        "run: python -m ktotrain.recipe_docs > docs/recipe.md"
    )
    for table in TABLES:
        assert f"## `[{table}]`" in current
        assert all(f"| `{key}` |" in current for key in keys_of(table))
