"""Near-duplicates: what is near, groups of it, and what `unpair` does with them."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import ktodata.near
import ktodata.signed
import ktodata.sketch
import ktodata.sort_out
from ktodata.clean import Item, resolve_near
from ktodata.cli import main
from ktodata.errors import UsageError, WriteError
from ktodata.io import Raw, read_rows
from ktodata.near import FEW, MANY, Prompts, check_threshold, groups_of, signs_of
from ktodata.order import number_of
from ktodata.schema import Message, Text, hash_prompt
from ktodata.signed import Signed
from ktodata.sketch import FEW as FEW_COMPLETIONS
from ktodata.sketch import SPREAD, alike, comparable, folded, signatures
from ktodata.sources import get_source
from ktodata.transform import Rules, transform

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in ("n", "rst", "ck", "p", "x")]


def sentence(seed: int, words: int = 40) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def partition(found: Any) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(found == one).tolist()) for one in np.unique(found)}


def agreement(one: str, other: str) -> float:
    first, second = signatures([one, other])
    return float((first == second).mean())


def pieces(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)}


def test_the_share_of_equal_numbers_estimates_the_jaccard_index() -> None:
    text = sentence(1, 200)
    for cut in (20, 150, 500):
        other = sentence(2, 200)[:cut] + text[cut:]
        exact = len(pieces(text) & pieces(other)) / len(pieces(text) | pieces(other))
        assert agreement(text, other) == pytest.approx(exact, abs=0.12)  # three standard deviations
    assert agreement(text, "  " + text.upper().replace(" ", "\n")) == 1  # normalised
    assert agreement(text, sentence(3, 200)) < 0.4


def test_a_text_has_its_numbers_whatever_stands_beside_it() -> None:
    texts = ["", "a", "ab", "abcde", "abcdef", sentence(1), "né 😀\ud800", sentence(2)]
    together = signatures(texts)
    for text, found in zip(texts, together, strict=True):
        assert (signatures([text])[0] == found).all()
    assert len(np.unique(together, axis=0)) == len(texts)


@pytest.mark.parametrize("text", ["", "a", "abcd", "abcde", "abcdef", "é", "abcdé", "aébcdefg日本語abcd", "ab" * 40])
def test_a_text_is_the_set_of_its_pieces_of_five_characters(text: str) -> None:
    beside = ["zyxwv", text, "qrs日tuvw"]
    for texts in ([text], beside):
        found, offsets = ktodata.sketch._pieces([one.encode() for one in texts])
        place = texts.index(text)
        own = set(found[offsets[place] : offsets[place + 1]].tolist())
        assert len(own) == len(pieces(text.ljust(5, "\0")))
    assert agreement("abcd\u0161", "abcd\u0061") < 1  # the same in their lowest bytes


def test_batches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(seed) for seed in range(9)]
    whole = signatures(texts)
    monkeypatch.setattr(ktodata.sketch, "BATCH", 300)
    assert (signatures(texts) == whole).all()


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.sampled_from([0.6, 0.75, 0.9, 0.9375, 1.0]),
    st.sampled_from([(FEW, MANY), (1, MANY), (2, 2)]),
    st.data(),
)
def test_groups_are_the_components_of_near_pairs_in_any_order(
    scopes: list[int], threshold: float, few: tuple[int, int], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ktodata.near, "FEW", few[0])
        patch.setattr(ktodata.near, "MANY", few[1])
        components_are_found(scopes, threshold, data)


def components_are_found(scopes: list[int], threshold: float, data: st.DataObject) -> None:
    texts = [list(range(128)) for _ in scopes]
    for numbers in texts:  # numbers at will, rather than those of texts: every border is met
        step = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
        for place in range(0, step * min(128 // step, data.draw(st.integers(0, 60))), step):
            numbers[place] = 1000 + data.draw(st.integers(0, 1))
    found, within = np.array(texts, dtype=np.uint16), np.array(scopes)
    expected = {frozenset([index]) for index in range(len(texts))}
    for one in range(len(texts)):
        for other in range(one):
            agree = (found[one] == found[other]).sum() / 128
            if scopes[one] == scopes[other] and threshold <= agree and threshold < 1:  # at 1 nothing is near
                first, second = (next(group for group in expected if index in group) for index in (one, other))
                expected = expected - {first, second} | {first | second}
    assert partition(groups_of(found, threshold, within)) == expected
    back = np.arange(len(texts))[::-1]
    turned = {
        frozenset(back[list(group)].tolist()) for group in partition(groups_of(found[back], threshold, within[back]))
    }
    assert turned == expected


@pytest.mark.parametrize("differing", [1, 2, 4, 8, 12, 16, 32, 50])
def test_texts_that_differ_as_evenly_as_they_can_are_found(differing: int) -> None:
    one = np.arange(128, dtype=np.uint16)
    other = one.copy()
    other[np.linspace(0, 127, differing).astype(int)] = 999
    found = np.stack([one, other])
    assert groups_of(found, (128 - differing) / 128).tolist() == [0, 0]
    assert groups_of(found, (129 - differing) / 128).tolist() == [0, 1]


def test_of_texts_behind_one_template_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all share a band with nearly all others; each with each would be 4 million comparisons for 3,000."""
    template, rng = sentence(0, words=80), random.Random(0)
    texts = [f"{template} {rng.getrandbits(320):080x}" for _ in range(3000)]
    texts[2000:2100] = [f"{text}!" for text in texts[:100]]
    compared = 0

    def counting(one: Any, other: Any, need: int) -> Any:
        nonlocal compared
        compared += np.broadcast_shapes(one.shape, other.shape)[0]
        return agree(one, other, need)

    agree = ktodata.near._agree
    monkeypatch.setattr(ktodata.near, "_agree", counting)
    found = signatures(texts)
    group = groups_of(found, 0.9)
    assert (group[2000:2100] == group[:100]).all()
    assert 100 < compared < 150_000
    monkeypatch.setattr(ktodata.near, "FEW", len(texts))
    assert (groups_of(found, 0.9) == group).all()
    assert compared > 1_500_000


def test_a_system_prompt_makes_no_questions_alike_and_other_ones_tell_them_apart() -> None:
    long, other = sentence(100, words=120), sentence(101, words=120)

    def asked(system: str, question: str) -> list[Message]:
        return [{"role": "system", "content": system}, {"role": "user", "content": question}]

    question = sentence(1)
    prompts: list[Text] = [
        asked(long, question),
        asked(long, sentence(2, words=6)),
        asked(long, f"{question}!"),
        asked(f"{long} Today is Monday.", f"{question}?"),
        asked(other, question),
        [{"role": "user", "content": question}],
        [{"role": "system", "content": long}],
        asked("You are an AI assistant.", sentence(5, words=120)),
        asked("You are a helpful assistant.", sentence(5, words=120)),
        [{"role": "user", "content": sentence(5, words=120)}],
        asked("Be brief.", sentence(6)),
        asked("Write as a pirate does who has seen it all.", sentence(6)),
    ]
    numbers = np.arange(1, len(prompts) + 1, dtype=np.uint64)
    for order in (slice(None), slice(None, None, -1)):
        for parts in (1, len(prompts)):
            found = Prompts()
            for some in np.array_split(numbers[order], parts):
                found.add(signs_of(some, [prompts[number - 1] for number in some.tolist()]))
            assert found.groups(0.9).of(numbers).tolist() == [1, 2, 1, 1, 5, 6, 7, 8, 8, 8, 11, 12]


def test_prompts_of_one_number_have_the_same_signs() -> None:
    text = f"Be kind.\n\nHuman: {sentence(1)}\n\nAssistant:"
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": sentence(1)}]
    for prompt, other in (
        (text, f" {text.upper()}\n "),
        (chat, [{**turn, "content": f"\n{turn['content'].upper()} "} for turn in chat]),
    ):
        assert hash_prompt(prompt) == hash_prompt(other)
        one, same = (signs_of(np.array([1]), [some]) for some in (prompt, other))
        assert (one.said == same.said).all()
        assert one.whole is None if prompt is text else (one.whole == same.whole).all()


def test_questions_behind_one_system_prompt_stay(tmp_path: Path) -> None:
    system = {"role": "system", "content": sentence(100, words=120)}
    rows = [
        {
            "prompt": [system, {"role": "user", "content": sentence(number, words=8)}],
            "completion": [{"role": "assistant", "content": "I cannot help with that."}],
            "label": bool(number % 2),
        }
        for number in range(40)
    ]
    source, out = save(tmp_path / "in.jsonl", rows), str(tmp_path / "out.jsonl")
    assert "skipped 0" in run(source, "-o", out, "--near-duplicates", "drop").stderr
    assert len(read_rows(out)) == 40


def test_prompts_go_by_the_least_number_of_their_group() -> None:
    text = sentence(1)
    prompts = Prompts()
    prompts.add(signs_of(np.array([7, 3], dtype=np.uint64), [text, sentence(2)]))
    prompts.add(signs_of(np.array([5, 9], dtype=np.uint64), [f"{text}!", sentence(4)]))
    groups = prompts.groups(0.9)
    assert groups.of(np.array([7, 5, 3, 9, 11], dtype=np.uint64)).tolist() == [5, 5, 3, 9, 11]
    assert not len(Prompts().groups(0.9))


@pytest.mark.parametrize("on_disk", [False, True])
def test_prompts_that_come_again_are_one_whichever_way_they_come(
    on_disk: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = [sentence(seed) for seed in range(9)] + [f"{sentence(seed)}!" for seed in range(3)]
    numbers = np.array([11, 30, 2, 53, 84, 75, 6, 97, 8, 19, 20, 21], dtype=np.uint64)
    whole = Prompts()
    whole.add(signs_of(numbers, texts))
    expected = whole.groups(0.9).of(numbers).tolist()
    assert expected == [11, 20, 2, 53, 84, 75, 6, 97, 8, 11, 20, 2]
    if on_disk:
        monkeypatch.setattr(ktodata.signed, "BUDGET", 5 * 128)
        monkeypatch.setattr(ktodata.signed, "BLOCK", 3)
    again = Prompts(tmp_path)
    for start in (0, 4, 2, 8, 0):
        some = slice(start, start + 4)
        again.add(signs_of(numbers[some], texts[some]))
    groups = again.groups(0.9)
    assert groups.of(numbers).tolist() == expected
    assert len(groups) == 3
    assert not len(again.groups(0.9))  # forgotten
    assert not list(tmp_path.iterdir())  # a file without a name


@pytest.mark.parametrize("budget", [0, 3 * 128, 10**6])
def test_signatures_are_the_same_in_memory_and_in_a_file(
    budget: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ktodata.signed, "BLOCK", 4)
    rows = np.random.default_rng(0).integers(0, 256, (23, 128), dtype=np.uint8)
    signed = Signed(tmp_path, budget=budget)
    for start, end in ((0, 1), (1, 9), (9, 9), (9, 23)):
        signed.add(rows[start:end])
        assert len(signed) == end
        assert (np.concatenate(list(signed.blocks())) == rows[:end]).all()
        places = np.arange(end)[::-2]
        assert (signed.take(places) == rows[places]).all()
    assert (groups_of(signed, 0.9) == groups_of(rows, 0.9)).all()


def test_no_room_for_signatures_is_told_with_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signed = Signed(tmp_path / "gone", budget=0)
    with pytest.raises(WriteError, match=r"gone.*set aside"):
        signed.add(np.zeros((1, 128), dtype=np.uint8))


def test_prompts_are_signed_as_records_are_read() -> None:
    raws = [Raw(json.dumps(row).encode(), f"row {place}", "s") for place, row in enumerate(records())]
    layout = get_source("rows")
    rules = Rules(layout.read, layout.join, layout.completions, layout.origin, None, True, False, True)
    signs = transform(rules, raws).prompts["text"]
    prompts = {number_of(hash_prompt(row["prompt"])): row["prompt"] for row in records()}
    assert sorted(prompts) == signs.numbers.tolist()
    assert (signatures([prompts[number] for number in signs.numbers.tolist()]) == signs.said).all()
    assert signs.whole is None
    assert not transform(rules._replace(prompts=False), raws).prompts


@pytest.mark.parametrize(
    ("policy", "contradicting", "duplicates"),
    [("drop", "bcfg", "e"), ("error", "bcfg", "e"), ("majority", "bfg", "e"), ("keep", "", "eg")],
)
def test_what_goes(policy: Any, contradicting: str, duplicates: str) -> None:
    # groups: a alone; b- against c+ +; d, e the same; f- g- against h … here as letters with group and label
    rows = [("a", 0, True), ("b", 1, False), ("c", 1, True), ("d", 2, True), ("e", 2, True), ("f", 3, False)]
    rows += [("g", 3, False), ("h", 4, True)]
    if policy != "majority":
        rows.append(("i", 3, True))
        contradicting += "i" if contradicting else ""
    else:
        rows += [("i", 3, True), ("j", 3, True), ("k", 3, True), ("l", 1, True)]
        duplicates += "jkl"
    items = [Item(name, "p", place, label, ("s",), place) for place, (name, _, label) in enumerate(rows)]
    both, same = resolve_near(items, [group for _, group, _ in rows], policy)
    assert "".join(item.id for item in both.dropped) == contradicting
    assert "".join(item.id for item in same.dropped) == duplicates
    assert len(same.kept) + len(same.dropped) + len(both.dropped) == len(items)


@pytest.mark.parametrize("threshold", [0.0, 0.59, 1.01, -1])
def test_thresholds_that_are_none(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"0\.6 to 1"):
        check_threshold(threshold)


def records() -> list[dict[str, Any]]:
    """Forty plain rows; a near-duplicate, one under a near prompt, a near-contradiction, and an exact duplicate."""
    rows = [{"prompt": f"{sentence(n // 2)}?", "completion": sentence(100 + n), "label": n % 2 == 0} for n in range(40)]
    changed = {"completion": rows[0]["completion"] + "!"}
    rows.append({**rows[0], **changed})
    rows.append({**rows[1], "prompt": rows[1]["prompt"] + "!"})
    rows.append({**rows[2], "completion": rows[2]["completion"] + ".", "label": False})
    rows.append(dict(rows[3]))
    return rows


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["unpair", *arguments])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


def save(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_unpair_drops_them_if_asked_in_any_order_and_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = records()
    source, turned = save(tmp_path / "in.jsonl", rows), save(tmp_path / "turned.jsonl", rows[::-1])
    assert "skipped 1: 1 duplicate\n" in run(source, "-o", str(tmp_path / "kept.jsonl")).stderr
    assert len(read_rows(str(tmp_path / "kept.jsonl"))) == 43
    outputs = []
    for name, of, budget in (("a", source, None), ("b", turned, None), ("c", source, 2000)):
        if budget:
            small = functools.partialmethod(ktodata.sort_out.Spill.__init__, budget=budget)
            monkeypatch.setattr(ktodata.sort_out.Spill, "__init__", small)
        out, bad = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.bad.jsonl"
        result = run(of, "-o", str(out), "--near-duplicates", "drop", "--quarantine", str(bad))
        assert "skipped 5: 2 near-contradiction, 2 near-duplicate, 1 duplicate" in result.stderr
        reasons = sorted(json.loads(line)["reason"] for line in bad.read_text(encoding="utf-8").splitlines())
        assert reasons == ["duplicate", *["near-contradiction"] * 2, *["near-duplicate"] * 2]
        outputs.append([(row.id, row.label) for row in read_rows(str(out))])
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0]) == 39


def test_one_per_prompt_chooses_among_what_near_duplicates_left(tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", records())
    out = tmp_path / "out.jsonl"
    result = run(source, "-o", str(out), "--near-duplicates", "drop", "--one-per-prompt")
    assert "one per prompt" in result.stderr
    rows = read_rows(str(out))
    assert len({row.prompt_id for row in rows}) == len(rows)
    assert abs(sum(row.label for row in rows) - len(rows) / 2) <= 1


def test_a_bad_threshold_is_a_usage_error(tmp_path: Path) -> None:
    source = save(tmp_path / "in.jsonl", records())
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--near-duplicates", "drop", "--near-threshold", "0.2")
    assert result.exit_code == 2
    assert "--near-threshold is 0.2" in result.stderr


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=20),
    st.sampled_from([0.6, 0.9, 1.0]),
)
def test_texts_without_one_of_about_their_length_are_not_compared(
    texts: list[tuple[int, int]], threshold: float
) -> None:
    within, lengths = np.array([t[0] for t in texts], dtype=int), np.array([t[1] for t in texts], dtype=int)
    expected = [
        any(
            group == other_group and min(length, other) >= (threshold - SPREAD) * max(length, other)
            for j, (other_group, other) in enumerate(texts)
            if i != j
        )
        for i, (group, length) in enumerate(texts)
    ]
    assert comparable(lengths, within, threshold).tolist() == expected


def test_no_near_pair_is_lost_by_comparing_lengths_first() -> None:
    """One completion with ever more of it left out: whatever agrees as near ones do has a comparable length."""
    whole = sentence(5, words=200)
    texts = [whole[: len(whole) - cut] for cut in range(0, len(whole) // 2, 7)]
    found = signatures(texts)
    for threshold in (0.6, 0.9):
        share = (found[0] == found).mean(axis=1)
        for text in (texts[i] for i in np.flatnonzero(share >= threshold)[1:]):
            lengths = np.array([len(whole), len(text)])
            assert comparable(lengths, np.zeros(2, dtype=int), threshold).all()


@given(
    st.lists(st.tuples(st.integers(0, 1), st.text("aAé ", max_size=24)), max_size=12),
    st.sampled_from([0.6, 0.9, 1.0]),
)
def test_texts_whose_pieces_are_nearly_the_same_are_compared(texts: list[tuple[int, str]], threshold: float) -> None:
    within, words = np.array([t[0] for t in texts], dtype=int), folded([t[1] for t in texts])
    left = alike(words, within, threshold)
    sets = [pieces(word.decode().ljust(5, "\0")) for word in words]
    for one in range(len(texts)):
        for other in range(one):
            shared, together = len(sets[one] & sets[other]), len(sets[one] | sets[other])
            if within[one] == within[other] and shared >= (threshold - SPREAD) * together:
                assert left[one]
                assert left[other]


def test_what_is_compared_goes_by_the_share_of_pieces() -> None:
    whole = sentence(5, words=60)
    for changed in range(0, len(whole), 7):
        other = sentence(6, words=90)[:changed] + whole[changed:]
        shared, together = len(pieces(whole) & pieces(other)), len(pieces(whole) | pieces(other))
        for threshold in (0.6, 0.9):
            left = alike(folded([whole, other]), np.zeros(2, dtype=int), threshold)
            assert left.all() or shared < (threshold - SPREAD) * together
            assert not left.any() or shared > (threshold - SPREAD - 0.2) * together  # some share a bucket by chance


def test_texts_that_share_few_pieces_are_not_compared_unless_they_are_many() -> None:
    texts = [sentence(seed, words=30 + 20 * seed) for seed in range(6)]
    texts += [texts[5].replace(texts[5][9], "q", 1), sentence(8, words=300)]
    within = np.zeros(len(texts), dtype=int)
    assert np.flatnonzero(alike(folded(texts), within, 0.9)).tolist() == [5, 6]
    assert not alike(folded(texts), np.arange(len(texts)), 0.9).any()
    many = [*texts, sentence(9)]
    assert len(many) > FEW_COMPLETIONS
    assert alike(folded(many), np.zeros(len(many), dtype=int), 0.9).all()


def test_chats_are_as_near_as_texts(tmp_path: Path) -> None:
    source, out = save(tmp_path / "in.jsonl", records()), str(tmp_path / "out.jsonl")
    result = run(source, "-o", out, "--near-duplicates", "drop", "--as", "chat")
    assert "skipped 5: 2 near-contradiction, 2 near-duplicate, 1 duplicate" in result.stderr


def test_prompts_of_rows_that_are_refused_bring_no_others_together(tmp_path: Path) -> None:
    """Two prompts that a third one lies between, which stands in a chat among texts and so is in no row."""
    between = sentence(1, words=24)
    first, last = f"zaqzy jivwoxi {between}", f"{between} wyxovyvy quzaj"
    shares = [agreement(first, between), agreement(between, last), agreement(first, last)]
    assert min(shares[:2]) > 0.8 > shares[2]
    rows = [{"prompt": prompt, "completion": sentence(7), "label": True} for prompt in (first, last)]
    chat = {
        "prompt": [{"role": "user", "content": between}],
        "completion": [{"role": "assistant", "content": "yes"}],
        "label": True,
    }
    source, out = save(tmp_path / "in.jsonl", [*rows, chat]), str(tmp_path / "out.jsonl")
    options = ("--near-duplicates", "drop", "--near-threshold", "0.8", "--quarantine", str(tmp_path / "bad.jsonl"))
    run(source, "-o", out, *options)
    assert len(read_rows(out)) == 2
    texts = save(tmp_path / "texts.jsonl", [*rows, {"prompt": between, "completion": "yes", "label": True}])
    run(texts, "-o", out, *options)
    assert len(read_rows(out)) == 2  # with it as a row, one of the two is a near-duplicate
