"""`corrupt` on texts of every kind: what it must leave alone, what it must change, and that the seed decides."""

import gzip
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ktodata.negatives.contract import Skip
from ktodata.negatives.corrupt import CORRUPT, OPERATIONS, corrupt
from ktodata.negatives.corruption import augmenters, formal, keyboards, lexicon
from ktodata.negatives.corruption.layout import EMOJI, hide, lay_out, protected_spans, sentences, unhide
from ktodata.schema import make_row, normalise

SHARED = Path(__file__).parents[2] / "shared"
HH = SHARED / "data/hh-rlhf/harmless-base/train.jsonl.gz"
DEFAULTS = {key: option.default for key, option in CORRUPT.options.items()}
MARKDOWN = """  Well, here's how I'd do it (roughly), ok? See https://example.org/a?b=c#d, or mail bob.b@example.com. 😊

1. First you install it with `pip install foo`, then wait.
2. Then you run this:

```python
def f(x):
    return x  # don't touch
```

   - And **that** is "all" there is to it! 🎉
\t- Ciao, see you.
"""
TEXTS = [
    MARKDOWN,
    "yeah sure, gonna be there at 8 lol 😊",
    "\n\nTwo lines here before.\nAnd one more line after, with words.  ",
    "我今天很高兴。你呢？要不要一起去吃饭？我们可以去吃火锅！",
    "今日はとても楽しかったです。また明日会いましょう。",
    "สวัสดีครับ ผมชื่อสมชาย ยินดีที่ได้รู้จัก",
    "مرحبا، كيف حالك اليوم يا صديقي؟ أنا بخير والحمد لله. نلتقي غدا.",
    "שלום עולם, מה שלומך היום? אני בסדר גמור. נתראה מחר.",
    "हिन्दी में बात करते हैं। ठीक है? मुझे यह पसंद है।",
    "안녕하세요, 오늘 기분이 어때요? 저는 아주 좋아요.",
    "I'd say 3.5% of $5.00, i.e. “not much” — but who's counting? [1] (Me.) Not you!",
]


def worse(text: str, *operations: str, seed: int = 0, **options: Any) -> str | Skip:
    row = make_row("q", text, True, source="s", origin="feedback")
    named = {"operations": operations} if operations else {}
    return corrupt(row, pool=None, rng=random.Random(seed), **{**DEFAULTS, **named, **options})


def each_result(intensities: tuple[float, ...] = (0.2, 0.5, 1.0)) -> list[tuple[str, str, str]]:
    """Operation, text and result for all operations on all texts, skips left out."""
    found = []
    for name in OPERATIONS:
        for text in TEXTS:
            for intensity in intensities:
                result = worse(text, name, intensity=intensity)
                if isinstance(result, str):
                    found.append((name, text, result))
    assert {name for name, _, _ in found} == set(OPERATIONS)
    return found


RESULTS = each_result()


def test_never_the_original_nor_nothing() -> None:
    for _, text, result in RESULTS:
        assert normalise(result) != normalise(text)
        assert result.strip()


def test_white_space_at_the_ends_is_verbatim() -> None:
    for _, text, result in RESULTS:
        assert re.match(r"\s*", result)[0] == re.match(r"\s*", text)[0]  # type: ignore[index]
        assert re.search(r"\s*\Z", result)[0] == re.search(r"\s*\Z", text)[0]  # type: ignore[index]


def test_code_and_addresses_are_left_alone() -> None:
    spans = [MARKDOWN[start:stop] for start, stop in protected_spans(MARKDOWN)]
    assert [span.strip()[:9] for span in spans] == ["https://e", "bob.b@exa", "`pip inst", "```python"]
    checked = 0
    for _, text, result in RESULTS:
        for span in spans if text == MARKDOWN else []:
            assert span in result
            checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    "glued",
    [
        "see [the page](https://example.org/a) for more",
        "link:https://example.org/a is it",
        "-https://example.org/a as an item",
        "1.https://example.org/a as an item",
        "well...www.example.org/a is it",
        "call foo(`bar baz`) or so",
        "well`bar baz`well it is",
        "write to:bob.b@example.org then",
        "访问www.example.org/a，谢谢你们的帮助",
        "访问https://example.org/a，谢谢你们的帮助",
        "请看https://example.org/a谢谢你们的帮助",
        "请看example.org/a，谢谢你们的帮助",
    ],
)
def test_what_is_protected_needs_no_space_around_it(glued: str) -> None:
    whole = re.search(r"https://example.org/a|`bar baz`|bob.b@example.org|www.example.org/a|example.org/a", glued)
    assert whole
    for name in OPERATIONS:
        for seed in range(5):
            result = worse(f"First of all, {glued}. And so on.", name, seed=seed, intensity=1.0)
            assert isinstance(result, Skip) or whole[0] in result, (name, result)


def test_protection_can_be_lifted() -> None:
    text = "`alpha beta gamma delta epsilon zeta eta theta`"
    assert isinstance(worse(text, "delete"), Skip)
    assert isinstance(worse(text, "delete", protect=False), str)


def test_lines_indentation_and_emoji_survive() -> None:
    for name, text, result in RESULTS:
        if name == "truncate":
            continue
        assert text.count("\n") == result.count("\n"), (name, text, result)
        if name != "sentences":  # a sentence takes its emoji along
            marks = [re.match(r"[ \t]*(?:- |\d\. )?", line)[0] for line in text.splitlines()]  # type: ignore[index]
            kept = [re.match(r"[ \t]*(?:- |\d\. )?", line)[0] for line in result.splitlines()]  # type: ignore[index]
            assert marks == kept, (name, text, result)
        if name not in ("tone", "formal", "emoji"):
            assert Counter(re.findall(EMOJI, text)) == Counter(re.findall(EMOJI, result)), (name, text, result)


def test_no_stray_spaces_give_it_away() -> None:
    doubled, before_mark = re.compile(r"(?<=\S)  +(?=\S)"), re.compile(r"(?<=\w) +[,.;:!?](?!\S)")
    for name, text, result in RESULTS:
        assert len(doubled.findall(result)) <= len(doubled.findall(text)), (name, result)
        assert name == "split" or len(before_mark.findall(result)) <= len(before_mark.findall(text)), (name, result)


@pytest.mark.parametrize("text", TEXTS)
def test_the_default_works_in_every_language(text: str) -> None:
    result = worse(text)
    assert isinstance(result, str)
    assert len(result) >= 0.3 * len(text)


def test_scripts_without_spaces_get_no_spaces() -> None:
    chinese = TEXTS[3]
    for name in ("delete", "crop", "swap", "repeat", "sentences", "truncate", "char"):
        result = worse(chinese, name)
        assert isinstance(result, str), name
        assert " " not in result, name


@pytest.mark.parametrize("text", ["Yes.", "ok", " Hm! ", "👍", "`code`", "https://example.org"])
def test_too_short_is_said(text: str) -> None:
    assert worse(text) == Skip("too short")


def test_empty_and_unchanged_are_said() -> None:
    assert worse(" \n") == Skip("empty")
    assert worse("The committee met on the third of May.", "emoji") == Skip("nothing that the operations change")


def test_a_change_that_normalising_undoes_is_none() -> None:
    text = "the committee met on the third of May."
    assert OPERATIONS["tone"](text, rng=random.Random(0), intensity=1.0, protect=True) == text.capitalize().replace(
        "may", "May"
    )
    assert worse(text, "tone", intensity=1.0) == Skip("nothing that the operations change")


def test_chat_rows_without_a_reply_are_skipped() -> None:
    row = make_row(
        [{"role": "user", "content": "q"}], [{"role": "tool", "content": "a"}], True, source="", origin="pair"
    )
    assert corrupt(row, pool=None, rng=random.Random(0), **DEFAULTS) == Skip("no assistant message")


def test_several_operations_all_apply() -> None:
    text = "First I went home 😊. Then I slept for a long long time. After that I ate something good."
    result = worse(text, "emoji", "sentences", "keyboard", intensity=0.5)
    assert isinstance(result, str)
    assert "😊" not in result
    assert not result.startswith("First I went home")
    assert Counter(result.split()) != Counter(text.replace(" 😊", "").split())


def test_text_glued_to_an_address_is_not_protected_with_it() -> None:
    text = "请看https://example.org/a谢谢你们的帮助，再见"
    ((start, stop),) = protected_spans(text)
    assert text[start:stop] == "https://example.org/a"
    assert all("谢谢你们的帮助" not in str(worse(text, "delete", seed=seed, intensity=0.9)) for seed in range(5))
    ((start, stop),) = protected_spans("siehe https://de.example.org/wiki/Größe und")
    assert stop - start == len("https://de.example.org/wiki/Größe")


def test_some_of_the_operations_for_each_row() -> None:
    text = "First I went home. Then I slept for a long long time. After that I ate something good."
    names = ("sentences", "keyboard", "emoji", "truncate")
    kinds = Counter()
    for seed in range(60):
        (one,) = [str(worse(text, seed=seed, operations=names, pick=1))]
        moved = Counter(one.split()) == Counter(text.split())
        kinds["sentences" if moved else "truncate" if text.startswith(one) else "keyboard"] += 1
        # One that finds nothing to do (there is no emoji) gives its place to another.
        assert one != text
        two = str(worse(text, seed=seed, operations=("sentences", "keyboard", "emoji"), pick=2))
        assert not two.startswith("First I went home. Then")
        assert Counter(two.split()) != Counter(text.split())
    assert min(kinds[name] for name in ("sentences", "truncate", "keyboard")) > 8


def test_single_operations_may_have_their_own_intensity() -> None:
    text = " ".join(f"word{index}" for index in range(100))
    shares = (("delete", 0.8), ("keyboard", 0.1))
    both = str(worse(text, "delete", "keyboard", intensity=0.01, intensities=shares)).split()
    assert len(both) == 20
    assert sum(not re.fullmatch(r"word\d+", word) for word in both) == 2
    assert len(str(worse(text, "delete", intensity=0.5, intensities=(("keyboard", 1.0),))).split()) == 50


@pytest.mark.parametrize("text", [text for text in TEXTS if len(lay_out(text).words) > 6])
def test_the_default_is_more_than_one_word(text: str) -> None:
    for seed in range(30):
        result = worse(text, seed=seed)
        assert isinstance(result, str)
        old, new = lay_out(text).words, lay_out(result).words
        moved = sum((Counter(old) - Counter(new)).values()) + sum((Counter(new) - Counter(old)).values())
        assert moved >= 2 or sum(a != b for a, b in zip(old, new, strict=False)) >= 2


KEYS = {
    "qwerty": {"q": "was", "a": "qwsz", "m": "njk"},
    "qwertz": {"q": "was", "z": "tghu", "y": "asx", "ö": "lpüä"},
    "azerty": {"a": "zqé", "q": "azsw", "m": "lpù"},
    "italian": {"ò": "lpàè", "è": "pòàì"},
    "spanish": {"ñ": "lp"},
}


@pytest.mark.parametrize("name", KEYS)
def test_keyboards_are_where_the_letters_are(name: str) -> None:
    table = keyboards.neighbours(name)
    for key, beside in KEYS[name].items():
        found = set(table[key]) - {keyboards.unaccented(key)}
        assert found <= set(beside), key
        assert len(found) >= min(2, len(beside)), key
        assert {char.upper() for char in table[key] if char != "ß"} == set(table[key.upper()])


@pytest.mark.parametrize("name", keyboards.LAYOUTS)
def test_every_key_has_others_beside_it(name: str) -> None:
    table = keyboards.neighbours(name)
    assert len(table) > 20
    for key, beside in table.items():
        assert key not in beside
        assert beside, key
        assert all(len(char) == 1 and not char.isdigit() for char in beside)


@pytest.mark.parametrize(
    ("text", "language", "name"),
    [
        ("yeah sure", "en", "qwerty"),
        ("ja klar", "de", "qwertz"),
        ("oui merci", "fr", "azerty"),
        ("sì grazie", "it", "italian"),
        ("sí claro", "es", "spanish"),
        ("hm", "", "qwerty"),
        ("שלום עולם", "", "hebrew"),
        ("привіт світ", "", "ukrainian"),
        ("สวัสดีครับ", "en", "thai"),
    ],
)
def test_the_keyboard_is_the_languages(text: str, language: str, name: str) -> None:
    assert keyboards.layout_of(text, language) == name


def test_typos_are_of_the_keyboard() -> None:
    text = "warum quälst du dich so sehr zwischen zwei zielen" * 3

    def slips(**options: Any) -> set[tuple[str, str]]:
        found = set()
        for seed in range(40):
            result = str(worse(text, "keyboard", seed=seed, intensity=1.0, **options))
            found |= {(a, b) for a, b in zip(text, result, strict=True) if a != b}
        return found

    for options, name in (({}, "qwertz"), ({"language": "fr"}, "azerty"), ({"keyboard": "qwerty"}, "qwerty")):
        table = keyboards.neighbours(name)
        made = slips(**options)
        assert len(made) > 20
        assert all(wrong in table[right] for right, wrong in made), name
    assert ("ä", "a") in slips()


def test_words_put_in_are_the_texts_or_its_languages() -> None:
    text = "Allora, domani andiamo al mare con la bici, poi mangiamo una pizza."
    own = set(re.findall(r"\w+", text.lower()))
    for seed in range(20):
        result = str(worse(text, "insert", seed=seed))
        more = Counter(re.findall(r"[\w'è]+", result.lower())) - Counter(re.findall(r"\w+", text.lower()))
        assert sum(more.values()) >= 2
        assert set(more) <= own | set(lexicon.common_words("it"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("yeah sure, gonna be there at 8 lol 😊 wanna come?", "en"),
        ("dai va bene, ci vediamo stasera 😂 ok?", "it"),
        ("vale tío, nos vemos mañana 😂", "es"),
        ("ouais carrément, on se voit demain 😘", "fr"),
        ("klar, bin gleich da 🙈 was machst du?", "de"),
    ],
)
def test_formal_is_an_office_letter_in_every_language(text: str, code: str) -> None:
    results = {str(worse(text, "formal", seed=seed, intensity=1.0)) for seed in range(20)}
    assert len(results) == 20
    phrases = [phrase for kind in formal.phrases(code).values() for phrase in kind]
    for result in results:
        assert not re.findall(EMOJI, result)
        assert sum(phrase.casefold() in result.casefold() for phrase in phrases) >= 2
    assert worse("Привіт, як справи?", "formal") == Skip("nothing that the operations change")


def test_intensity_is_how_much() -> None:
    text = " ".join(f"word{index}" for index in range(100))
    lengths = [len(str(worse(text, "delete", intensity=share)).split()) for share in (0.1, 0.5, 0.9)]
    assert lengths == [90, 50, 10]  # more than ten words too: nlpaug's own cap is off


def test_deleting_leaves_no_empty_brackets_or_doubled_marks() -> None:
    for seed in range(60):
        result = str(worse('Call them, please (now), or "later"; well, then. Or not? Fine!', "delete", seed=seed))
        assert not re.search(r"\(\s*\)|\"\s*\"|[,;:.!?]\s*[,;:]|\s[,;:.!?]", result), result


def test_known_operations_do_what_they_say() -> None:
    text = "I think the weather tomorrow will probably be rather nice. We could walk to the lake. Bring your camera."
    words = text.split()
    bare = Counter(re.findall(r"\w+", text.lower()))
    results = {name: str(worse(text, name)) for name in OPERATIONS}
    assert not Counter(re.findall(r"\w+", results["delete"].lower())) - bare
    assert not Counter(re.findall(r"\w+", results["crop"].lower())) - bare
    assert Counter(re.findall(r"\w+", results["swap"].lower())) == bare
    assert Counter(results["sentences"].split()) == Counter(words)
    assert results["truncate"] == text[: len(results["truncate"])]
    assert Counter(re.findall(r"\w+", results["repeat"].lower())) > bare
    assert len(results["foreign"]) > len(text)
    assert results["split"].replace(" ", "") == text.replace(" ", "")
    stray = Counter(re.findall(r"\w+", results["insert"].lower())) - bare
    assert sum(stray.values()) >= 2
    for name in ("keyboard", "ocr", "spelling", "char"):
        assert len(results[name].split()) == len(words), name
        assert sum(a != b for a, b in zip(results[name].split(), words, strict=True)) >= 2, name


def test_the_crop_is_one_run() -> None:
    # nlpaug's own crop wraps round the beginning.
    for seed in range(50):
        kept = augmenters.reorder("crop", 12, rng=random.Random(seed), share=0.4)
        gone = sorted(set(range(12)) - set(kept))
        assert gone
        assert gone == list(range(gone[0], gone[-1] + 1))


def test_the_process_generators_are_untouched() -> None:
    import numpy

    random.seed(1)
    numpy.random.seed(1)
    before = random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr, index, call-overload]
    for name in OPERATIONS:
        worse(MARKDOWN, name)
    after = random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr, index, call-overload]
    assert before == after


@pytest.mark.slow
def test_the_seed_decides_in_every_process() -> None:
    # Strings hash differently in each process, and nlpaug builds its lists through sets.
    code = (
        "import sys, random, json; sys.path.insert(0, 'tests'); import test_negatives_corrupt as t; "
        "print(json.dumps([r for r in t.each_result((0.5,))]), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].endswith("False False\n"), "corrupt pulls in torch or transformers"


def test_layouts_weave_back() -> None:
    for text in TEXTS:
        for runs in (False, True):
            layout = lay_out(text, runs=runs)
            assert layout.weave(layout.words) == text
        hidden = hide(text)
        assert hidden is not None
        layout = sentences(hidden[0])
        assert unhide(layout.weave(layout.words), hidden[1]) == text


def test_words_of_each_script() -> None:
    assert lay_out("हिन्दी में बात").words == ["हिन्दी", "में", "बात"]
    assert lay_out("don't—well, **bold** 1️⃣ 👨‍👩‍👧 e-mail").words == ["don't", "well", "bold", "e-mail"]
    assert lay_out("ครับ").words == ["ค", "รั", "บ"]
    assert lay_out("你好，世界", runs=True).words == ["你好", "世界"]


@pytest.mark.skipif(not HH.exists(), reason="no hh-rlhf data beside the repository")
def test_two_seeds_seldom_agree_on_real_replies() -> None:
    texts = []
    with gzip.open(HH, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["chosen"].rpartition("\n\nAssistant:")[2]
            texts += [text] if len(text.split()) >= 8 else []
    alike = sum(worse(text, seed=1) == worse(text, seed=2) for text in texts[:500])
    assert len(texts) > 500
    assert alike <= 0.05 * 500


def test_two_seeds_seldom_agree_on_made_replies() -> None:
    words = re.findall(
        r"\w+", "yeah sure I can bring the pizza tomorrow if you want to watch that movie with us again maybe"
    )
    rng = random.Random(0)
    texts = [" ".join(rng.sample(words, rng.randint(8, 14))) for _ in range(300)]
    assert sum(worse(text, seed=1) == worse(text, seed=2) for text in texts) <= 0.05 * 300


@pytest.mark.parametrize(
    "text", ["a." * 4000, "a" + " " * 6000 + "b c d", "`" * 4000 + " x y", "ha" * 4000 + " x y", "- a\n" * 2000]
)
def test_long_runs_take_no_time(text: str) -> None:
    start = time.process_time()
    for name in OPERATIONS:
        worse(text, name)
    assert time.process_time() - start < 3  # one of them took 10 seconds for one operation
