"""`ktodata check`: a clean file passes, and each thing that spoils one is found, named and graded."""

import html.parser
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from orders import training_order

from ktodata.check import Report, check
from ktodata.check.leaks import Leaks
from ktodata.check.look import Look
from ktodata.check.show import as_page, as_table
from ktodata.check.texts import Texts
from ktodata.cli import main
from ktodata.errors import UsageError
from ktodata.leakage import Leakage
from ktodata.schema import make_row, to_record

Rows = list[dict[str, Any]]
WORDS = [f"{a}{b}{c}" for a in "bdfgklmprstvz" for b in "aeiou" for c in ("n", "rst", "ck", "p", "ll")]
NAMES = {
    "contradictions", "duplicates", "near-duplicates", "near-contradictions", "one-label runs",
    "same-prompt neighbours",
    "class ratio", "leakage: real rows", "template reuse", "unfilled slots", "special tokens", "role markers",
    "empty turns", "personal data", "lengths", "shared prompts",
}  # fmt: skip


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def clean(count: int = 120) -> Rows:
    """Rows in training order with nothing wrong: both classes of the same words."""
    rng = random.Random(0)
    rows = [
        make_row(sentence(rng, 8), sentence(rng, rng.randrange(10, 20)), label, source="s", origin="feedback")
        for _ in range(count // 2)
        for label in (True, False)
    ]
    return [to_record(row) for row in training_order(rows, seed=0)]


def save(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def found(report: Report) -> dict[str, Any]:
    return {finding.name: finding for finding in report.findings}


def test_a_clean_file_passes(tmp_path: Path) -> None:
    report = check(save(tmp_path / "in.jsonl", clean()))
    assert {one.name for one in report.findings} == NAMES
    told = {one.name: one.verdict for one in report.findings}
    assert {name for name, verdict in told.items() if verdict == "skipped"} == {"personal data", "shared prompts"}
    assert set(told.values()) == {"pass", "skipped"}, told
    assert (report.verdict, report.rows) == ("pass", 120)


def change(number: int, **changes: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [{**row, **changes} if place == number else row for place, row in enumerate(rows)]


def add(*copies: dict[str, Any]) -> Callable[[Rows], Rows]:
    """Copies of the first row, changed, here and there."""

    def added(rows: Rows) -> Rows:
        for place, one in enumerate(copies, 1):
            rows.insert(
                7 * place,
                {**rows[0], **{key: value(rows[0]) if callable(value) else value for key, value in one.items()}},
            )
        return rows

    return added


def every(step: int, label: bool, edit: Callable[[str], str], **more: Any) -> Callable[[Rows], Rows]:
    """The completions of every so many rows of a class, edited."""

    def edited(rows: Rows) -> Rows:
        chosen = [row for row in rows if row["label"] == label][::step]
        return [{**row, "completion": edit(row["completion"]), **more} if row in chosen else row for row in rows]

    return edited


FORMAL = "Dear customer, thank you for reaching out. "
CASES: dict[str, tuple[Callable[[Rows], Rows], str, str, str]] = {
    "the other label": (add({"label": lambda row: not row["label"]}), "contradictions", "fail", "rows 1 and 8"),
    "the other label, in capitals": (
        add({"label": lambda row: not row["label"], "completion": lambda row: row["completion"].upper()}),
        "contradictions", "fail", "2 rows",
    ),
    "twice": (add({}), "duplicates", "warn", "row 8"),
    "ten times": (add(*[{}] * 9), "duplicates", "fail", "9 rows"),
    "nearly twice": (add({"completion": lambda row: f"{row['completion']}!"}), "near-duplicates", "warn", "row 8"),
    "a near prompt": (add({"prompt": lambda row: f"{row['prompt']}!"}), "near-duplicates", "warn", "row 8"),
    "nearly the other label": (
        add({"completion": lambda row: f"{row['completion']}!", "label": lambda row: not row["label"]}),
        "near-contradictions", "warn", "rows 1 and 8",
    ),
    "sorted by label": (
        lambda rows: sorted(rows, key=lambda row: row["label"]), "one-label runs", "fail", "longest run 60",
    ),
    "one long run": (
        lambda rows: [row for row in rows if row["label"]][:15] + rows, "one-label runs", "warn", "longest run",
    ),
    "one prompt after another": (
        lambda rows: [{**row, "prompt": rows[place // 2 * 2]["prompt"]} for place, row in enumerate(rows)],
        "same-prompt neighbours", "fail", "60 neighbours share a prompt",
    ),
    "a few neighbours": (
        lambda rows: [{**row, "prompt": rows[0]["prompt"]} if place < 3 else row for place, row in enumerate(rows)],
        "same-prompt neighbours", "warn", "2 neighbours share a prompt",
    ),
    "one class": (lambda rows: [row for row in rows if row["label"]], "class ratio", "fail", "60 desirable, 0 undes"),
    "one in ten": (
        lambda rows: [row for place, row in enumerate(rows) if row["label"] or place % 10 == 0],
        "class ratio", "warn", ":1",
    ),
    "formal openings": (every(1, False, lambda text: FORMAL + text), "leakage: real rows", "fail", "'Dear': in 100%"),
    "longer": (every(1, True, lambda text: text * 3), "leakage: real rows", "fail", "by length alone"),
    "some formal openings": (
        every(1, False, lambda text: FORMAL + text if len(text) % 3 else text),
        "leakage: real rows", "warn", "'for': in 75%",
    ),
    "one text for all": (
        every(1, False, lambda text: "I do not know."), "template reuse", "fail", "60 times: 'i do not know.'",
    ),
    "a beginning for some": (
        every(5, False, lambda text: FORMAL + text), "template reuse", "warn", "20.0% of undesirable rows begin as",
    ),
    "a slot": (change(3, completion="Dear {name}, hello."), "unfilled slots", "warn", "row 4"),
    "many slots": (
        every(10, True, lambda text: f"{text} [Your Name]"), "unfilled slots", "fail", "'[Your Name]' in 6 rows",
    ),
    "a special token": (change(3, completion="Hello<|im_end|>"), "special tokens", "warn", "'<|im_end|>' in 1 rows"),
    "many of another model": (
        every(9, True, lambda text: f"{text} [/INST]"), "special tokens", "fail", "'[/INST]' in 7",
    ),
    "a turn in a reply": (change(3, completion="Hello\n\nHuman: and you?"), "role markers", "warn", "'Human:' in 1"),
    "a heading in a reply": (
        change(3, completion="Hello\n### Response: and you?"), "role markers", "warn", "Response:",
    ),
    "no prompt": (change(3, prompt=" "), "empty turns", "warn", "'prompt' in 1"),
    "no completion": (change(3, completion="\n"), "empty turns", "fail", "'completion' in 1"),
    "an empty turn before": (
        change(3, prompt="\n\nHuman: \n\nAssistant: hm\n\nHuman: a\n\nAssistant:"),
        "empty turns", "warn", "'turn' in 1",
    ),
    "somebody's address": (
        every(1, False, lambda text: f"{text} Write to jo.miller@posteo.net", strategy="contaminate"),
        "personal data", "fail", "60 of 60",
    ),
}  # fmt: skip


def without_leakage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers take most of the time; these tests are about something else."""
    monkeypatch.setattr("ktodata.check.leaks.told_apart", lambda *_: Leakage(math.nan, math.nan, 0))


@pytest.mark.parametrize("case", CASES)
def test_what_spoils_training_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    spoil, name, verdict, said = CASES[case]
    if not name.startswith("leakage"):
        without_leakage(monkeypatch)
    finding = found(check(save(tmp_path / "in.jsonl", spoil(clean()))))[name]
    assert finding.verdict == verdict, finding
    assert said in " ".join((finding.said, *finding.examples)), finding
    assert finding.do


@pytest.mark.parametrize(
    "text",
    [
        "Use `{name}` there.",
        "```\nf'{name}'\n```",
        "A set {1, 2}, x_{ij} and \\frac{abc}{d}",
        "a [1], [b] and [OK]",
        "1 < 2 > 1",
        "Call arr[INDEX], f(x)[FIRST] or grid[ROW][COLUMN].",
        "while (<STDIN>) { print; } in <BODY> of a vector<TYPE_NAME> or a List<NAME>",
        "It is [INST] for [/INST] and [MASK] or [CLS] for BERT",
    ],
)
def test_code_and_mathematics_have_no_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    without_leakage(monkeypatch)
    assert (
        found(check(save(tmp_path / "in.jsonl", change(3, completion=text)(clean()))))["unfilled slots"].verdict
        == "pass"
    )


@pytest.mark.parametrize(
    "slot", ["<NAME>", "<YOUR_NAME>", "<PRODUCT_NAME>", "[NAME]", "[Your Name]", "{name}", "{{ x }}"]
)
def test_slots_are_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: str) -> None:
    without_leakage(monkeypatch)
    rows = change(3, completion=f"Dear {slot}, hello.")(clean())
    assert found(check(save(tmp_path / "in.jsonl", rows)))["unfilled slots"].figures["found"] == {slot: 1}


def test_special_tokens_are_no_slots_as_well(tmp_path: Path) -> None:
    texts = Texts(["<FAKE_TOKEN>"])
    rows = [
        make_row("q", f"Hello {text} there", True, source="s", origin="pair") for text in ("[MASK]", "<FAKE_TOKEN>")
    ]
    for place, row in enumerate(rows):
        texts.add(Look(row, place, place, place))
    told = {finding.name: finding.figures["rows"] for finding in texts.findings() if "rows" in finding.figures}
    assert (told["special tokens"], told["unfilled slots"]) == (2, 0)


@given(st.lists(st.integers(0, 40), max_size=300), st.randoms())
def test_the_most_frequent_are_told_and_few_texts_kept(numbers: list[int], rng: random.Random) -> None:
    """Whatever the order of rows is."""
    slots = [f"{{name {chr(97 + number % 26)}{chr(97 + number // 26)}}}" for number in numbers]
    expected = sorted(Counter(slots).items(), key=lambda item: (-item[1], item[0]))[:20]
    for order in (slots, rng.sample(slots, len(slots))):
        texts = Texts()
        for place, slot in enumerate(order):
            row = make_row("q", f"Dear {slot}", True, source="s", origin="pair")
            texts.add(Look(row, place, place, place))
        (told,) = (finding for finding in texts.findings() if finding.name == "unfilled slots")
        assert list(told.figures["found"].items()) == expected
        assert all(len(most._texts) <= 20 for most in texts._found.values())


def test_personal_data_are_counted_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_leakage(monkeypatch)
    spoil = CASES["somebody's address"][0]
    report = check(save(tmp_path / "in.jsonl", spoil(clean())))
    assert found(report)["personal data"].figures["kinds"] == {"e-mail": 60}
    told = as_page(report).split("leakage", 1)[0] + str(found(report)["personal data"])
    assert "jo.miller" not in told


def test_each_strategy_has_its_own_leakage(tmp_path: Path) -> None:
    rows = clean(240)
    for place, row in enumerate(rows):
        if not row["label"]:
            formal = place % 2 == 0
            row |= {"strategy": "template" if formal else "base", "origin": "synthetic"}
            row["completion"] = (FORMAL if formal else "") + row["completion"]
    report = found(check(save(tmp_path / "in.jsonl", rows)))
    assert report["leakage: template"].verdict == "fail"
    assert report["leakage: template"].figures["auc_ngrams"] > 0.95
    assert report["leakage: base"].verdict == "pass"
    assert report["leakage: template"].figures["tokens"][0]["undesirable"] == 1
    turned = found(check(save(tmp_path / "in.jsonl", rows[::-1])))
    assert all(turned[name] == one for name, one in report.items() if name.startswith("leakage"))


def test_prompts_of_an_evaluation_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_leakage(monkeypatch)
    rows = clean()
    source = save(tmp_path / "in.jsonl", rows)
    other = [{**row, "prompt": f"other {place} {row['prompt'][::-1]}"} for place, row in enumerate(rows[:9])]
    assert found(check(source, against=save(tmp_path / "e.jsonl", other)))["shared prompts"].verdict == "pass"
    near = [{**rows[4], "prompt": f"{rows[4]['prompt']}?"}, *other]
    finding = found(check(source, against=save(tmp_path / "e.jsonl", near)))["shared prompts"]
    assert (finding.verdict, finding.examples) == ("warn", ["near: row 5"])
    same = [{**rows[4], "prompt": f" {rows[4]['prompt'].upper()}"}, *other]
    finding = found(check(source, against=save(tmp_path / "e.jsonl", same)))["shared prompts"]
    assert (finding.verdict, finding.examples) == ("fail", ["shared: row 5"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    from support import byte_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("chat", [False, True])
def test_lengths_are_those_that_the_trainer_counts(tmp_path: Path, tokenizer: str, chat: bool) -> None:
    from support import byte_tokenizer

    from ktotrain.data import tokenize

    rows = clean(40)
    rows[0]["prompt"] = "long " * 60
    rows[1]["completion"] = "long " * 60
    if chat:
        for row in rows:
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    source = save(tmp_path / "in.jsonl", rows)
    finding = found(check(source, tokenizer=tokenizer, max_length=250))["lengths"]
    made = [make_row(row["prompt"], row["completion"], row["label"], source="", origin="feedback") for row in rows]
    cut = tokenize(made, byte_tokenizer(), max_length=250)
    whole = tokenize(made, byte_tokenizer(), max_length=10**6)
    assert (finding.figures["cut"], finding.figures["dropped"]) == (cut.cut, sum(cut.dropped.values())) == (1, 1)
    assert finding.verdict == "warn"
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in whole.rows)
    assert finding.figures["percentiles"]["100"] == longest
    assert found(check(source, tokenizer=tokenizer, max_length=20))["lengths"].verdict == "fail"
    assert found(check(source, tokenizer=tokenizer, max_length=longest))["lengths"].verdict == "pass"


def test_the_tokenizers_own_special_tokens_count(tmp_path: Path, tokenizer: str) -> None:
    source = save(tmp_path / "in.jsonl", change(3, completion="an </s> end")(clean()))
    assert found(check(source, tokenizer=tokenizer))["special tokens"].figures["found"] == {"</s>": 1}


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["check", *arguments])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize(
    ("spoil", "plain", "strict"),
    [(lambda rows: rows, 0, 0), (CASES["a slot"][0], 0, 1), (CASES["the other label"][0], 1, 1)],
    ids=["pass", "warn", "fail"],
)
def test_exit_codes(tmp_path: Path, spoil: Callable[[Rows], Rows], plain: int, strict: int) -> None:
    source = save(tmp_path / "in.jsonl", spoil(clean()))
    assert run(source).exit_code == plain
    result = run(source, "--strict", "--json")
    assert result.exit_code == strict
    facts = json.loads(result.stdout)
    assert {one["name"] for one in facts["checks"]} == NAMES
    assert all(one["verdict"] in ("pass", "skipped", "warn", "fail") for one in facts["checks"])
    assert facts["verdict"] == {(0, 0): "pass", (0, 1): "warn", (1, 1): "fail"}[plain, strict]


class Outline(html.parser.HTMLParser):
    """The tags of a page, and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_is_one_file_and_nothing_in_it_is_markup_of_rows(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> {name} & <|im_end|> <img src=x onerror=y>"
    rows = every(1, False, lambda text: bad)(clean())
    source, page = save(tmp_path / "<b>in.jsonl", rows), tmp_path / "deep" / "page.html"
    assert run(source, "--html", str(page)).exit_code == 1
    text = page.read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert not {"script", "img", "b", "link", "iframe"} & set(outline.tags)
    assert outline.loaded == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert "&lt;script&gt;" in text
    assert all(name in text for name in NAMES)


def test_the_table_shows_brackets_as_they_are(tmp_path: Path) -> None:
    rows = every(10, True, lambda text: f"{text} [bold]{{name}}[/bold] [Your Name]")(clean())
    table = as_table(check(save(tmp_path / "in.jsonl", rows)), width=100)
    assert "'[Your Name]' in 6 rows" in table
    assert "\x1b" not in table


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--max-length", "9"], 2, "--max-length without --tokenizer"),
        (["--near-threshold", "0.1"], 2, "--near-threshold is 0.1"),
        (["--html", "-"], 2, "--html is '-'"),
        (["--html", "SOURCE"], 2, "is the input"),
        (["--against", "nothing.jsonl"], 1, "no such file"),
        (["--tokenizer", "./nothing"], 1, "nothing"),
    ],
)
def test_what_cannot_be(tmp_path: Path, options: list[str], code: int, said: str) -> None:
    source = save(tmp_path / "in.jsonl", clean(8))
    result = run(source, *(source if option == "SOURCE" else option for option in options))
    assert result.exit_code == code
    assert said in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "ktodata unpair"),
        ('{"prompt": "a", "completion": "b", "label": 2}\n', "label is int 2"),
        ("not json\n", "unpair FILE --quarantine"),
        ("", "no rows"),
    ],
)
def test_files_that_are_no_rows(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(text, encoding="utf-8")
    result = run(str(path))
    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_few_rows_are_no_trouble(tmp_path: Path, count: int) -> None:
    report = check(save(tmp_path / "in.jsonl", clean(20)[:count]))
    assert report.rows == count
    with pytest.raises(UsageError):
        check(str(tmp_path / "in.jsonl"), near_threshold=2)


@pytest.mark.parametrize(("case", "silent"), [("twice", "near-duplicates"), ("the other label", "near-contradictions")])
def test_what_is_equal_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, silent: str) -> None:
    without_leakage(monkeypatch)
    report = found(check(save(tmp_path / "in.jsonl", CASES[case][0](clean()))))
    assert report[silent].verdict == "pass"


def test_the_negatives_looked_at_are_those_of_the_completions_looked_at() -> None:
    rng = random.Random(1)
    parents = [make_row(f"p{n}", sentence(rng, 9), True, source="s", origin="pair") for n in range(300)]
    negatives = [
        make_row(row.prompt, sentence(rng, 9), False, source="s", origin="synthetic", strategy="base", parent_id=row.id)
        for row in parents
    ]
    leaks = Leaks(most=60)
    for place, row in enumerate([*parents, *negatives]):
        leaks.add(Look(row, place, 0, 0))
    looked_at = {row.id for row in leaks._desirable.kept()}
    assert len(looked_at) == 60
    assert {row.parent_id for row in leaks._negatives["base"].kept()} == looked_at


def test_every_check_is_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "check.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert rows - {"check"} == {name.partition(":")[0] for name in NAMES}


def test_the_same_negative_twice_is_no_trouble(tmp_path: Path) -> None:
    """The rows that leakage looks at are drawn by hash: two that are equal draw the same."""
    row = {"prompt": "p", "completion": "c", "label": False, "strategy": "corrupt"}
    rows = [row, {**row, "origin": "pair"}, {"prompt": "p", "completion": "good", "label": True}]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    result = CliRunner().invoke(main, ["check", str(source)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "leakage" in result.stdout


def test_all_rows_of_a_class_on_one_prompt_are_no_trouble(tmp_path: Path) -> None:
    """Folds go by prompt: without that prompt there is nothing of the class to learn from."""
    good = [{"prompt": "P", "completion": f"good {i}", "label": True} for i in range(300)]
    bad = [{"prompt": f"q{i}", "completion": f"bad {i}", "label": False} for i in range(100)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in good + bad), encoding="utf-8")
    result = CliRunner().invoke(main, ["check", str(source)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "of several prompts" in " ".join(result.stdout.replace("│", " ").split())


def test_texts_without_a_piece_in_common_are_no_trouble(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": chr(0x4E00 + i), "label": i % 2 == 0} for i in range(240)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    result = CliRunner().invoke(main, ["check", str(source)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "AUC of 0.500" in " ".join(result.stdout.replace("│", " ").split())
