"""The language of a row, on chat lines of one to eleven words."""

import pytest

from ktodata.errors import UsageError
from ktodata.negatives.choose import use
from ktodata.negatives.corruption.lexicon import distinct, hits
from ktodata.negatives.corruption.tone import without_laughter
from ktodata.negatives.language import check_code, commonest, detect
from ktodata.negatives.synthesize import synthesize
from ktodata.schema import Message, Row, make_row, plain

FIVE = ("en", "it", "es", "fr", "de")
LINES = {
    "en": [
        "yeah sure, see u at 8",
        "wanna hang out?",
        "idk maybe tomorrow?",
        "nope, i hate mondays",
        "thx a lot",
        "my cat ate the pizza lol",
        "that movie was kinda boring tbh",
        "grab me a coffee pls",
        "haha same here",
    ],
    "it": [
        "sì dai ci sto, a che ora?",
        "ahah no dai",
        "boh non so, magari domani",
        "no, odio il lunedì",
        "grazie mille",
        "il gatto ha mangiato la pizza lol",
        "quel film era un po' noioso",
        "mi porti un caffè?",
        "anch'io ahah",
    ],
    "es": [
        "sí claro, ¿a qué hora?",
        "vale genial",
        "no sé, quizás mañana",
        "no, odio los lunes",
        "muchas gracias",
        "mi gato se comió la pizza lol",
        "esa peli fue un poco aburrida",
        "tráeme un café porfa",
        "yo también jaja",
    ],
    "fr": [
        "ouais carrément, à quelle heure ?",
        "ça me va",
        "chais pas, peut-être demain",
        "non, je déteste le lundi",
        "merci beaucoup",
        "mon chat a mangé la pizza lol",
        "ce film était un peu nul",
        "prends-moi un café stp",
        "moi aussi haha",
    ],
    "de": [
        "ja klar, um wie viel uhr?",
        "hallo",
        "keine ahnung, vllt morgen",
        "nee, ich hasse montage",
        "vielen dank",
        "meine katze hat die pizza gefressen lol",
        "der film war irgendwie langweilig",
        "bring mir nen kaffee mit bitte",
        "ich auch haha",
    ],
}
OTHERS = [
    "não sei, talvez amanhã",
    "mijn kat heeft de pizza opgegeten",
    "mój kot zjadł pizzę",
    "да, конечно, во сколько?",
    "はい、もちろんです",
    "jag vet inte, kanske imorgon",
    "tabii ki, saat kaçta?",
]


def language(reply: str, prompt: str = "", among: tuple[str, ...] = FIVE) -> str:
    return detect(make_row(prompt, reply, True, source="s", origin="feedback"), reply, among)


@pytest.mark.parametrize("code", FIVE)
def test_short_chat_lines_are_placed(code: str) -> None:
    assert [line for line in LINES[code] if language(line) != code] == []


@pytest.mark.parametrize("line", OTHERS)
def test_other_languages_are_none_of_the_five(line: str) -> None:
    assert language(line) == ""


def test_a_reply_that_says_too_little_is_placed_by_its_prompt() -> None:
    for code in FIVE:
        for reply in ("ok", "lol", "😊", "ok cool", "???"):
            assert language(reply, LINES[code][5]) == code, (reply, code)
    assert language("😊👍", "123") == ""


def test_the_reply_decides_where_it_says_enough() -> None:
    assert language(LINES["it"][5], LINES["en"][5]) == "it"
    assert language(OTHERS[1], LINES["en"][5]) == ""


def test_of_a_chat_only_the_last_turn_counts() -> None:
    prompt: list[Message] = [{"role": "user", "content": line} for line in (*LINES["en"], LINES["fr"][5])]
    row = make_row(prompt, [{"role": "assistant", "content": "ok"}], True, source="s", origin="feedback")
    assert detect(row, "ok", FIVE) == "fr"


def test_code_and_links_are_no_words() -> None:
    code = "```python\nfor item in the_list: print('the and of to is')\n```"
    assert language(f"{LINES['it'][4]}\n{code}\nhttps://example.org/the/and/of") == "it"


def test_packs_may_be_in_other_languages() -> None:
    assert language("mijn kat heeft de pizza opgegeten", among=("en", "nl")) == "nl"
    check_code("nl", name="x")
    with pytest.raises(UsageError, match="no language 'xx'"):
        check_code("xx", name="x")


def test_where_the_words_alone_decide_the_classifier_is_not_asked_and_would_say_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ktodata.negatives import language as module

    texts = [" ".join(lines[start : start + 3]) for lines in LINES.values() for start in range(0, 9, 3)]
    decided = [text for text in texts if module._plain(found := distinct(without_laughter(text)), hits(found), FIVE)]
    assert len(decided) >= 3
    with monkeypatch.context() as patched:
        patched.setattr(module, "_identifier", None)
        alone = [language(text) for text in decided]
    monkeypatch.setattr(module, "_plain", lambda *_: False)
    assert [language(text) for text in decided] == alone


def test_words_alone_do_not_decide_where_a_near_relative_could_be_meant() -> None:
    near = "que pena, não tenho tempo para isso agora, mas eu te aviso de amanhã ou no sábado se quiser"
    assert language(near) == ""
    assert language("para mim, se a gente não for, no lo sé", among=("es", "pt")) == "pt"


def rows_in(code: str) -> list[Row]:
    return [make_row(f"{n}?", line, True, source="s", origin="feedback") for n, line in enumerate(LINES[code])]


def test_most_rows_say_what_short_ones_are_in() -> None:
    assert commonest(rows_in("it") + rows_in("de")[:3], FIVE) == "it"
    assert commonest([], FIVE) == "en"
    assert commonest([], ("pt", "nl")) == "pt"
    other = [make_row("?", line, True, source="s", origin="feedback") for line in OTHERS]
    assert commonest(other + rows_in("de")[:2], FIVE) == ""
    for prompt, reply in (("one emoji", "😀"), ("ok?", "ok"), ("123", "😊👍")):
        row = make_row(prompt, reply, True, source="s", origin="feedback")
        assert {code: detect(row, reply, FIVE, code) for code in FIVE} == {code: code for code in FIVE}
    # Not what says enough, nor what is in another script.
    sure = make_row("?", LINES["it"][5], True, source="s", origin="feedback")
    assert detect(sure, LINES["it"][5], FIVE, "en") == "it"
    russian = make_row("да?", "да", True, source="s", origin="feedback")
    assert detect(russian, "да", FIVE, "en") == ""


@pytest.mark.parametrize("name", ["template", "contextual", "paraphrase"])
def test_short_rows_get_the_language_of_the_file(name: str) -> None:
    short = make_row("one emoji", "😀 ok" if name == "paraphrase" else "😀", True, source="s", origin="feedback")
    for code in ("de", "it"):
        rows = [*rows_in(code), short]
        for some in (rows, rows[::-1]):
            made = synthesize(some, [use(name)], seed=5).negatives
            (reply,) = [plain(row.completion) for row in made if row.parent_id == short.id]
            assert language(reply) == code, reply
