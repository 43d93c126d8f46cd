"""The parts of asking a model that need none: plain rendering, journal, second tries, seeded noise."""

import json
import logging
import random
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import pytest

from ktodata.errors import KtodataError, ModelError, WriteError
from ktodata.generate.ask import BROKEN_OFF, EMPTY, Asker, conversation, replies
from ktodata.generate.contract import TOO_LONG, Outcome, Reply, Request
from ktodata.generate.journal import Journal, fingerprint
from ktodata.generate.noise import SeededChoice, UnpaddedRepetition, counters, gumbel, warpers
from ktodata.generate.render import stops_of, transcript, trim
from ktodata.negatives.contract import Ask, Skip
from ktodata.schema import Message, Text, make_row

CHAT: list[Message] = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "bye"},
]


# -------------------------------------------------------------------------------- plain rendering


def test_a_chat_as_plain_text() -> None:
    text, stops = transcript(CHAT)
    assert text == "Be brief.\n\nUser: hi\n\nAssistant: yo\n\nUser: bye\n\nAssistant:"
    assert stops == ("\nUser:", "\nAssistant:")
    text, stops = transcript([*CHAT, {"role": "tool", "content": "42"}])
    assert text.endswith("User: bye\n\nTool: 42\n\nAssistant:")
    assert stops == ("\nUser:", "\nAssistant:", "\nTool:")


@pytest.mark.parametrize(
    ("prompt", "stops"),
    [
        ("\n\nHuman: hi\n\nAssistant:", ("\nHuman:", "\nAssistant:")),
        ("Q: 2+2?\nA:", ("\nQ:", "\nA:")),
        ("Anna Lee: hey\nBob: yo\nAnna Lee: so?\nBob: ", ("\nAnna Lee:", "\nBob:")),
        ("Write a poem about spring.", ()),
        ("Note: be brief.\nWrite a poem.", ()),
        ("See https://example.com:", ()),
        ("", ()),
        ("A: 1\nB: 2\nC: 3\nD: 4\nE: 5\nF:", ("\nA:", "\nB:", "\nC:", "\nD:")),
    ],
)
def test_where_a_reply_to_text_ends(prompt: str, stops: tuple[str, ...]) -> None:
    assert stops_of(prompt) == stops


def test_trimming_takes_the_first_stop() -> None:
    assert trim(" ok\n\nUser: x\nBob: y", ("\nBob:", "\nUser:")) == (" ok\n", True)
    assert trim("ok", ("\nUser:",)) == ("ok", False)
    assert trim("ok", ()) == ("ok", False)


def test_what_a_model_replies_to() -> None:
    turns: list[Message] = [
        {"role": "assistant", "content": "let me look"},
        {"role": "tool", "content": "found"},
        {"role": "assistant", "content": "here"},
        {"role": "tool", "content": "done"},
    ]
    row = make_row(CHAT, turns, True, source="s", origin="pair")
    assert conversation(row) == [*CHAT, *turns[:2]]
    assert conversation(make_row("p", "c", True, source="s", origin="pair")) == "p"
    assert conversation(make_row(CHAT, turns[:1], True, source="s", origin="pair")) == CHAT


# -------------------------------------------------------------------------------- the journal


def filled(output: Path, facts: dict[str, object] | None = None, count: int = 5) -> Path:
    journal = Journal(output)
    section = journal.open("base", facts or {"model": "m"})
    for number in range(count):
        section.add(f"k{number}", Reply(f"text {number}\n\u2028ü", "stop" if number % 2 else "length"))
    section.add("odd", TOO_LONG)
    path = section.path
    journal.close()
    assert path
    return path


def test_what_was_added_is_found(tmp_path: Path) -> None:
    path = filled(tmp_path / "new" / "out.parquet")
    assert path.name == f"out.parquet.base-{fingerprint({'strategy': 'base', 'model': 'm'})}.journal"
    section = Journal(tmp_path / "new" / "out.parquet").open("base", {"model": "m"})
    assert section.found == 6
    assert section.known["k0"] == Reply("text 0\n\u2028ü", "length")
    assert section.known["odd"] == TOO_LONG
    section.close()


def test_a_reply_is_on_disk_before_the_next(tmp_path: Path) -> None:
    section = Journal(tmp_path / "out.jsonl").open("base", {})
    assert section.path
    for number in range(3):
        section.add(f"k{number}", Reply("x", "stop"))
        assert section.path.read_bytes().count(b"\n") == number + 2
    section.close()


@pytest.mark.parametrize("bytes_lost", [1, 2, 10, 30])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, bytes_lost: int) -> None:
    path = filled(tmp_path / "out.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-bytes_lost])
    section = Journal(tmp_path / "out.jsonl").open("base", {"model": "m"})
    assert set(section.known) == {f"k{number}" for number in range(5)}
    section.add("odd", TOO_LONG)
    section.close()
    assert path.read_bytes() == whole


def test_a_journal_killed_at_its_first_line_begins_anew(tmp_path: Path) -> None:
    path = filled(tmp_path / "out.jsonl")
    first = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(first[:20])
    section = Journal(tmp_path / "out.jsonl").open("base", {"model": "m"})
    assert not section.known
    section.close()
    assert path.read_bytes() == first


def test_damaged_lines_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path / "out.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2], lines[4] = b"\0" * 40 + b"\n", b'{"key": "k3", "text": 4}\n'
    path.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING):
        section = Journal(tmp_path / "out.jsonl").open("base", {"model": "m"})
    assert set(section.known) == {"k0", "k2", "k4", "odd"}
    assert "2 damaged lines" in caplog.text
    section.close()


def test_other_options_have_another_journal(tmp_path: Path) -> None:
    first = filled(tmp_path / "out.jsonl")
    kept = first.read_bytes()
    for strategy, facts in (("base", {"model": "other"}), ("base", {"model": "m", "top_k": 1}), ("p", {"model": "m"})):
        journal = Journal(tmp_path / "out.jsonl")
        assert not journal.open(strategy, facts).known
        journal.close(remove=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [kept], "and never touches this one"


def test_a_journal_of_other_options_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path / "out.jsonl")
    with caplog.at_level(logging.WARNING):
        Journal(tmp_path / "out.jsonl").open("base", {"model": "other"}).close()
    assert f"{path} is of other options or another model, and not used" in caplog.text


def test_an_interrupted_run_says_what_it_keeps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(*_: object, **__: object) -> Iterator[tuple[Request, Outcome]]:
        raise KeyboardInterrupt
        yield

    filled(tmp_path / "out.jsonl")
    journal = Journal(tmp_path / "out.jsonl")
    backend = Scripted({})
    backend.generate = interrupt  # type: ignore[method-assign]
    asker = Asker(backend, journal, journal.open("base", {"model": "m"}))
    row = make_row("p", "c", True, source="s", origin="pair")
    with pytest.raises(KeyboardInterrupt):
        list(replies([Ask(row, random.Random(1), "k")], ["p"], asker, cut="keep"))
    assert "6 finished replies are kept in" in caplog.text
    journal.close()


def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path) -> None:
    path = filled(tmp_path / "out.jsonl")
    path.write_text('{"mine": 1}\n', encoding="utf-8")
    with pytest.raises(KtodataError, match="is no journal of this run"):
        Journal(tmp_path / "out.jsonl").open("base", {"model": "m"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"mine": 1}


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.jsonl")
    journal.open("base", {})
    with pytest.raises(KtodataError, match="another run is writing this journal"):
        Journal(tmp_path / "out.jsonl").open("base", {})
    journal.close(remove=True)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WriteError, match="the journal cannot be written"):
        Journal(tmp_path / "file" / "out.jsonl").open("base", {})


# -------------------------------------------------------------------------------- drafts and replies


class Scripted:
    """A back end that says what a script says: for each prompt, one text after the other."""

    model, revision = "scripted", "1"

    def __init__(self, script: dict[str, list[Outcome]], *, dies_after: int = 10**9) -> None:
        self.script, self.asked, self.dies_after = script, [], dies_after
        self.asked: list[str] = []

    def generate(self, requests: Sequence[Request], *, known: Container[str]) -> Iterator[tuple[Request, Outcome]]:
        for request in reversed(requests):
            if request.key in known:
                continue
            if len(self.asked) == self.dies_after:
                raise ModelError("the server went away", do="Start it")
            self.asked.append(request.key)
            draw = int(request.key.partition("/")[2] or 0)
            yield request, self.script[str(request.prompt)][draw]


def drafts(script: dict[str, list[Outcome]], journal: Journal, **settings: object) -> tuple[list[str | Skip], Scripted]:
    backend = Scripted(script, **({"dies_after": settings.pop("dies_after")} if "dies_after" in settings else {}))  # type: ignore[arg-type]
    asker = Asker(backend, journal, journal.open("base", {}))
    prompts: list[Text] = list(script)
    row = make_row("p", "c", True, source="s", origin="pair")
    asks = [Ask(row, random.Random(prompt), f"key {prompt}") for prompt in script]
    found = dict(replies(asks, prompts, asker, cut=settings.get("cut", "sentence")))  # type: ignore[arg-type]
    return [found[place] for place in range(len(asks))], backend


def test_empty_and_broken_replies_are_drawn_again() -> None:
    full, empty, broken = Reply(" fine. ", "stop"), Reply(" \n", "stop"), Reply("no end in", "length")
    script: dict[str, list[Outcome]] = {
        "once": [full],
        "twice": [empty, full],
        "never": [empty, empty, empty],
        "broken": [broken, broken, broken],
        "cut": [Reply("One! Two", "length")],
        "long": [TOO_LONG],
    }
    found, backend = drafts(script, Journal())
    assert found == [" fine.", " fine.", EMPTY, BROKEN_OFF, "One!", TOO_LONG]
    assert len(backend.asked) == 1 + 2 + 3 + 3 + 1 + 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It is 3.5 kg. And the", "It is 3.5 kg."),
        ('He said "no." Then', 'He said "no."'),
        ("ciao! 😂 ma", "ciao! 😂"),
        ("¿Qué tal? Muy", "¿Qué tal?"),
        ("- one\n- two\n- thr", "- one\n- two"),
    ],
)
def test_what_max_tokens_broke_off_goes_back_to_its_last_sentence(text: str, kept: str) -> None:
    assert drafts({"p": [Reply(text, "length")]}, Journal())[0] == [kept]
    assert drafts({"p": [Reply(text, "length")]}, Journal(), cut="keep")[0] == [text]
    assert drafts({"p": [Reply(text, "length")]}, Journal(), cut="skip")[0] == [BROKEN_OFF]


def test_thoughts_are_no_part_of_a_reply() -> None:
    journal = Journal()
    asker = Asker(Scripted({}), journal, journal.open("base", {}))
    row = make_row(CHAT, [{"role": "assistant", "content": "c"}], True, source="s", origin="pair")
    asker.section.known["k"] = Reply("<think>\nhm\n</think>\n\n ok ", "stop")
    assert list(replies([Ask(row, random.Random(1), "k")], [CHAT], asker, cut="keep")) == [(0, "ok")]


def test_a_back_end_that_dies_again_and_again_gives_the_same_in_the_end(tmp_path: Path) -> None:
    script: dict[str, list[Outcome]] = {
        f"p{n}": [Reply("" if n % 3 == 0 else f"reply {n}.", "stop"), Reply(f"second {n}.", "stop")] for n in range(20)
    }
    undisturbed, _ = drafts(script, Journal())
    asked: list[str] = []
    for _ in range(5):
        journal, backend = Journal(tmp_path / "out.jsonl"), None
        with pytest.raises(ModelError, match=r"Start it\. [0-9]+ finished replies are kept in .*: run the same again"):
            drafts(script, journal, dies_after=4)
        assert backend is None
        asked += list(journal.sections[0].known)
    journal = Journal(tmp_path / "out.jsonl")
    found, backend = drafts(script, journal)
    assert found == undisturbed
    assert len(backend.asked) == 20 + 7 - 5 * 4, "nothing twice"
    journal.close(remove=True)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------- seeded draws


def test_noise_is_of_seed_place_and_token_alone() -> None:
    import torch

    both = torch.tensor([counters(1, 5), counters(2, 5)])
    assert torch.equal(gumbel(both, 50)[1:], gumbel(both[1:], 50))
    assert torch.equal(gumbel(both, 50), gumbel(both, 80)[:, :50])
    rows = [gumbel(torch.tensor([counters(seed, place)]), 50) for seed in (1, 2) for place in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    many = gumbel(torch.tensor([counters(seed, 0) for seed in range(400)]), 1000)
    assert torch.isfinite(many).all()
    assert abs(float(many.mean()) - 0.5772) < 0.01  # Euler's constant
    assert abs(float(many.var()) - 1.6449) < 0.02  # pi squared over 6
    correlation = torch.corrcoef(many[:60])
    assert float((correlation - torch.eye(60)).abs().max()) < 0.15


def test_the_largest_is_a_draw_from_the_distribution() -> None:
    import torch

    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03]))
    draws = 20_000
    choice = SeededChoice(range(draws), start=3)
    picked = choice(torch.zeros(draws, 3, dtype=torch.int64), logits.expand(draws, 5)).argmax(1)
    shares = torch.bincount(picked, minlength=5) / draws
    assert torch.allclose(shares, logits.exp(), atol=0.012), shares


def test_tokens_out_of_reach_are_left_out_without_changing_a_draw() -> None:
    import torch

    torch.manual_seed(0)
    scores = torch.randn(64, 5000) * 8
    drawn = torch.tensor([counters(seed, 2) for seed in range(64)])
    whole = scores + gumbel(drawn, 5000)
    found = SeededChoice(range(64), start=3)(torch.zeros(64, 5, dtype=torch.int64), scores)
    assert torch.equal(found.argmax(1), whole.argmax(1))
    assert torch.isinf(found).float().mean() > 0.5
    noise = gumbel(torch.tensor([counters(seed, 0) for seed in range(200)]), 20_000)
    assert float(noise.max() - noise.min()) < 20


def test_padding_is_not_penalised() -> None:
    import torch

    scores = torch.arange(1.0, 9.0).expand(2, 8).clone()
    padded = torch.tensor([[0, 0, 3, 4], [5, 6, 3, 4]])
    found = UnpaddedRepetition(2.0, [2, 0])(padded, scores)
    alone = UnpaddedRepetition(2.0, [0])(torch.tensor([[3, 4]]), scores[:1])
    assert torch.equal(found[0], alone[0])
    assert found[0, 0] == 1.0
    assert found[1, 5] == 3.0


def test_settings_that_change_nothing_are_left_out() -> None:
    from ktodata.generate.contract import Sampling

    assert warpers(Sampling()) == []
    wild = Sampling(temperature=1.3, top_p=0.9, top_k=5, min_p=0.1)
    assert [type(one).__name__ for one in warpers(wild)] == [
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]


def test_half_a_letter_is_not_part_of_a_reply() -> None:
    from ktodata.generate.ask import _usable
    from ktodata.generate.contract import Reply

    assert _usable(Reply("\ufffday very early \ufffd", "stop"), "prompt", "sentence") == "ay very early"
    assert _usable(Reply("\ufffd", "stop"), "prompt", "keep") == EMPTY
