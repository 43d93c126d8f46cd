"""`tone` keeps the meaning of casual text and takes its tone away; `emoji` takes only the pictures."""

import random

import pytest

from ktodata.negatives.corruption import lexicon, tone
from ktodata.negatives.corruption.tone import flatten, strip_emoji


def flat(text: str, intensity: float = 1.0, seed: int = 0, **options: str) -> str | None:
    return flatten(text, rng=random.Random(seed), intensity=intensity, **options)


@pytest.mark.parametrize(
    ("casual", "formal"),
    [
        ("yeah sure, gonna be there at 8 lol 😊", "Yes, sure, I am going to be there at 8."),
        ("haha omg that's soooo cool!!! can't wait 🎉🎉", "That is so good. I am looking forward to it."),
        ("I dunno, maybe tmrw? :)", "I do not know, maybe tomorrow?"),
        ("thanks, man!", "Thank you."),
        ("yep gonna do it", "Yes, I am going to do it."),
        ("omg yes!! I can’t wait to see u", "Yes. I am eager to see you."),
        ("kinda tired rn 😴 u wanna hang out tmrw?", "Somewhat tired at present. You want to meet tomorrow?"),
        ("So... I guess we're done here?!?! lmaooo", "So, I guess we are done here?"),
        ("I love 🍕 and coffee!!", "I love and coffee."),
        ("ok", "Okay."),
        # Languages, each recognised by its words.
        (
            "ciao!! ci vediamo stasera 😂 cmq tutto bene?",
            "Buongiorno. Ci vedremo stasera. Comunque, tutto bene?",
        ),
        ("jajaja claro tío, nos vemos mañana!!! ¿vale?", "Ciertamente, nos veremos mañana. ¿De acuerdo?"),
        ("mdr ouais carrément, à plus !! 😘", "Oui, certainement, à bientôt."),
        ("haha klar, bin gleich da!! 🙈", "Gewiss, ich bin gleich da."),
        ("哈哈哈好的！！😂", "好的。"),
    ],
)
def test_casual_becomes_formal(casual: str, formal: str) -> None:
    assert flat(casual) == formal


@pytest.mark.parametrize(
    "text",
    [
        "The committee met on Tuesday.",
        "That man is pretty tall.",
        "Do you know what I mean?",
        "I shall arrive at eight.",
    ],
)
def test_formal_stays(text: str) -> None:
    assert flat(text) is None


@pytest.mark.parametrize("text", ["lol", "haha 😂", "😊", "!!!"])
def test_nothing_is_left_of_some(text: str) -> None:
    assert flat(text) is None


def test_lines_code_and_links_stay() -> None:
    text = "lol check `gonna!!` and https://x.com/lol!!\n\n```\nyeah!!!\n```\n  - gonna\n1. yep"
    assert flat(text) == "Check `gonna!!` and https://x.com/lol.\n\n```\nyeah!!!\n```\n  - Going to\n1. Yes"


def test_intensity_is_a_share() -> None:
    text = " ".join(["yeah, gonna go lol."] * 40)
    half = flat(text, 0.5)
    assert half is not None
    assert 10 < half.count("going to") < 30
    assert 10 < half.count("lol") < 30
    # One casual word among formal ones goes even where chance would leave it.
    assert all(flat("We are gonna leave now.", 0.01, seed) == "We are going to leave now." for seed in range(5))


def test_the_language_can_be_given() -> None:
    assert lexicon.guess("ok") == "en"
    assert flat("ok!", language="it") == "D'accordo."


@pytest.mark.parametrize("code", lexicon.LANGUAGES)
def test_lexicons_are_sound(code: str) -> None:
    words = lexicon.load(code)
    keys = {*words.words, *words.clause}
    assert len(keys) > 60
    for key in keys:
        assert key == key.lower().strip(), key
        assert "’" not in key, key
        assert words.pattern.fullmatch(key), key
    for table in (words.words, words.clause):
        for key, formal in table.items():
            assert key != formal, key
            # A replacement is not itself something to replace: doing it twice changes nothing.
            assert table.get(formal.lower(), formal) == formal or formal.lower() in words.clause, key


def test_emoji_alone_go() -> None:
    rng = random.Random(0)
    assert strip_emoji("hi 😊 there! 👨‍👩‍👧 see you :D 1️⃣", rng=rng, intensity=1) == "hi there! see you"
    assert strip_emoji("no pictures: (8) x=1", rng=rng, intensity=1) is None
    assert strip_emoji("😊", rng=rng, intensity=1) is None
    half = strip_emoji("a 😊 b 😊 c 😊 d 😊", rng=rng, intensity=0.5)
    assert half is not None
    assert half.count("😊") == 2


def test_what_is_looked_for_first_misses_no_laugh_and_no_picture() -> None:
    rng = random.Random(5)
    letters = "haHAejJiulLoOmMfFxXdDbwｗ哈呵嘻ㅋㅎ笑（()) :;=-'’^o*[]|/\\Ppsー3<>_.tTrツ¯😊🏽❤️©®™‼⁉1⃣#♀abc"
    found = 0
    for _ in range(20_000):
        text = "".join(rng.choices(letters, k=rng.randint(2, 9)))
        small = text.lower()
        if tone.LAUGHTER.search(text) or tone._LAUGHED.search(text):
            assert tone._MAY_LAUGH.search(small), text
        if tone._PICTURE.search(text) or tone._THOUGHT_ENDS.search(text):
            found += 1
            assert tone._MAY_PICTURE.search(small), text
    assert found > 1000
