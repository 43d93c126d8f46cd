"""`contaminate`: replies of other prompts, never one that may be right here, and no personal data."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ktodata.errors import KtodataError, SourceError, UsageError
from ktodata.io import write_rows
from ktodata.negatives.choose import Use, use
from ktodata.negatives.contaminate import NO_MORE, NONE, NONE_NEAR, NONE_SPOKEN
from ktodata.negatives.contamination.deal import cards_of, deal
from ktodata.negatives.contamination.fits import NEARLY_SAME, NOBODY, Fits, Replies, Seats
from ktodata.negatives.contamination.prompts import Prompts, last_said
from ktodata.negatives.contamination.replies import Shapes, clauses, is_generic, words
from ktodata.negatives.synthesize import Synthesis, synthesize
from ktodata.schema import Row, make_row, normalise, plain

THINGS = [
    "a red bicycle",
    "the old piano",
    "two concert tickets",
    "my garden shed",
    "the broken lamp",
    "some cherry jam",
]
DEEDS = ["sell", "paint", "borrow", "repair", "photograph", "give away"]

PAIRS = list(itertools.product(DEEDS, THINGS))


def row_of(prompt: str, reply: str, label: bool = True, *, chat: bool = False) -> Row:
    if chat:
        return make_row(
            [{"role": "user", "content": prompt}],
            [{"role": "assistant", "content": reply}],
            label,
            source="s",
            origin="feedback",
        )
    return make_row(prompt, reply, label, source="s", origin="feedback")


def rows_of(*, chat: bool = False) -> list[Row]:
    """36 prompts that have at most half of their words in common."""
    return [
        row_of(
            f"how should i {deed} {thing} number {a}{b}?",
            f"just ask {deed[:3]} number {a * 7 + b} about {thing}",
            chat=chat,
        )
        for a, thing in enumerate(THINGS)
        for b, deed in enumerate(DEEDS)
    ]


def lent(rows: list[Row], **options: Any) -> Synthesis:
    return synthesize(rows, [borrow(**options)])


def borrow(**options: Any) -> Use:
    return use("contaminate", **options)


@pytest.mark.parametrize("source", ["random", "similar"])
@pytest.mark.parametrize("chat", [False, True])
def test_replies_of_other_prompts(source: str, chat: bool) -> None:
    rows = rows_of(chat=chat)
    done = lent(rows, **{"from": source})
    assert done.made["contaminate"] + sum(done.skipped.values()) == len(rows)
    assert done.made["contaminate"] >= 0.8 * len(rows)
    theirs = {plain(row.completion): row.prompt_id for row in rows}
    for row in done.negatives:
        assert theirs[plain(row.completion)] != row.prompt_id


@pytest.mark.parametrize("source", ["random", "similar"])
def test_the_order_of_rows_and_workers_do_not_matter(source: str) -> None:
    rows = rows_of()
    there = lent(rows, **{"from": source})
    assert there == lent(random.Random(1).sample(rows, len(rows)), **{"from": source})
    assert there == synthesize(rows, [borrow(**{"from": source})], workers=2)


def test_similar_is_nearer_than_random_and_never_nearly_the_same() -> None:
    rows = rows_of()
    said = [plain(row.prompt) for row in rows]
    prompts = Prompts(said)
    theirs = {plain(row.completion): said.index(plain(row.prompt)) for row in rows}
    mean = {}
    for source in ("random", "similar"):
        cosines = [
            prompts.cosines([said.index(plain(row.prompt))], [theirs[plain(row.completion)]])[0]
            for row in lent(rows, **{"from": source}, **({"neighbours": 2} if source == "similar" else {})).negatives
        ]
        assert max(cosines) < NEARLY_SAME
        mean[source] = sum(cosines) / len(cosines)
    assert mean["similar"] > mean["random"] + 0.1


GENERIC = [
    "You're welcome!",
    "ok thanks 😊",
    "👍",
    "Figurati, grazie mille!",
    "de nada",
    "Merci beaucoup !",
    "Kein Problem :)",
]


@pytest.mark.parametrize("source", ["random", "similar"])
def test_what_may_be_right_here_is_never_lent(source: str) -> None:
    rows = rows_of()
    right = "just put it on the market on sunday and see what happens"
    asked = "how should i sell the green armchair?"
    rows += [
        row_of(asked, right),
        row_of("HOW should I  sell the green armchair?", "say goodbye to it first, then take a picture"),
        # Nearly the same question, and nearly the same reply to another one.
        row_of("how should i sell the green armchair now?", "a charity shop will come and fetch it for free"),
        row_of("what to do about six kittens?", "just put it on the market on sunday, and see what happens!!"),
        # The same reply for many.
        *(row_of(f"what about {n} of {thing}?", "let us talk it over tomorrow") for n, thing in enumerate(THINGS)),
        *(row_of(f"where is number {n} of them?", text) for n, text in enumerate(GENERIC)),
    ]
    wrong = {
        right,
        "say goodbye to it first, then take a picture",
        "a charity shop will come and fetch it for free",
        "just put it on the market on sunday, and see what happens!!",
        *GENERIC,
        "let us talk it over tomorrow",
    }
    lent_here = 0
    for seed in range(40):
        done = synthesize(rows, [borrow(**{"from": source})], seed=seed)
        for row in done.negatives:
            assert plain(row.completion) not in GENERIC
            if normalise(plain(row.prompt)) == asked:
                lent_here += 1
                assert plain(row.completion) not in wrong
    assert lent_here >= 60


def test_no_negative_equals_a_desirable_reply_to_its_prompt() -> None:
    rng = random.Random(0)
    rows = [
        row_of(f"prompt about {rng.choice(THINGS)}", f"{rng.choice(DEEDS)} {rng.choice(THINGS)} please")
        for _ in range(300)
    ]
    right = {(row.prompt_id, normalise(plain(row.completion))) for row in rows}
    for row in synthesize(rows, [borrow()], per_row=3).negatives:
        assert (row.prompt_id, normalise(plain(row.completion))) not in right


def test_white_space_at_the_ends_is_the_rows_own() -> None:
    rows = [row_of(f"{deed} {thing}?", f" {deed} it with {thing}\n") for deed, thing in zip(DEEDS, THINGS, strict=True)]
    for row in lent(rows).negatives:
        assert plain(row.completion).startswith(" ")
        assert plain(row.completion).endswith("\n")
        assert plain(row.completion).strip() == plain(row.completion)[1:-1]


def test_personal_data_is_masked_unless_asked() -> None:
    rows = [
        row_of("who fixes lamps?", "ask Tom at tom.smith@lamps.org or 347 123 4567 then"),
        row_of("cherry jam?", "boil it"),
    ]
    (masked,) = (row for row in lent(rows).negatives if plain(row.prompt) == "cherry jam?")
    assert "lamps.org" not in plain(masked.completion)
    assert "347 123 4567" not in plain(masked.completion)
    assert plain(masked.completion).startswith("ask Tom at ")
    (bare,) = (row for row in lent(rows, mask=False).negatives if plain(row.prompt) == "cherry jam?")
    assert plain(bare.completion) == "ask Tom at tom.smith@lamps.org or 347 123 4567 then"


def test_the_language_is_this_ones() -> None:
    english = ["you have to sell it with the rest", "just paint what is left of that", "not before we have been there"]
    italian = ["allora anche questo è per te", "non vedo perché, cosa ti serve?", "domani sto con i bimbi, ci sono"]
    rows = [row_of(f"{n} or {n}{n}?", text) for n, text in enumerate([*english, *italian])]
    done = lent(rows)
    assert done.made["contaminate"] == 6
    own = {row.id: plain(row.completion) for row in rows}
    for row in done.negatives:
        assert (plain(row.completion) in italian) == (own[row.parent_id] in italian)
    mixed = lent(rows, same_language=False).negatives
    assert any((plain(row.completion) in italian) != (own[row.parent_id] in italian) for row in mixed)


def test_a_pool_of_its_own_of_any_kind(tmp_path: Path) -> None:
    rows = rows_of()
    write_rows(rows_of(chat=True)[::7], str(tmp_path / "chat.parquet"))
    done = lent(rows, pool=str(tmp_path / "chat.parquet"))
    assert {plain(row.completion) for row in done.negatives} <= {plain(row.completion) for row in rows[::7]}
    assert done.made["contaminate"] == len(rows)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "why?", "chosen": "one good long reply", "rejected": "bad"}) + "\n", "utf-8")
    assert {row.completion for row in lent(rows, pool=str(pairs)).negatives} == {"one good long reply"}


def test_what_answers_nearly_the_same_question_is_no_last_resort() -> None:
    rows = [
        row_of("how should i sell the green armchair?", "a charity shop will come and fetch it"),
        row_of("how should i sell the green armchair now?", "put a photo of it on the board downstairs"),
    ]
    assert lent(rows).skipped == {f"contaminate: {NONE}": 2}


def uses_of(rows: list[Row]) -> Counter[int]:
    """How many replies are lent once, twice …"""
    return Counter(Counter(plain(row.completion) for row in rows).values())


@pytest.mark.parametrize("size", [36, 18, 13, 5])
def test_each_reply_is_lent_as_often_as_the_next(size: int, tmp_path: Path) -> None:
    pool = str(tmp_path / "pool.jsonl")
    write_rows([row_of(f"{n}?", f"{deed} {n * 7} of {thing}") for n, (deed, thing) in enumerate(PAIRS[:size])], pool)
    rows = [row_of(f"who was at place number {n}{n} with {n * 3}?", f"it must have been person {n}") for n in range(36)]
    done = lent(rows, pool=pool)
    counts = uses_of(done.negatives)
    assert set(counts) <= {36 // size, -(-36 // size)}
    assert sum(counts.values()) == size
    assert lent(rows[::-1], pool=pool) == done
    three = synthesize(rows, [borrow(pool=pool)], per_row=3)
    assert set(uses_of(three.negatives)) <= {108 // size, -(-108 // size)}
    assert len(three.negatives) == 108
    assert [row.completion for row in synthesize(rows, [borrow(pool=pool)], seed=1).negatives] != [
        row.completion for row in done.negatives
    ]


@pytest.mark.parametrize("topics", [1, 2, 3])
def test_each_is_lent_once_where_most_may_be_right(topics: int) -> None:
    """A row may have a reply of the other topic only, or, of one topic, of prompts that are not nearly its own."""
    rows = [
        row_of(
            f"{'tell me all about this very' if n % topics else 'who could ever fix the old'} {thing} {deed}?",
            f"{deed} {n * 7} of {thing}",
        )
        for n, (deed, thing) in enumerate(PAIRS)
    ]
    for seed in range(5):
        done = synthesize(rows, [borrow()], seed=seed)
        assert not done.skipped
        assert uses_of(done.negatives) == {1: len(rows)}


class Grid:
    """In the place of `Fits`: a table says which seats may have which replies."""

    def __init__(self, allowed: Any) -> None:
        count, size = allowed.shape
        seats, nobody = np.arange(count), np.zeros(count, dtype=int)
        self.allowed = allowed
        self.seats = Seats([""] * count, seats, seats, nobody)
        self.replies = Replies([""] * size, [""] * size, None, None, np.zeros(size, dtype=int))
        self.begins = np.zeros(count + 1, dtype=int)

    def keys(self, seats: Any, replies: Any) -> Any:
        return seats * len(self.replies) + replies

    def spoken(self, seats: Any, replies: Any) -> Any:
        return np.ones(len(seats), dtype=bool)

    def pairs(self, seats: Any, replies: Any, limit: float = NEARLY_SAME) -> Any:
        return self.allowed[seats, replies]

    def all_of(self, seat: int) -> Any:
        return self.allowed[seat].copy()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1])
def test_no_other_way_of_dealing_would_be_more_even(share: float) -> None:
    """Against the cheapest assignment of all, where lending a reply for the nth time costs n."""
    for seed in range(15):
        draw = np.random.default_rng(seed)
        allowed = draw.random((draw.integers(5, 25), draw.integers(2, 25))) < share
        got = deal(cast(Fits, Grid(allowed)), random.Random(seed))
        taken = np.flatnonzero(got != NOBODY)
        assert allowed[taken, got[taken]].all()
        assert len(taken) == allowed.any(axis=1).sum()
        costs = np.concatenate([np.where(allowed[taken], n + 1, 10**6) for n in range(len(taken))], axis=1)
        best = costs[linear_sum_assignment(costs)].sum()
        assert sum(n * (n + 1) // 2 for n in np.bincount(got[taken], minlength=1)) == best


@pytest.mark.slow
def test_in_a_mix_only_the_rows_that_borrow_are_dealt_to() -> None:
    rows = [row_of(f"who was at place number {n}{n} with {n * 3}?", f"it was {n * n} or {n + 7}{n}") for n in range(90)]
    uses = [use("contaminate", weight=0.5), use("corrupt", weight=0.5)]
    borrowed = [row for row in synthesize(rows, uses, per_row=2).negatives if row.strategy == "contaminate"]
    assert 60 < len(borrowed) < 120
    assert set(uses_of(borrowed)) <= {len(borrowed) // 90, -(-len(borrowed) // 90)}
    # Workers are sent what their rows were dealt.
    assert synthesize(rows, uses, per_row=2, workers=2) == synthesize(rows, uses, per_row=2)


def test_cards_by_language() -> None:
    rng = random.Random(0)

    def times(wanted: dict[int, int], decks: dict[int, list[int]]) -> list[int]:
        cards = cards_of(wanted, decks, rng)
        allowed = {code: {*decks.get(code, ()), *decks.get(0, ())} for code in wanted if code}
        assert all(set(cards[code]) <= allowed[code] for code in allowed)
        assert {code: len(some) for code, some in cards.items()} == wanted
        count = Counter(card for some in cards.values() for card in some)
        return [count[card] for deck in decks.values() for card in deck]

    assert times({1: 6, 2: 3, 0: 3}, {1: [1, 2], 2: [3, 4], 0: [5, 6]}) == [2] * 6
    assert sorted(times({1: 5, 2: 1, 0: 1}, {1: [1, 2], 2: [3, 4], 0: [5]})) == [1, 1, 1, 2, 2]
    assert times({1: 10, 2: 2, 0: 0}, {1: [1, 2], 2: [3, 4]}) == [5, 5, 1, 1]
    assert times({0: 4}, {1: [1], 2: [2]}) == [2, 2]
    assert cards_of({1: 3, 0: 0}, {2: [1]}, rng)[1] == []


def test_replies_of_each_language_are_dealt_to_its_rows() -> None:
    english = ["you have to sell it with the rest", "just paint what is left of that", "not before we have been there"]
    italian = ["allora anche questo è per te", "non vedo perché, cosa ti serve?", "domani sto con i bimbi, ci sono"]
    rows = [row_of(f"{n} or {n}{n}?", text) for n, text in enumerate([*english, *italian])]
    for seed in range(10):
        done = synthesize(rows, [borrow()], seed=seed)
        assert len({plain(row.completion) for row in done.negatives}) == 6


def test_similar_ones_are_spread_over_the_neighbours() -> None:
    rows = rows_of()
    for seed in range(5):
        done = synthesize(rows, [borrow(**{"from": "similar"})], seed=seed)
        texts = [plain(row.completion) for row in done.negatives]
        assert max(Counter(texts).values()) <= 3
        assert len(set(texts)) >= 0.75 * len(texts)


def test_the_card_names_what_was_in_the_pool(tmp_path: Path) -> None:
    pool = str(tmp_path / "pool.jsonl")

    def digest(rows: list[Row]) -> object:
        write_rows(rows, pool)
        return lent(rows_of(), pool=pool).facts["contaminate"].get("pool_sha256")

    rows = rows_of()
    first = digest(rows[:20])
    assert first == digest(rows[19::-1])
    assert first != digest(rows[:19])
    assert lent(rows).facts["contaminate"] == {}


def test_pools_that_have_nothing(tmp_path: Path) -> None:
    rows = rows_of()
    only = row_of("why?", "because the moon is full tonight")
    assert lent([only]).skipped == {f"contaminate: {NONE}": 1}
    assert lent([only], **{"from": "similar"}).skipped == {f"contaminate: {NONE_NEAR}": 1}
    assert lent([row_of("a?", "ok"), row_of("b?", " ")]).skipped == {f"contaminate: {NONE}": 1, "contaminate: empty": 1}
    pool = tmp_path / "pool.jsonl"
    write_rows([row_of("q", "thanks!"), row_of("r", "ok")], str(pool))
    with pytest.raises(SourceError, match="none of 2 desirable rows has a reply that could be wrong anywhere"):
        lent(rows, pool=str(pool))
    write_rows([row_of("q", "a longer bad reply", False)], str(pool))
    with pytest.raises(SourceError, match="no desirable rows"):
        lent(rows, pool=str(pool))
    pool.write_text("", encoding="utf-8")
    with pytest.raises(KtodataError, match="pool"):
        lent(rows, pool=str(pool))
    with pytest.raises(KtodataError, match="no such file"):
        lent(rows, pool=str(tmp_path / "none.jsonl"))
    with pytest.raises(UsageError, match="stdin"):
        lent(rows, pool="-")


def test_what_a_reply_answers() -> None:
    assert last_said("\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:").strip() == "three"
    turns = [("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    assert last_said([{"role": role, "content": text} for role, text in turns]) == "three"
    assert last_said([{"role": "system", "content": "s"}]) == "s"
    assert last_said([]) == ""


def test_replies_are_compared_by_their_words() -> None:
    assert all(is_generic(words(text)) for text in GENERIC)
    assert not is_generic(words("ok, see you at the lake"))
    cores = [
        words(text) for text in ("See you at 8!! 😊", "see u at 8", "see you at the lake", "bring bread along", "")
    ]
    shapes = Shapes(cores)
    assert shapes.alike(np.array([0, 2, 0, 4, 4]), np.array([1, 3, 3, 0, 4])).tolist() == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert shapes.alike_any(np.array([1, 4]), np.arange(5)).tolist() == [True, True, False, False, True]
    assert clauses("no worries, it was nothing lol! ok") & clauses("it was nothing. bye now then")
    assert words("我很高兴") == ["我", "很", "高", "兴"]
    assert Prompts(["", "!"]).to_all(0).tolist() == [0, 0]


TONGUES = {
    "en": {
        "we could sell the piano at the market, what do you think?": "the neighbours complain about the noise",
        "try the blue jacket, it keeps you warm when there is snow": "which coat do you wear in winter?",
        "my sister found a flat near the old harbour last week": "where does anna live now?",
    },
    "pt": {
        "não sei, talvez amanhã de manhã eu possa passar por aí": "você vem me visitar?",
        "a gente comeu feijoada com muito arroz e uma salada boa": "o que vocês jantaram ontem?",
        "ele perdeu o ônibus e chegou muito atrasado na escola": "por que o joão está chateado?",
    },
    "ru": {
        "я думаю, что завтра мы поговорим про это ещё раз": "что нам делать с квартирой?",
        "бабушка испекла пирог с вишней и ждёт нас в гости": "кто сегодня готовит ужин?",
        "поезд опоздал на два часа, поэтому я очень устал": "почему ты такой сонный?",
    },
    "ja": {
        "明日の朝に駅前で待ち合わせましょうか": "いつ会えますか？",
        "昨日の夜は友達とカレーを食べました": "何を食べたの？",
        "猫がソファで寝ているので静かにしてください": "どうして小さい声なの？",
    },
}
LENT = {reply: code for code, pairs in TONGUES.items() for reply in pairs}


def in_many_languages() -> list[Row]:
    return [row_of(prompt, reply) for pairs in TONGUES.values() for reply, prompt in pairs.items()]


def test_replies_stay_in_their_language_whatever_that_is() -> None:
    rows = in_many_languages()
    own = {row.id: LENT[plain(row.completion)] for row in rows}
    for per_row in (1, 4):
        done = synthesize(rows, [borrow()], per_row=per_row)
        crossed = [(own[row.parent_id], plain(row.completion)) for row in done.negatives]
        assert [pair for pair in crossed if pair[0] != LENT[pair[1]]] == []
        assert len(done.negatives) == len(rows) * min(per_row, 2)
    near = lent(rows, **{"from": "similar"})
    assert all(own[row.parent_id] == LENT[plain(row.completion)] for row in near.negatives)
    mixed = synthesize(rows, [borrow(same_language=False)], per_row=4)
    assert any(own[row.parent_id] != LENT[plain(row.completion)] for row in mixed.negatives)


def test_what_says_too_little_goes_with_its_prompt_or_its_script() -> None:
    short = {
        "да": ("пойдём?", "ru"),
        "了解": ("明日の朝、駅で会いましょう", "ja"),
        "😊": ("o que você vai fazer amanhã?", "pt"),
    }
    rows = [*in_many_languages(), *(row_of(prompt, reply) for reply, (prompt, _) in short.items())]
    done = lent(rows)
    theirs = {row.parent_id: plain(row.completion) for row in done.negatives}
    for row in rows[-3:]:
        assert LENT[theirs[row.id]] == short[plain(row.completion)][1]


def test_reasons_are_told_apart() -> None:
    rows = in_many_languages()
    done = lent([*rows[:3], rows[6]])
    assert done.skipped == {f"contaminate: {NONE_SPOKEN}": 1}
    assert done.refused[0][0] == rows[6]
    more = synthesize(rows[:3], [borrow()], per_row=6)
    assert more.skipped == {f"contaminate: {NO_MORE}": 12}
    assert lent([rows[0]]).skipped == {f"contaminate: {NONE}": 1}
