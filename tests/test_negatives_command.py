"""`ktodata negatives` and `ktodata strategies` from the command line."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ktodata.cli import main
from ktodata.io import read_rows, write_rows
from ktodata.negatives.contract import Option, Strategy
from ktodata.negatives.corruption.lexicon import guess
from ktodata.negatives.registry import STRATEGIES
from ktodata.schema import Row, make_row, plain

CASUAL = [
    "yeah sure, gonna be there at 8 lol 😊",
    "haha no way!! that's soooo cool",
    "idk tbh, maybe we could just grab some pizza tmrw?",
    "ok see you then, can't wait to hear all about it :)",
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    rows = [
        make_row(f"Prompt {i}", f" {text}\n", True, source="s", origin="feedback") for i, text in enumerate(CASUAL * 5)
    ]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    return str(tmp_path / "rows.jsonl")


def run(*args: Any, **more: Any) -> Result:
    return CliRunner().invoke(main, ["negatives", *map(str, args)], **more)


def rows_in(path: Path) -> list[Row]:
    return read_rows(str(path))


def test_it_adds_negatives(source: str, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out.parquet", "--strategy", "corrupt", "--per-row", 2)
    assert result.exit_code == 0, result.output
    rows = rows_in(tmp_path / "out.parquet")
    assert len(rows) == 60
    assert sum(row.label for row in rows) == 20
    assert {row.id for row in rows_in(Path(source))} == {row.id for row in rows if row.label}
    assert result.stdout == ""
    assert "read    20 rows (20 desirable)" in result.stderr
    assert "written 60 rows to" in result.stderr
    assert "made    40 by corrupt" in result.stderr


@pytest.mark.parametrize(
    ("strategies", "only"),
    [
        pytest.param(["corrupt"], False, marks=pytest.mark.slow),
        pytest.param(["corrupt", "contaminate"], False, marks=pytest.mark.slow),
        (["corrupt=0.5", "contaminate=0.5"], False),
        pytest.param(["corrupt=0.5", "contaminate=0.5"], True, marks=pytest.mark.slow),
    ],
)
def test_rows_that_are_there_already_are_left_out_and_counted(
    strategies: list[str], only: bool, tmp_path: Path
) -> None:
    """Before negatives are made of them: so the output is that of the file without them, byte for byte."""
    source = tmp_path / "rows.jsonl"
    texts = [" ".join(f"{word}{n}" for word in ("we", "go", "home", "by", "train", "today")) for n in range(20)]
    write_rows([make_row(f"p{n}", text, True, source="s", origin="pair") for n, text in enumerate(texts)], str(source))
    lines = source.read_text(encoding="utf-8").splitlines()
    copies = [json.dumps({**json.loads(line), "source": "z"}) for line in [*lines[:7], lines[0]]]
    doubled, turned = tmp_path / "doubled.jsonl", tmp_path / "turned.jsonl"
    doubled.write_text("\n".join([*lines, *copies]), encoding="utf-8")
    turned.write_text("\n".join([*copies, *lines][::-1]), encoding="utf-8")
    once, again, bad = (tmp_path / name for name in ("once.jsonl", "again.jsonl", "q.jsonl"))
    wanted = ["--per-row", 2, *(["--only"] if only else [])]
    for strategy in strategies:
        wanted += ["--strategy", strategy]
    assert run(source, "-o", once, *wanted).exit_code == 0
    for some in ([doubled], [turned, "--workers", 2]):
        result = run(*some, "-o", again, *wanted, "--quarantine", bad)
        assert result.exit_code == 0, result.output
        assert again.read_bytes() == once.read_bytes()
        assert "read    28 rows (28 desirable)" in result.stderr
        assert "8 duplicate" in result.stderr
        told = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
        assert [line["where"] for line in told if line["reason"] == "duplicate"] == ["z"] * 8
        card = card_of(again)
        assert card["skipped"] == {"duplicate": 8, "unreadable": 0}
        assert card["strategies"] == card_of(once)["strategies"]
        assert all(entry["made"] for entry in card["strategies"].values())
        prose = Path(f"{again}.card.md").read_text(encoding="utf-8")
        assert "for each of 20 desirable rows" in prose
        assert "28 rows were read; skipped 8: 8 duplicate." in prose


def test_only_the_negatives_of_formal_tone(source: str, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "out.jsonl"
    settings = ["--set", "corrupt.operations=tone", "--set", "corrupt.intensity=1"]
    result = run(source, "-o", out, "--strategy", "corrupt", *settings, "--only")
    assert result.exit_code == 0, result.output
    completions = {plain(row.completion) for row in rows_in(out)}
    assert " Yes, sure, I am going to be there at 8.\n" in completions
    assert len(completions) == 4
    assert not any(row.label for row in rows_in(out))


def test_pipes(source: str) -> None:
    text = Path(source).read_text(encoding="utf-8")
    result = run("--strategy", "corrupt", "--only", input=text)
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 20
    assert {record["strategy"] for record in records} == {"corrupt"}


def test_workers_and_input_order_give_the_same_bytes(source: str, tmp_path: Path) -> None:
    outs = [tmp_path / f"{name}.jsonl" for name in ("one", "two", "turned", "seed")]
    lines = Path(source).read_text(encoding="utf-8").splitlines(keepends=True)
    turned = tmp_path / "turned-in.jsonl"
    turned.write_text("".join(lines[::-1]), encoding="utf-8")
    for out, args in zip(outs, ([source], [source, "--workers", 2], [turned], [source, "--seed", 1]), strict=True):
        assert run(*args, "-o", out, "--strategy", "corrupt").exit_code == 0
    one, two, other_order, other_seed = (out.read_bytes() for out in outs)
    assert one == two
    assert one == other_order
    assert one != other_seed
    # The seed decides the order of the rows too.
    first, last = ([row.id for row in rows_in(out) if row.label] for out in (outs[0], outs[3]))
    assert first != last
    assert sorted(first) == sorted(last)


def test_skips_are_told(tmp_path: Path) -> None:
    rows = [
        make_row(f"p{i}", text, True, source="s", origin="pair")
        for i, text in enumerate(["ok", "no", " ", "we go home"])
    ]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    result = run(tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt")
    assert result.exit_code == 0
    assert "skipped 3: 2 corrupt: too short, 1 corrupt: empty" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--strategy", "corupt"], 2, "error: no strategy 'corupt'. Did you mean 'corrupt'? Known: "),
        ([], 2, "error: no strategy. Name one: --strategy "),
        (["--strategy", "corrupt", "--set", "corrupt.intensty=1"], 2, "Did you mean 'intensity'?"),
        (["--strategy", "corrupt", "--set", "corrupt.intensity=7"], 2, "It must be a number in (0, 1]"),
        (["--strategy", "corrupt", "--per-row", "0"], 2, "--per-row"),
        (["--strategy", "corrupt", "-o", "out.xyz"], 2, "unknown suffix '.xyz'"),
    ],
)
def test_usage_errors(source: str, tmp_path: Path, args: list[str], code: int, says: str) -> None:
    result = run(source, *(args if "-o" in args else ["-o", tmp_path / "out.jsonl", *args]))
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prompt": "p", "completion": "c", "label": "true"}\n', "label is str 'true', not true or false"),
        ('{"prompt": "p", "completion": "c", "label": false}\n', "none of 1 rows is desirable"),
        ("", "empty"),
    ],
)
def test_data_errors(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content, encoding="utf-8")
    (tmp_path / "out.jsonl").write_text("before", encoding="utf-8")
    result = run(tmp_path / "bad.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt")
    assert result.exit_code == 1
    assert says in result.stderr
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "before"


def test_strategies_are_listed() -> None:
    result = CliRunner().invoke(main, ["strategies"])
    assert result.exit_code == 0
    for name, strategy in STRATEGIES.items():
        assert f"{name}: {strategy.summary}" in result.stdout
        for key, option in strategy.options.items():
            assert f"--set {name}.{key}=" in result.stdout
            assert option.help in result.stdout
            assert option.allowed() in result.stdout
    listed = json.loads(CliRunner().invoke(main, ["strategies", "--json"]).stdout)
    assert listed["corrupt"]["options"]["intensity"]["default"] == STRATEGIES["corrupt"].options["intensity"].default


def test_help_has_an_example() -> None:
    for name in ("negatives", "strategies", "balance"):
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert f"ktodata {name}" in result.stdout.split("Examples:")[1]


def test_no_torch_in_a_real_process(source: str, tmp_path: Path) -> None:
    code = (
        "import sys; from ktodata.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print([n for n in ('torch', 'transformers', 'datasets') if n in sys.modules])"
    )
    out = tmp_path / "out.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, "negatives", source, "-o", str(out), "--strategy", "corrupt", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert len(rows_in(out)) == 40


def test_try_shows_what_each_does_and_writes_nothing(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    trial = ["--try", "are you coming?", "yeah sure, gonna be there at 9 lol"]
    result = run(*trial)
    assert result.exit_code == 0, result.output
    shown = result.stdout.splitlines()
    assert [line.split()[0] for line in shown[:2]] == ["prompt", "reply"]
    names = [line.split()[0] for line in shown[2:] if not line.startswith(" ")]
    assert names == [name for name, one in STRATEGIES.items() if not one.needs]
    assert not any("(none" in line for line in shown)
    assert shown[1 + next(n for n, line in enumerate(shown) if line.startswith("contaminate"))] == (
        " " * 13 + "(lent from the built-in examples)"
    )
    pool = [make_row(f"q{n}", text, True, source="s", origin="pair") for n, text in enumerate(CASUAL)]
    write_rows(pool, str(tmp_path / "pool.jsonl"))
    before = sorted(tmp_path.iterdir())
    result = run(tmp_path / "pool.jsonl", *trial, "--strategy", "contaminate", "--per-row", 2, "--seed", 3)
    *lent, pool = [line.partition(" ")[2].strip() for line in result.stdout.splitlines()[2:]]
    assert pool == f"(lent from {tmp_path / 'pool.jsonl'})"
    assert len(lent) == 2
    assert set(lent) <= {text.strip() for text in CASUAL}
    result = run(*trial, "--strategy", "corrupt", "--set", "corrupt.operations=tone", "--set", "corrupt.intensity=1")
    assert result.stdout.splitlines()[2] == "corrupt      Yes, sure, I am going to be there at 9."
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "reply",
    [
        "allora ci vediamo domani, porto io la pizza",
        "vale, nos vemos mañana en la playa con los niños",
        "je viens demain avec le gâteau, c'est promis",
        "ich bring morgen den kuchen mit, und was machst du?",
    ],
)
def test_try_lends_in_the_language_of_the_reply(reply: str) -> None:
    result = run("--try", "?", reply, "--strategy", "contaminate")
    assert "(lent from the built-in examples)" in result.stdout
    lent = result.stdout.splitlines()[2].partition(" ")[2].strip()
    assert guess(lent) == guess(reply)


def test_try_lends_nothing_to_a_language_that_no_example_is_in() -> None:
    result = run("--try", "?", "你好吗", "--strategy", "contaminate")
    assert result.stdout.splitlines()[2] == "contaminate  (none: no reply of another prompt in its language)"


def test_try_indents_lines_and_takes_chats(tmp_path: Path) -> None:
    chat = make_row(
        [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}], True, source="s", origin="pair"
    )
    write_rows([chat], str(tmp_path / "chat.jsonl"))
    result = run(tmp_path / "chat.jsonl", "--try", "p", "one two\nthree four", "--strategy", "corrupt=1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:3] == ["reply        one two", " " * 13 + "three four"]
    assert run("--try", "only one").exit_code == 2
    assert "no strategy 'zzz'" in run("--try", "p", "r", "--strategy", "zzz").stderr


def card_of(out: Path) -> dict[str, Any]:
    text = Path(f"{out}.card.md").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.partition("```json\n")[2].partition("\n```")[0])
    return found


def test_the_card_tells_how_it_was_made(source: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    mix = ["--strategy", "corrupt=0.75 contaminate=0.25", "--set", "corrupt.intensity=0.5"]
    result = run(source, "-o", out, *mix, "--seed", 7, "--per-row", 2)
    assert result.exit_code == 0, result.output
    assert f"card    {out}.card.md" in result.stderr
    card = card_of(out)
    assert (card["seed"], card["per_row"], card["rows_read"]) == (7, 2, 20)
    assert card["rows"] == len(rows_in(out))
    corrupt, contaminate = card["strategies"]["corrupt"], card["strategies"]["contaminate"]
    assert corrupt["options"]["intensity"] == 0.5
    assert corrupt["weight"] == 0.75
    assert contaminate["options"]["mask"] is True
    made = [row.strategy for row in rows_in(out)]
    assert (corrupt["made"], contaminate["made"]) == (made.count("corrupt"), made.count("contaminate"))
    assert corrupt["made"] + contaminate["made"] + sum(contaminate["skipped"].values()) == 40
    first = Path(f"{out}.card.md").read_bytes()
    assert run(source, "-o", out, *mix, "--seed", 7, "--per-row", 2, "--workers", 2).exit_code == 0
    assert Path(f"{out}.card.md").read_bytes() == first


def test_no_card_for_stdout_and_no_secrets_in_one(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert run(source, "-o", "-", "--strategy", "corrupt").exit_code == 0
    assert set(tmp_path.iterdir()) == before

    def shout(row: Row, /, *, pool: Any, rng: Any, **options: str) -> str:
        return f"{plain(row.completion)} {rng.random()}"

    options = {
        "url": Option(kind="text", default="https://me:pw@host.org/v1?key=abc#x", help="Where."),
        "key": Option(kind="text", default="sk-secret", secret=True, help="A key."),
    }
    strategy = Strategy(name="shout", summary="Louder.", one=shout, options=options, facts=lambda pool: {"model": "m7"})
    monkeypatch.setitem(STRATEGIES, "shout", strategy)
    result = run(source, "-o", tmp_path / "out.jsonl", "--strategy", "shout", "--set", "shout.key=sk-other")
    assert result.exit_code == 0, result.output
    entry = card_of(tmp_path / "out.jsonl")["strategies"]["shout"]
    assert entry["options"] == {"url": "https://host.org/v1"}
    assert entry["facts"] == {"model": "m7"}
    assert "| m7 |" in (tmp_path / "out.jsonl.card.md").read_text(encoding="utf-8")


def test_leakage_is_told(source: str, tmp_path: Path) -> None:
    result = run(source, "-o", tmp_path / "out.jsonl", "--strategy", "corrupt")
    assert "leakage corrupt: too few rows to say (20)" in result.stderr
    assert card_of(tmp_path / "out.jsonl")["strategies"]["corrupt"]["leakage"] is None
    result = run(source, "-o", tmp_path / "out.jsonl", "--strategy", "corrupt", "--no-leakage")
    assert "leakage corrupt" not in result.stderr
    words = [f"word{n}" for n in range(30)]
    rows = [
        make_row(f"p{n}", " ".join(words[n % 7 : n % 7 + 12]) + f" {n}", True, source="s", origin="pair")
        for n in range(60)
    ]
    write_rows(rows, str(tmp_path / "more.jsonl"))
    settings = ["--set", "corrupt.operations=ocr", "--set", "corrupt.intensity=1"]
    result = run(tmp_path / "more.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt", *settings)
    assert "over .95, they give themselves away" in result.stderr
    assert card_of(tmp_path / "out.jsonl")["strategies"]["corrupt"]["leakage"] > 0.95


def test_quarantine_limit_and_split(tmp_path: Path) -> None:
    good = [json.dumps({"prompt": f"p{n}", "completion": "we all go home now", "label": True}) for n in range(3)]
    short = json.dumps({"prompt": "q", "completion": "ok", "label": True})
    (tmp_path / "train.jsonl").write_text("\n".join([*good, short, "{"]), encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text(good[0], encoding="utf-8")
    out, bad = tmp_path / "made" / "out.jsonl", tmp_path / "made" / "bad.jsonl"
    result = run(tmp_path / "train.jsonl", "-o", out, "--strategy", "corrupt", "--quarantine", bad)
    assert result.exit_code == 0, result.output
    assert "skipped 2: 1 corrupt: too short, 1 unreadable (most often: " in result.stderr
    kept = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
    assert [line["reason"] for line in kept][1:] == ["corrupt: too short"]
    assert kept[1]["record"]["prompt"] == "q"
    assert run(tmp_path / "train.jsonl", "-o", out, "--strategy", "corrupt").exit_code == 1
    assert run(tmp_path / "train.jsonl", "-o", out, "--strategy", "corrupt", "--limit", 2).exit_code == 0
    assert len(rows_in(out)) == 4
    assert run(tmp_path / "data", "-o", out, "--strategy", "corrupt", "--split", "test").exit_code == 0
    assert len(rows_in(out)) == 2
    for name in ("", "-", out, tmp_path / "train.jsonl"):
        refused = run(tmp_path / "train.jsonl", "-o", out, "--strategy", "corrupt", "--quarantine", name)
        assert refused.exit_code == 2, name
    (tmp_path / "worse.jsonl").write_text("{\n[", encoding="utf-8")
    result = run(tmp_path / "worse.jsonl", "-o", out, "--strategy", "corrupt", "--quarantine", bad)
    assert result.exit_code == 1
    assert "2 records read, all unreadable" in result.stderr


def test_examples_are_what_the_strategies_do() -> None:
    listed = json.loads(CliRunner().invoke(main, ["strategies", "--json"]).stdout)
    shown = CliRunner().invoke(main, ["strategies"]).stdout
    for name, strategy in STRATEGIES.items():
        assert listed[name]["example"], name
        assert f"example: {listed[name]['example']}" in shown
        assert not strategy.needs or f"needs:   {strategy.needs}" in shown


def test_the_card_names_what_is_in_a_user_s_files(source: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    pack, own = tmp_path / "pack.toml", tmp_path / "own.toml"
    pack.write_text('[en]\nshapes = ["a {b}"]\n[en.parts]\nb = ["one", "two", "three", "four", "five"]', "utf-8")
    own.write_text('[en]\ntemplates = ["about {{ excerpt }}"]', "utf-8")

    def facts() -> dict[str, Any]:
        wanted = ["--strategy", "template", "--strategy", "contextual", "--set", f"template.pack=formal,{pack}"]
        result = run(source, "-o", out, *wanted, "--set", f"contextual.templates={own}", "--no-leakage")
        assert result.exit_code == 0, result.output
        return {name: entry["facts"] for name, entry in card_of(out)["strategies"].items()}

    first = facts()
    assert first["template"]["packs_sha256"] == {str(pack): hashlib.sha256(pack.read_bytes()).hexdigest()}
    assert first["contextual"]["templates_sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    own.write_text('[en]\ntemplates = ["on {{ excerpt }}"]', "utf-8")
    assert facts()["contextual"] != first["contextual"]


@pytest.mark.parametrize("option", [["-o", "out.jsonl"], ["--quarantine", "bad.jsonl"], ["--only"]])
def test_try_refuses_what_would_do_nothing(option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--try", "p", "we all go home now", "--strategy", "corrupt", *option)
    assert result.exit_code == 2
    assert "has no effect with --try, which writes nothing" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_empty_desirable_rows_are_told(tmp_path: Path) -> None:
    texts = ["we all go home now", "", " "]
    rows = [make_row(f"p{n}", text, True, source="s", origin="pair") for n, text in enumerate(texts)]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    wanted = [tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt"]
    assert "warning: 2 of the desirable rows are empty and stay in the output; `ktodata check`" in run(*wanted).stderr
    assert "empty and stay" not in run(*wanted, "--only").stderr


def test_quarantine_says_what_it_holds() -> None:
    said = " ".join(run("--help").stdout.split())
    assert "each row once for every negative that could not be made of it" in said


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    said = [{"role": "assistant", "content": "we all go home now"}]
    chat = json.dumps({"prompt": [{"role": "user", "content": "p"}], "completion": said, "label": True})
    text = json.dumps({"prompt": "p", "completion": "we all go home now", "label": True})
    (tmp_path / "both.jsonl").write_text(f"{text}\n{chat}\n", encoding="utf-8")
    result = run(tmp_path / "both.jsonl", "-o", tmp_path / "out.jsonl", "--strategy", "corrupt")
    assert "one kind only; `ktodata unpair FILE --quarantine BAD` sets the others aside" in result.stderr
    (tmp_path / "pack.toml").write_text('[en]\nshapes = ["{zzz} {a}"]\nparts.a = ["x"]', encoding="utf-8")
    result = run("--try", "p", "r", "--strategy", "template", "--set", f"template.pack={tmp_path / 'pack.toml'}")
    assert result.stderr.count("Known: a") == 1
