"""`--strategy` and `--set`: what they may say, and what the errors say."""

from typing import Any

import pytest

from ktodata.errors import UsageError
from ktodata.negatives.choose import parse_uses, use
from ktodata.negatives.contract import Option, Strategy
from ktodata.negatives.registry import STRATEGIES

KNOWN = {
    "corrupt": STRATEGIES["corrupt"],
    "other": Strategy(
        name="other",
        summary="Something else.",
        one=lambda row, **_: "x",
        options={
            "count": Option(kind="int", default=3, low=1, help="How many."),
            "share": Option(kind="float", default=0.5, low=0, high=1, help="How much."),
            "model": Option(kind="text", default="", help="Which."),
            "names": Option(kind="list", default=("x",), help="Any."),
            "most": Option(kind="int", default=None, optional=True, low=1, help="At most."),
            "shares": Option(kind="table", default=(), choices=("a", "b"), low=0, high=1, help="Each."),
            "pack": Option(kind="file", default="", help="A file."),
            "key": Option(kind="choice", default="x", choices=("x",), secret=True, help="A key."),
        },
    ),
}


def test_defaults_and_settings() -> None:
    (corrupt,) = parse_uses(["corrupt"])
    assert corrupt.options == {key: option.default for key, option in STRATEGIES["corrupt"].options.items()}
    assert corrupt.weight is None
    (corrupt,) = parse_uses(
        ["corrupt"], ["corrupt.operations=tone, emoji", "corrupt.intensity=1", "corrupt.protect=false"]
    )
    assert corrupt.options == {
        "operations": ("tone", "emoji"),
        "pick": None,
        "intensity": 1.0,
        "intensities": (),
        "protect": False,
        "language": "auto",
        "keyboard": "auto",
    }


def test_mixes() -> None:
    uses = parse_uses(["corrupt=3", "other=0.5"], ["other.count=7", "other.model=a=b.c"], known=KNOWN)
    assert [(one.strategy.name, one.weight) for one in uses] == [("corrupt", 3.0), ("other", 0.5)]
    assert {name: uses[1].options[name] for name in ("count", "share", "model")} == {
        "count": 7,
        "share": 0.5,
        "model": "a=b.c",
    }


@pytest.mark.parametrize("names", [["corrupt=0.4 other=0.6"], ["corrupt=0.4,other=0.6"], ["corrupt=0.4", "other=0.6"]])
def test_a_mix_in_one_word_or_several(names: list[str]) -> None:
    assert [(one.strategy.name, one.weight) for one in parse_uses(names, known=KNOWN)] == [
        ("corrupt", 0.4),
        ("other", 0.6),
    ]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("names=a, b c", ("a", "b c")),
        ("most=3", 3),
        ("most=none", None),
        ("most=", None),
        ("shares=a:0.5,b:1", (("a", 0.5), ("b", 1.0))),
        ("shares.b=0.25", (("b", 0.25),)),
        ("shares=", ()),
        ("model= x", " x"),
        (f"pack={__file__}", __file__),
    ],
)
def test_every_kind_of_option(setting: str, value: object) -> None:
    (other,) = parse_uses(["other"], [f"other.{setting}"], known=KNOWN)
    key = setting.partition("=")[0].partition(".")[0]
    assert other.options[key] == value
    option = KNOWN["other"].options[key]
    assert option.parse(option.spell(value), name=key) == value


def test_entries_of_a_table_add_up() -> None:
    (other,) = parse_uses(["other"], ["other.shares.b=1", "other.shares.a=0"], known=KNOWN)
    assert other.options["shares"] == (("b", 1.0), ("a", 0.0))
    assert use("other", known=KNOWN, shares={"a": 1}).options["shares"] == (("a", 1),)


@pytest.mark.parametrize(
    ("names", "settings", "says"),
    [
        (["corupt"], [], "no strategy 'corupt'. Did you mean 'corrupt'? Known: corrupt, other"),
        (["paraphrase"], [], "no strategy 'paraphrase'. Known: corrupt, other"),
        ([], [], "no strategy. Name one: --strategy corrupt or --strategy other"),
        (["corrupt", "corrupt=2"], [], "strategy 'corrupt' is named twice"),
        (["corrupt=2", "other"], [], "strategy 'other' has no weight and others have"),
        (["corrupt=0"], [], "the weight of strategy 'corrupt' is '0'. It must be a number above 0"),
        (["corrupt=x"], [], "the weight of strategy 'corrupt' is 'x'"),
        (["corrupt=nan"], [], "the weight of strategy 'corrupt' is 'nan'"),
        (["corrupt=inf"], [], "the weight of strategy 'corrupt' is 'inf'"),
        (["corrupt"], ["corrupt.intensty=1"], "strategy 'corrupt' has no option 'intensty'. Did you mean 'intensity'?"),
        (
            ["corrupt"],
            ["corrupt.zzz=1"],
            "strategy 'corrupt' has no option 'zzz'. Known: intensities, intensity, keyboard",
        ),
        (["corrupt"], ["corupt.intensity=1"], "no strategy 'corupt'. Did you mean 'corrupt'?"),
        (["corrupt"], ["other.count=1"], "--set other.count is for a strategy that is not used. Add --strategy other"),
        (["corrupt"], ["intensity=1"], "--set 'intensity=1' is not NAME.key=value"),
        (["corrupt"], ["corrupt.intensity"], "--set 'corrupt.intensity' is not NAME.key=value"),
        (["corrupt"], ["corrupt.intensity=1", "corrupt.intensity=1"], "--set corrupt.intensity is given twice"),
        (["corrupt"], ["corrupt.intensity=0"], "corrupt.intensity is '0'. It must be a number in (0, 1]"),
        (["corrupt"], ["corrupt.intensity=1.01"], "corrupt.intensity is '1.01'. It must be a number in (0, 1]"),
        (["corrupt"], ["corrupt.intensity=nan"], "corrupt.intensity is 'nan'. It must be a number in (0, 1]"),
        (["corrupt"], ["corrupt.intensity=much"], "corrupt.intensity is 'much'. It must be a number in (0, 1]"),
        (["corrupt"], ["corrupt.protect=yes"], "corrupt.protect is 'yes'. It must be true or false"),
        (["corrupt"], ["corrupt.language=xx"], "corrupt.language is 'xx'. It must be one of auto, en, it, es, fr, de"),
        (
            ["corrupt"],
            ["corrupt.operations=tone,ton"],
            "corrupt.operations is 'tone,ton'. It must be one or more of delete,",
        ),
        (["corrupt"], ["corrupt.operations="], "corrupt.operations is ''. It must be one or more of"),
        (["corrupt"], ["corrupt.operations=tone,tone"], "corrupt.operations is 'tone,tone'"),
        (["other"], ["other.count=1.5"], "other.count is '1.5'. It must be a whole number of at least 1"),
        (["other"], ["other.count=0"], "other.count is '0'. It must be a whole number of at least 1"),
        (["other"], ["other.share=2"], "other.share is '2'. It must be a number in [0, 1]"),
        (["other"], ["other.names=a,,b"], "other.names is 'a,,b'. It must be one or more texts"),
        (["other"], ["other.most=0"], "other.most is '0'. It must be a whole number of at least 1, or none"),
        (
            ["other"],
            ["other.shares=a:2"],
            "other.shares is 'a:2'. It must be NAME:NUMBER, with commas",
        ),
        (["other"], ["other.shares=a"], "other.shares is 'a'. It must be NAME:NUMBER"),
        (["other"], ["other.shares.c=1"], "other.shares.c is 'c:1'. It must be NAME:NUMBER"),
        (["other"], ["other.shares.a=1", "other.shares.a=0"], "--set other.shares.a is given twice"),
        (["other"], ["other.count.a=1"], "--set other.count.a: other.count has no entries. It is a whole number"),
        (["other"], ["other.pack=/no/such"], "other.pack is '/no/such'. It must be a file that is there"),
        (
            ["corrupt"],
            ["corrupt.operations=tone,emoji", "corrupt.pick=3"],
            "corrupt.pick is 3, and corrupt.operations has 2. Pick fewer or name more",
        ),
        (
            ["corrupt"],
            ["corrupt.intensities.tone=1"],
            "corrupt.intensities.tone is for an operation that is not used. Add tone to corrupt.operations, which are",
        ),
        (["other"], ["other.key=sk-123"], "other.key is not allowed. It must be one of x"),
    ],
)
def test_errors_say_what_is_allowed(names: list[str], settings: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_uses(names, settings, known=KNOWN)
    assert str(caught.value).startswith(says)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"intensity": True}, "corrupt.intensity is True"),
        ({"intensity": "1"}, "corrupt.intensity is '1'"),
        ({"operations": "tone"}, "corrupt.operations is 'tone'"),
        ({"protect": 1}, "corrupt.protect is 1"),
        ({"speed": 1}, "strategy 'corrupt' has no option 'speed'"),
    ],
)
def test_the_library_checks_too(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        use("corrupt", **options)
    assert str(caught.value).startswith(says)


def test_lists_are_welcome_in_the_library() -> None:
    assert use("corrupt", operations=["tone"], intensity=1).options["operations"] == ("tone",)


def test_every_strategy_describes_itself() -> None:
    assert STRATEGIES
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name
        assert strategy.summary.endswith(".")
        for key, option in strategy.options.items():
            assert option.help.endswith("."), key
            assert option.check(option.default, name=key) == option.default


def test_neighbours_are_for_similar_prompts() -> None:
    with pytest.raises(UsageError, match=r"neighbours is for similar prompts\. Add --set contaminate.from=similar"):
        parse_uses(["contaminate"], ["contaminate.neighbours=5"])
    (one,) = parse_uses(["contaminate"], ["contaminate.neighbours=5", "contaminate.from=similar"])
    assert one.options["neighbours"] == 5
