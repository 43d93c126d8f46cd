"""`template`: our packs are whole, and what is wrong with a user's is one clear error."""

import importlib
import random
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ktodata.errors import UsageError
from ktodata.negatives.choose import use
from ktodata.negatives.contract import Run, Skip
from ktodata.negatives.pack import Grammar, own_pack, read_pack
from ktodata.negatives.registry import STRATEGIES
from ktodata.negatives.synthesize import synthesize
from ktodata.negatives.template import NO_PACK, OWN, TEMPLATE, prepare, template
from ktodata.schema import Row, make_row, plain

ROOT = Path(__file__).parents[1]
FIVE = ("en", "it", "es", "fr", "de")
REPLY = frozenset(("reply",))


def casual_rows(count: int) -> list[Row]:
    """Casual chat rows, half of them English (the quickstart's) and half Italian (the chat-style recipe's)."""
    for folder in ("quickstart", "chat_style"):
        if str(ROOT / "recipes" / folder) not in sys.path:
            sys.path.append(str(ROOT / "recipes" / folder))
    make_data: Any = importlib.import_module("grammar")
    italian: Any = importlib.import_module("italian")
    rows: dict[str, Row] = {}
    pairs = zip(((x.prompt, x.casual) for x in make_data.exchanges(11)), italian.exchanges(11), strict=False)
    for both in pairs:
        for prompt, reply in both:
            said = [{"role": "assistant", "content": reply}]
            row = make_row(prompt, said, True, source="casual", origin="feedback")
            rows[row.id] = row
        if len(rows) >= count:
            return list(rows.values())[:count]
    raise AssertionError


def written(row: Row, **options: Any) -> str | Skip:
    values = {key: option.default for key, option in TEMPLATE.options.items()} | options
    return template(row, pool=prepare(Run([row]), **values), rng=random.Random(0), **values)


def row_of(reply: str, prompt: str = "hey, what are you doing tonight?") -> Row:
    return make_row(prompt, reply, True, source="s", origin="feedback")


def pack_file(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return str(folder / "mine.toml")


def sentences_of(grammar: Grammar, count: int, **slots: str) -> list[str]:
    rng = random.Random(0)
    return [grammar.write(rng, slots) for _ in range(count)]


@pytest.mark.parametrize("name", [*OWN, "longer", "plain", "professional"])
def test_our_packs_have_five_languages_and_use_all_of_their_parts(name: str) -> None:
    pack = own_pack(name, REPLY)
    assert tuple(pack.languages) == FIVE
    for code, grammar in pack.languages.items():
        unused = set(grammar.parts) - grammar.names() - {"prefix"}
        assert not unused, (code, unused)


@pytest.mark.parametrize("name", OWN)
def test_what_our_packs_write_is_whole(name: str) -> None:
    for code, grammar in own_pack(name).languages.items():
        texts = sentences_of(grammar, 1500)
        for text in texts:
            assert not re.search(r"[{}]|  |^\s|\s$|\.\.| [.,]", text), text
            assert text[0] == text[0].upper(), text
            assert text[-1] in ".!?", text
            for after in re.findall(r"[.!?] (?:¿|¡)?(\w)", re.sub(r"\b(n|art|rif|no|z|B)\. ", "", text)):
                assert after.isupper() or after.isdigit(), text
        assert len(set(texts)) > 0.8 * len(texts), code
        # Ten thousand rows do not share twenty sentences.
        parts = {sentence for text in texts for sentence in text.split(". ")}
        assert len(parts) > 700, (code, len(parts))


def test_elisions_and_contractions_are_made() -> None:
    """Combinations whose joints are wrong in each language, whatever the parts say."""
    wrong = {
        "it": r"\b(di il|di lo|di la|di gli|a il|a lo|da il|su il|su la|su l'|di Lei da)\b",
        "fr": r"\b(que|de|le|la|je|ne) [aeéèêiîouyœ]|\b(de le|de les|à le|à les)\b",
        "es": r"\b(de el|a el) |¿[^?]*$",
        "de": r"\b(mit|von|zu|bei|nach|aus) die |\b(für|durch|ohne) (der|dem) ",
        "en": r"\ba [aeio]\w|\ban [bcdfgjklmnpqrstvwxyz]\w",
    }
    for name in OWN:
        for code, grammar in own_pack(name).languages.items():
            for text in sentences_of(grammar, 1500):
                assert not re.search(wrong[code], text), text


def test_the_language_is_the_row_s_or_as_given() -> None:
    italian = row_of("boh non so, magari domani sera se non piove", "che fai stasera?")
    texts = set(sentences_of(own_pack("formal").languages["it"], 20_000))
    assert written(italian, pack=("formal",)) in texts or re.search(r"\b(La|di|il|che)\b", str(written(italian)))
    assert re.search(r"\b(der|die|das|Ihre?n?|ich|wird|ist|es|nicht)\b", str(written(italian, language="de")))
    portuguese = row_of("não sei, talvez amanhã de manhã", "o que você vai fazer?")
    assert written(portuguese) == Skip(NO_PACK)
    assert isinstance(written(portuguese, fallback="es"), str)


def test_white_space_at_the_ends_stays_and_empty_replies_are_skipped() -> None:
    text = str(written(row_of(" yeah sure, see you at eight\n")))
    assert text[0] == " "
    assert text[-1] == "\n"
    assert written(row_of("  \n")) == Skip("empty")
    no_reply = make_row([{"role": "user", "content": "x"}], [], True, source="s", origin="feedback")
    assert written(no_reply) == Skip("no assistant message")


def test_half_of_many_are_distinct_and_their_order_does_not_matter() -> None:
    rows = casual_rows(500)
    done = synthesize(rows, [use("template")], seed=3)
    replies = [plain(row.completion) for row in done.negatives]
    assert len(replies) == len(rows)
    assert len(set(replies)) > 0.9 * len(replies)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert synthesize(shuffled, [use("template")], seed=3).negatives == done.negatives


@pytest.mark.slow
@pytest.mark.parametrize("name", ["template", "contextual", "paraphrase"])
def test_twenty_thousand_casual_rows(name: str) -> None:
    rows = casual_rows(20_000)
    done = synthesize(rows, [use(name)], seed=0)
    few = rows[:1500]
    shuffled = random.Random(1).sample(few, len(few))
    alone = synthesize(few, [use(name)], seed=0).negatives
    assert synthesize(shuffled, [use(name)], seed=0, workers=2).negatives == alone
    replies = [plain(row.completion) for row in done.negatives]
    assert len(replies) >= 0.8 * len(rows)
    assert len(set(replies)) >= 0.5 * len(replies)
    assert not any(set("{}") & set(reply) for reply in replies)


GOOD = '[en]\nshapes = ["{a} {b}"]\n[en.parts]\na = ["hello, {b}."]\nb = ["you", "we all"]\n'


def test_a_pack_of_ones_own(tmp_path: Path) -> None:
    path = pack_file(tmp_path, GOOD)
    assert written(row_of("yeah sure, see you at eight"), pack=(path,)) in {
        f"Hello, {a}. {b}" for a in ("you", "we all") for b in ("You", "We all")
    }
    assert written(row_of("boh non so, magari domani"), pack=(path,)) == Skip(NO_PACK)
    # Ours and one's own together: each row draws from those that have its language.
    assert isinstance(written(row_of("boh non so, magari domani"), pack=("formal", path)), str)


def test_capitals_stand_where_sentences_begin(tmp_path: Path) -> None:
    text = """[es]
shapes = ["{x}, {x}. ¿{x}? ¡{x}! «{x}» {x}: {x}\\n{x} a.b{x} {empty}{x}"]
parts.x = ["ñu"]
parts.empty = [""]
"""
    grammar = read_pack(pack_file(tmp_path, text)).languages["es"]
    assert grammar.write(random.Random(0)) == "Ñu, ñu. ¿Ñu? ¡Ñu! «Ñu» ñu: ñu\nÑu a.bñu ñu"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shapes = 3\n[", "is no TOML file"),
        ("", "has no language"),
        ('shapes = ["x"]', "shapes is no table"),
        ('[english]\nshapes = ["x"]', "no language 'english'"),
        ("[en]\n", r"\[en\] shapes is missing"),
        ("[en]\nshapes = []", r"\[en\] shapes is empty"),
        ('[en]\nshapes = "x"', r"\[en\] shapes is no list"),
        ('[en]\nshapes = ["x", 3]', r"\[en\] shapes, text 2: 3 is no text"),
        ('[en]\nshapes = [" "]', r"\[en\] shapes, text 1"),
        ('[en]\nshape = ["x"]\nshapes = ["x"]', "has a key 'shape'. Did you mean 'shapes'?"),
        ('[en]\nshapes = ["{greting}"]\nparts.greeting = ["x"]', "no part or slot {greting}. Did you mean 'greeting'?"),
        ('[en]\nshapes = ["{x}"]', r"no part or slot {x}. Add parts.x"),
        ('[en]\nshapes = ["{x"]', "A brace itself is written twice"),
        ('[en]\nshapes = ["{{ x }}"]\nparts.x = ["y"]', "Parts have one brace each"),
        ('[en]\nshapes = ["{x.__class__}"]\nparts.x = ["y"]', "Braces hold the name"),
        ('[en]\nshapes = ["{x!r:>9}"]\nparts.x = ["y"]', "Braces hold the name"),
        ('[en]\nshapes = ["{x}"]\nparts.x = ["{y}"]\nparts.y = ["{x}"]', "holds itself: (x > y > x|y > x > y)"),
        ('[en]\nshapes = ["{x}"]\nparts.x = []', "parts.x is empty"),
        ('[en]\nshapes = ["{X}"]\nparts.X = ["y"]', "is no name of a part|Braces hold"),
        ('[en]\nshapes = ["x"]\nparts = 3', "parts is no table"),
        ('[en]\nshapes = ["x {y}"]\nparts.y = ["z"]\nparts.w = ["v"]', "parts.w is in no shape.*or take it out"),
        ('[en]\nshapes = ["x"]\nparts.y = ["{w}"]\nparts.w = ["v"]', "parts.w is in no shape"),
        (f'[en]\nshapes = ["{"x" * 20_001}"]', "shapes can become more than 20000 characters"),
    ],
)
def test_what_is_wrong_with_a_pack_is_one_error(text: str, said: str, tmp_path: Path) -> None:
    path = pack_file(tmp_path, text)
    with pytest.raises(UsageError, match=said) as caught:
        prepare(Run([]), pack=(path,), language="auto", fallback=None)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def nested(deep: int, times: int, leaf: str) -> str:
    parts = [f'p{n} = ["{f"{{p{n + 1}}}" * times}"]' for n in range(deep)]
    return "\n".join(['[en]\nshapes = ["{p0}"]\n[en.parts]', *parts, f'p{deep} = ["{leaf}"]'])


@pytest.mark.parametrize("leaf", ["x", ""])
def test_a_small_pack_cannot_become_a_huge_text(leaf: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[en\] parts.p\d can become more than 20000 characters. Leave parts out"):
        read_pack(pack_file(tmp_path, nested(12, 10, leaf)))
    with pytest.raises(UsageError, match=r"holds parts 101 deep\. At most 100"):
        read_pack(pack_file(tmp_path, nested(3000, 1, leaf)))
    # So many paths through it that they must not be walked one by one.
    wide = [f'p{n}{side} = ["{{p{n + 1}a}}", "{{p{n + 1}b}}"]' for n in range(60) for side in "ab"]
    many = "\n".join(['[en]\nshapes = ["{p0a}{p0b}"]\n[en.parts]', *wide, 'p60a = ["x"]', 'p60b = ["y"]'])
    grammar = read_pack(pack_file(tmp_path, many)).languages["en"]
    assert grammar.write(random.Random(0)).lower() in {"xx", "xy", "yx", "yy"}


def test_braces_of_the_text_itself(tmp_path: Path) -> None:
    text = """[en]\nshapes = ["{a} {{lit}} {{ {{{a}}}"]\nparts.a = ["x"]"""
    assert read_pack(pack_file(tmp_path, text)).languages["en"].write(random.Random(0)) == "X {lit} { {x}"
    with pytest.raises(UsageError) as caught:
        read_pack(pack_file(tmp_path, '[en]\nshapes = ["{{a}} {a}"]\nparts.a = ["x"]'))
    assert "{{a}} would be written with a brace, and a is a part. Parts have one brace each: {a}" in str(caught.value)


def test_packs_and_languages_that_there_are_not() -> None:
    def said(**options: Any) -> str:
        values = {"pack": OWN, "language": "auto", "fallback": None} | options
        with pytest.raises(UsageError) as caught:
            prepare(Run([]), **values)
        return str(caught.value)

    assert "no pack 'frmal'. Did you mean 'formal'?" in said(pack=("frmal",))
    assert "nowhere.toml" in said(pack=("nowhere.toml",))
    assert "template.language is 'xx'" in said(language="xx")
    assert "template.fallback is 'nl'" in said(fallback="nl")


def test_the_documented_pack_and_templates_work(tmp_path: Path) -> None:
    from ktodata.negatives.sandbox import read_templates
    from ktodata.negatives.slots import TEXT_SLOTS, find

    text = (ROOT / "docs" / "templates.md").read_text(encoding="utf-8")
    packs = re.findall(r"^```toml\n(# (\w+\.toml)\n.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert [name for _, name in packs] == ["support.toml", "assistant.toml"]
    for content, name in packs:
        tomllib.loads(content)
        (tmp_path / name).write_text(content, encoding="utf-8")
    pack = read_pack(str(tmp_path / "support.toml"))
    assert len(set(sentences_of(pack.languages["en"], 3000))) > 300
    from ktodata.negatives.contextual import SLOTS

    assert set(read_templates(str(tmp_path / "assistant.toml"), SLOTS)) == {"en", "it"}
    # The table of slots is what they hold.
    prompt, reply = re.findall(r"“([^”]+)”", text.split("| slot | holds |")[1].split("\n")[0])
    found = find(row_of(reply, prompt), reply, language="en")
    table = dict(re.findall(r"^\| `(\w+)` \|.*\| (?:`([^|]*)`)? ?\|$", text, flags=re.MULTILINE))
    assert set(table) == set(SLOTS)
    for name in TEXT_SLOTS:
        assert (found.values[name] if name in found.given else "") == table[name], name
    assert tuple(table["keywords"].split("`, `")) == found.phrases
    assert table["kind"] == found.kind


def test_the_three_are_registered_and_say_what_they_take() -> None:
    for name in ("template", "contextual", "paraphrase"):
        assert {"language", "fallback"} <= set(STRATEGIES[name].options)
        assert not STRATEGIES[name].needs
