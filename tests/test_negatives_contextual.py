"""`contextual`: what slots hold, that none stays open, and that a user's template cannot run, loop or grow."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktodata.errors import UsageError
from ktodata.negatives.choose import use
from ktodata.negatives.contextual import CONTEXTUAL, SLOTS, contextual, prepare
from ktodata.negatives.contract import Run, Skip
from ktodata.negatives.language import detect
from ktodata.negatives.pack import own_pack
from ktodata.negatives.slots import GUARDS, TEXT_SLOTS, Found, find
from ktodata.negatives.synthesize import synthesize
from ktodata.negatives.template import NO_PACK
from ktodata.schema import Row, make_row, plain

FIVE = ("en", "it", "es", "fr", "de")
REPLY = {
    "en": "yeah sure, gonna be there at 8 lol 😊",
    "it": "sì dai, ci sono alle otto ahah 😊",
    "es": "sí claro, estaré allí a las ocho jaja 😊",
    "fr": "ouais bien sûr, je serai là à huit heures haha 😊",
    "de": "ja klar, bin um acht da haha 😊",
}


def row_of(prompt: Any, reply: str) -> Row:
    said: Any = reply if isinstance(prompt, str) else [{"role": "assistant", "content": reply}]
    return make_row(prompt, said, True, source="s", origin="feedback")


def found(prompt: Any, reply: str = "", language: str = "en") -> Found:
    return find(row_of(prompt, reply), reply, language=language)


def written(prompt: Any, reply: str, seed: int = 0, **options: Any) -> str | Skip:
    values = {key: option.default for key, option in CONTEXTUAL.options.items()} | options
    row = row_of(prompt, reply)
    return contextual(row, pool=prepare(Run([row]), **values), rng=random.Random(seed), **values)


def test_an_excerpt_keeps_both_question_marks_or_none() -> None:
    assert found("mi móvil no enciende, ¿alguna idea?", language="es").values["excerpt"].endswith(", ¿alguna idea?")
    assert found("¿qué haces esta noche?", language="es").values["excerpt"] == "qué haces esta noche"


@pytest.mark.parametrize(
    ("language", "prompt", "topic", "kind"),
    [
        ("en", "need someone to carry boxes this weekend, pizza included!", "carry boxes", "statement"),
        ("en", "found a leather jacket for 100 bucks, thoughts?", "leather jacket", "yesno"),
        ("en", "what's so great about the dragon game?", "dragon game", "what"),
        ("en", "i'm done with the Eagles", "Eagles", "statement"),
        ("en", 'have you read "The Old Man and the Sea" yet?', "The Old Man and the Sea", "yesno"),
        ("en", "could you explain photosynthesis to my sister?", "sister", "request"),
        ("it", "il gatto ha mangiato la pizza", "gatto", "statement"),
        ("it", "a che ora parte il treno per Napoli?", "Napoli", "when"),
        ("fr", "on part où en vacances ?", "vacances", "yesno"),
        ("de", "wie geht's deiner oma?", "oma", "how"),
        ("es", "mi ordenador no enciende, ¿alguna idea?", "ordenador", "yesno"),
        ("it", "dove hai comprato quella giacca di pelle?", "giacca di pelle", "where"),
        ("es", "¿por qué no funciona el ordenador nuevo?", "ordenador", "why"),
        ("es", "gracias por la cena de ayer", "cena", "thanks"),
        ("fr", "comment on fait la mousse au chocolat ?", "mousse au chocolat", "how"),
        ("fr", "coucou, t'as vu le match ?", "match", "yesno"),
        ("de", "wann fährt der Zug nach Berlin?", "Zug", "when"),
        ("de", "hallo, wie war die Prüfung gestern?", "Prüfung", "how"),
    ],
)
def test_topics_and_kinds(language: str, prompt: str, topic: str, kind: str) -> None:
    what = found(prompt, language=language)
    assert what.values["topic"] == topic
    assert what.kind == kind


def test_a_german_topic_begins_with_its_noun_and_auxiliaries_are_none() -> None:
    assert found("wann fährt der letzte Bus?", language="de").values["topic"] == "Bus"
    assert found("wann fährt der letzte bus?", language="de").values["topic"] == "letzte bus"
    assert found("my laptop won't start").values["topic"] == "laptop"


def test_times_names_and_details() -> None:
    what = found("is Giulia bringing the tent for the trip on friday?")
    assert what.values == {
        "topic": "Giulia",
        "keyword": "Giulia",
        "detail": "tent",
        "entity": "Giulia",
        "excerpt": "is Giulia bringing the tent for the trip…",
        "time": "on friday",
    }
    assert found("ci vediamo domani sera?", language="it").values["time"] == "domani sera"
    assert found("kommst du am samstag?", language="de").values["time"] == "am samstag"
    assert "time" not in found("that costs 8 euros at least").values


def test_the_last_user_turn_counts_and_code_does_not() -> None:
    chat = [
        {"role": "user", "content": "tell me about the whales"},
        {"role": "assistant", "content": "whales are big"},
        {"role": "user", "content": "and the ```the sharks = 3``` seals? https://example.org/the/shark"},
    ]
    assert found(chat).values["topic"] == "seals"
    assert found("\n\nHuman: the whales\n\nAssistant: no\n\nHuman: what about the seals?\n\nAssistant:").values[
        "topic"
    ] == ("seals")


def test_the_conclusion_is_a_sentence_of_the_reply_made_formal() -> None:
    what = found("x", "really? yeah i'm gonna be there lol. `x = 1` is code.")
    assert what.values["conclusion"] == "Yes, I am going to be there"
    assert "conclusion" not in found("x", "really?").given
    assert "conclusion" not in found("x", "```\nonly code here\n```").given


@pytest.mark.parametrize("code", FIVE)
def test_no_slot_is_ever_open_and_all_fillings_are_whole(code: str) -> None:
    grammar = own_pack("contextual", frozenset(TEXT_SLOTS) | GUARDS).languages[code]
    assert not set(grammar.parts) - grammar.names()
    rng = random.Random(0)
    names = sorted(TEXT_SLOTS)
    for _ in range(150):
        slots = {name: f"<{name}>" for name in rng.sample(names, rng.randint(1, len(names)))}
        kind = rng.choice(sorted(GUARDS - {"is_question"}))
        usable = grammar.within({*slots, kind})
        if usable is None:
            assert not {"topic", "excerpt"} & set(slots)
            continue
        for _ in range(10):
            text = usable.write(rng, slots)
            assert not re.search(r"[{}]|  | [.,]|\.\.", text), text
            assert set(re.findall(r"<(\w+)>", text)) <= set(slots), text


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(FIVE), st.integers(0, 99))
def test_any_text_gives_a_reply_or_a_reason(prompt: str, reply: str, code: str, seed: int) -> None:
    text = written(prompt, reply, seed=seed, language=code)
    assert isinstance(text, Skip) or (text.strip() and not re.search(r"\{\s*\w+\s*\}", text))


def test_prompts_cannot_smuggle_in_a_slot_or_markup() -> None:
    for seed in range(30):
        text = written("what is {topic} or {{ topic }} about **the `x` <b>?", "no idea what that is", seed=seed)
        assert not re.search(r"[{}<>*`]", str(text)), text


@pytest.mark.parametrize("code", FIVE)
def test_replies_are_in_the_language_of_the_row_and_differ(code: str) -> None:
    prompts = {"en": "garden party", "it": "festa in giardino", "es": "fiesta del jardín", "fr": "fête", "de": "Feier"}
    texts = {written(f"{prompts[code]}?", REPLY[code], seed=seed) for seed in range(60)}
    assert len(texts) > 50
    own = [text for text in map(str, texts) if detect(row_of("", text), text, FIVE) == code]
    assert len(own) > 0.9 * len(texts), texts - set(own)


def test_order_does_not_matter_and_other_languages_are_skipped() -> None:
    rows = [row_of(f"are you coming to party number {n} on saturday?", f"{REPLY['en']} {n}") for n in range(60)]
    done = synthesize(rows, [use("contextual")], seed=1)
    assert len(done.negatives) == 60
    assert synthesize(rows[::-1], [use("contextual")], seed=1).negatives == done.negatives
    assert len({plain(row.completion) for row in done.negatives}) > 50
    assert written("o que você vai fazer?", "não sei, talvez amanhã de manhã") == Skip(NO_PACK)
    assert written("o que?", "não sei, talvez amanhã de manhã", fallback="en") != Skip(NO_PACK)
    assert written("😊", "👍👍", language="en") == Skip("nothing in it fills a template")


def templates(folder: Path, *texts: str) -> str:
    listed = ", ".join(json.dumps(text) for text in texts)
    (folder / "mine.toml").write_text(f"[en]\ntemplates = [{listed}]\n", encoding="utf-8")
    return str(folder / "mine.toml")


def test_templates_of_ones_own(tmp_path: Path) -> None:
    def once(*texts: str) -> str | Skip:
        return written("what about the red car?", "i like it a lot", templates=templates(tmp_path, *texts))

    assert once("Re {{ topic }}: {{ conclusion }}.") == "Re red car: I like it considerably."
    assert once("{% if kind == 'what' %}Q{% else %}S{% endif %} {{ keyword | upper ~ '!' }}") == "Q RED!"
    assert once("{{ keywords | join(', ') }}\n\n {{ quote | default('none') }}") == "red car none"
    # Of several only those that can be filled are chosen.
    assert once("At {{ time }}", "About {{ quote }}", "Ok, {{ topic }}") == "Ok, red car"
    assert once("At {{ time }}", "About {{ quote }}") == Skip("nothing in it fills a template")
    assert once("{{ quote if quote is defined else topic }}") == "red car"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ topik }}", "no slot 'topik'. Did you mean 'topic'?"),
        ("{{ 'a' * 10**9 }}", "may not"),
        ("{% for i in range(10**9) %}x{% endfor %}", "no slot 'range'|may not"),
        ("{% for k in keywords %}{{ k }}{% endfor %}", "may not|no slot"),
        ("{{ 10**10**10 }}", "may not"),
        ("{{ topic.__class__.__mro__ }}", "may not"),
        ("{{ ''['__class__'] }}", "may not"),
        ("{{ topic[0] }}", "may not"),
        ("{{ lipsum() }}", "may not|no slot"),
        ("{{ self.__init__ }}", "may not|no slot"),
        ("{% set x = topic ~ topic %}{{ x ~ x }}", "may not|no slot"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "may not|no slot"),
        ("{% include '/etc/passwd' %}", "may not"),
        ("{% import 'os' as os %}", "may not|no slot"),
        ("{% call topic() %}{% endcall %}", "may not"),
        ("{% filter upper %}x{% endfilter %}", "may not"),
        ("{{ 'a' | center(1000000000) }}", "no filter 'center'"),
        ("{{ topic | attr('__class__') }}", "no filter 'attr'"),
        ("{{ topic | replace('', topic) }}", "no filter 'replace'"),
        ("{{ topic | join(topic) }}", "join is for lists"),
        ("{{ keywords | first(1, 2, 3) }}", "given what it cannot take"),
        ("{{ topic is sameas(topic) }}", "no test 'sameas'"),
        ("{{ topic", "is no template"),
        ("{% nonsense %}", "is no template"),
        ("{topic} it is", "would be written as it is"),
        ("{% raw %}{{ topic }}{% endraw %}", "would be written as it is"),
        ("{{ " + "(" * 5000 + "topic" + ")" * 5000 + " }}", "nested too deeply|is no template"),
        ("{{ topic }}" * 3000, "characters"),
        ("", "is no text"),
    ],
)
def test_what_a_template_may_not_hold_is_one_error_at_once(text: str, said: str, tmp_path: Path) -> None:
    path = templates(tmp_path, "fine", text)
    start = time.process_time()
    with pytest.raises(UsageError, match=said) as caught:
        prepare(Run([]), templates=path, language="auto", fallback=None)
    assert time.process_time() - start < 20  # not hours; says nothing of speed
    assert f"{path}: [en] templates, text 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("templates = []", "has to hold `templates`"),
        ("[en]\ntemplates = []", "has to hold `templates`"),
        ('[en]\ntemplates = "x"', "has to hold `templates`"),
        ('[en]\ntemplates = ["x"]\nshapes = ["y"]', "and nothing else"),
        ('[xx]\ntemplates = ["x"]', "no language 'xx'"),
        ("", "has no language"),
        ("[en", "is no TOML file"),
    ],
)
def test_what_is_wrong_with_a_file_of_templates_is_one_error(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        prepare(Run([]), templates=str(path), language="auto", fallback=None)
    assert str(path) in str(caught.value)


def test_every_slot_is_in_the_list_that_errors_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(Run([]), templates=templates(tmp_path, "{{ zzz }}"), language="auto", fallback=None)
    assert all(name in str(caught.value) for name in SLOTS)


@pytest.mark.parametrize("text", ["{% if keywords >= 3 %}a{% endif %}b", "{{ keywords | join(by='x') }}"])
def test_no_words_of_python_reach_the_user(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a filter or comparison is given what it cannot take") as caught:
        prepare(Run([]), templates=templates(tmp_path, text), language="auto", fallback=None)
    assert "instances" not in str(caught.value)
    assert "_join" not in str(caught.value)
    with pytest.raises(UsageError, match="join is for lists"):
        prepare(Run([]), templates=templates(tmp_path, "{{ topic | join }}"), language="auto", fallback=None)
