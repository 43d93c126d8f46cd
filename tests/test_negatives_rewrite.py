"""`paraphrase` by a model: what it is told, in which language, what becomes of its answer, and the choice of by."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from model_server import Body, Stub, serving

from ktodata.cli import main
from ktodata.errors import UsageError
from ktodata.io import read_rows, write_rows
from ktodata.negatives.choose import use
from ktodata.negatives.rewrite import BY_RULES, SLOTS, instructions
from ktodata.schema import Row, make_row

ROOT = Path(__file__).parents[1]
CASUAL = {
    "en": ("are you coming on saturday?", "yeah sure, gonna be there around eight with the drinks"),
    "it": ("vieni alla festa sabato?", "certo che vengo, ci vediamo lì verso le otto con le bibite"),
    "es": ("¿vienes a la fiesta el sábado?", "claro que voy, nos vemos allí a las ocho con las bebidas"),
    "fr": ("tu viens à la fête samedi ?", "bien sûr que je viens, on se voit là-bas vers huit heures"),
    "de": ("kommst du am Samstag zur Party?", "na klar komme ich, wir sehen uns dort gegen acht mit den Getränken"),
}


def row(prompt: str, reply: str, *, chat: bool = True) -> Row:
    if not chat:
        return make_row(prompt, reply, True, source="s", origin="pair")
    asked, said = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": reply}]
    return make_row(asked, said, True, source="s", origin="pair")  # type: ignore[arg-type]


def run(folder: Path, rows: list[Row], stub: Stub, *settings: str) -> Result:
    write_rows(rows, str(folder / "rows.jsonl"))
    given = ["by=model", f"url={stub.url}", "model=tiny", "backoff=0.001", *settings]
    sets = [part for setting in given for part in ("--set", f"paraphrase.{setting}")]
    out = str(folder / "out.jsonl")
    return CliRunner().invoke(
        main, ["negatives", str(folder / "rows.jsonl"), "-o", out, "--only", "--strategy", "paraphrase", *sets]
    )


def made(folder: Path) -> list[Any]:
    return [negative.completion for negative in read_rows(str(folder / "out.jsonl"))]


def test_there_is_an_instruction_for_each_manner_in_five_languages() -> None:
    found = instructions()
    assert set(found) == set(CASUAL)
    texts = [text for table in found.values() for text in table.values()]
    assert len(set(texts)) == 15
    assert all(set(table) == {"longer", "neutral", "professional"} for table in found.values())
    for text in texts:
        assert sorted(re.findall(r"\{(\w+)\}", text)) == sorted(SLOTS)
        assert not re.search(r" {2}|\\", text), "a line break that was not meant"


def test_the_documentation_shows_them() -> None:
    document = (ROOT / "docs" / "negatives-models.md").read_text(encoding="utf-8")
    words = " ".join(document.split())
    for table in instructions().values():
        for text in table.values():
            assert " ".join(text.partition("\n\n")[0].split()) in words


@pytest.mark.parametrize("code", CASUAL)
@pytest.mark.parametrize("manner", ["longer", "neutral", "professional"])
def test_a_model_is_told_in_the_language_of_the_row(code: str, manner: str, tmp_path: Path) -> None:
    prompt, reply = CASUAL[code]
    with serving() as stub:
        result = run(tmp_path, [row(prompt, reply)], stub, f"manner={manner}")
    assert result.exit_code == 0, result.output
    expected = instructions()[code][manner].replace("{prompt}", prompt).replace("{reply}", reply)
    assert [body["messages"] for body in stub.bodies] == [[{"role": "user", "content": expected}]]
    assert stub.bodies[0]["temperature"] == 0.7


def test_an_instruction_of_ones_own(tmp_path: Path) -> None:
    text = "Riformula: {reply} (era la risposta a: {prompt})"
    (tmp_path / "told.txt").write_text(text + "\n", encoding="utf-8")
    rows = [row("q {reply}", "a {prompt} {x}", chat=False), row("日本語?", "はい", chat=False)]
    for setting in (f"instruction={text}", f"instruction_file={tmp_path / 'told.txt'}"):
        with serving() as stub:
            result = run(tmp_path, rows, stub, setting)
        assert result.exit_code == 0, result.output
        assert {body["messages"][0]["content"] for body in stub.bodies} == {
            "Riformula: a {prompt} {x} (era la risposta a: q {reply})",
            "Riformula: はい (era la risposta a: 日本語?)",
        }


def test_what_the_model_says_takes_the_place_of_the_reply(tmp_path: Path) -> None:
    said = {"one": '"Quoted, all of it."', "two": "  Plain.\n", "three": "", "four": "the same HERE"}

    def answer(path: str, body: Body) -> tuple[int, Any]:
        told = body["messages"][0]["content"]
        return 200, {"choices": [{"message": {"content": said[told.split()[0]]}, "finish_reason": "stop"}]}

    rows = [row(f"q{name}", f" {name} here\n", chat=False) for name in ("one", "two", "three")]
    rows.append(row("q4", "four the same here", chat=False))
    said["four"] = "four the same HERE"
    with serving(answer=answer) as stub:
        result = run(tmp_path, rows, stub, "instruction={reply}")
    assert sorted(made(tmp_path)) == [" Plain.\n", " Quoted, all of it.\n"]
    assert "paraphrase: empty reply" in result.stderr.replace("1 paraphrase", "paraphrase")
    assert "equal to a completion that is there" in result.stderr
    card = (tmp_path / "out.jsonl.card.md").read_text(encoding="utf-8")
    assert '"model": "tiny"' in card


def test_languages_without_an_instruction_are_skips(tmp_path: Path) -> None:
    japanese = row("元気ですか、今日は何をしましたか?", "とても元気です、今日は公園に行って本を読みました")
    with serving() as stub:
        result = run(tmp_path, [japanese, row(*CASUAL["en"])], stub)
        assert "no pack for its language" in result.stderr
        assert len(stub.bodies) == 1
        assert run(tmp_path, [japanese], stub, "fallback=en").exit_code == 0
    assert len(stub.bodies) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "x"}, r"paraphrase.model is for a model, and the rules write here. Add --set paraphrase.by=model"),
        ({"instruction": "{reply}"}, "paraphrase.instruction is for a model"),
    ],
)
def test_options_of_a_model_without_one(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        use("paraphrase", **options)
    assert use("paraphrase").strategy is BY_RULES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["instruction=Rewrite this."], "{reply} does not occur"),
        (["instruction=Rewrite {reply} and {this}."], "no slot {this}. There are {prompt} and {reply}"),
        (["instruction={reply}", "instruction_file=FILE"], "Give one of them"),
        (["language=xx"], "paraphrase.language is 'xx'"),
        (["manner=rude"], "paraphrase.manner is 'rude'"),
    ],
)
def test_bad_instructions(settings: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "told.txt").write_text("{reply}", encoding="utf-8")
    with serving() as stub:
        given = [setting.replace("FILE", str(tmp_path / "told.txt")) for setting in settings]
        result = run(tmp_path, [row(*CASUAL["en"])], stub, *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not stub.bodies


def test_a_model_is_needed(tmp_path: Path) -> None:
    write_rows([row(*CASUAL["en"])], str(tmp_path / "rows.jsonl"))
    command = ["negatives", str(tmp_path / "rows.jsonl"), "--strategy", "paraphrase", "--set", "paraphrase.by=model"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "paraphrase.model is not given" in result.stderr
