"""Chat exports to rows in one speaker's voice: Telegram's JSON, WhatsApp's text, any file with a message a record."""

import contextlib
import datetime
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktodata.chats import whatsapp
from ktodata.chats.export import label_chat
from ktodata.chats.tables import Fields, seconds
from ktodata.chats.voice import Said, replies, voice_of
from ktodata.cli import main
from ktodata.errors import KtodataError, RowError
from ktodata.io import Quarantine, read_rows
from ktodata.schema import Row
from ktodata.sources import Example, Skip
from ktodata.unpair import Unpaired

START = datetime.datetime(2024, 3, 12, 18, 0, tzinfo=datetime.UTC)
HOUR = 60


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["label", *arguments])


def message(number: int, author: str | None, text: Any, minute: float = 0, **more: Any) -> dict[str, Any]:
    """A message as Telegram's desktop app exports it."""
    moment = START + datetime.timedelta(minutes=minute or number)
    return {
        "id": number,
        "type": "message",
        "date": moment.strftime("%Y-%m-%dT%H:%M:%S"),
        "date_unixtime": str(int(moment.timestamp())),
        "from": author,
        "from_id": f"user{author}",
        "text": text,
        "text_entities": [],
        **more,
    }


def chat(*messages: dict[str, Any], name: str = "Bob", kind: str = "personal_chat", number: int = 1) -> dict[str, Any]:
    return {"name": name, "type": kind, "id": number, "messages": list(messages)}


def export(path: Path, value: dict[str, Any]) -> str:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    return str(path)


def short(made: Unpaired | list[Row]) -> Counter[tuple[tuple[tuple[str, str], ...], str]]:
    rows = made.rows if isinstance(made, Unpaired) else made
    return Counter(
        (tuple((turn["role"], turn["content"]) for turn in row.prompt), row.completion[0]["content"])  # type: ignore[index,misc]
        for row in rows
    )


ANNA = [
    message(1, None, "", type="service", action="phone_call"),
    message(2, "Bob", "hi"),
    message(3, "Bob", "are you there?"),
    message(4, "Anna", "yep"),
    message(5, "Anna", ["look: ", {"type": "link", "text": "https://a.b"}, " ok?"]),
    message(6, "Bob", "", photo="photos/1.jpg"),
    message(7, "Bob", "nice"),
    message(8, "Anna", "said elsewhere", forwarded_from="Carl"),
    message(9, "Anna", "ikr"),
    message(10, "Anna", "good morning!", minute=12 * HOUR),
    message(11, "Bob", "morning", minute=12 * HOUR + 1),
    message(12, "Anna", "coffee?", minute=12 * HOUR + 2),
]
FIRST = ((("user", "hi\nare you there?"),), "yep\nlook: https://a.b ok?")
SECOND = (
    (("user", "hi\nare you there?"), ("assistant", "yep\nlook: https://a.b ok?"), ("user", "nice")),
    "ikr",
)
THIRD = ((("user", "morning"),), "coffee?")


def test_a_telegram_chat_becomes_replies_in_one_voice(tmp_path: Path) -> None:
    source = export(tmp_path / "result.json", chat(*ANNA))
    out = tmp_path / "rows.jsonl"
    result = run(source, "-o", str(out), "--speaker", "anna")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [
        "read    12 messages (12 completions, layout telegram)",
        f"written 3 rows to {out}: 3 desirable, 0 undesirable",
        "skipped 9: 4 someone else's turn, 1 forwarded, 1 no text, 1 nothing before it, 1 part of the turn before, "
        "1 service message",
        "warning: no undesirable rows; KTO needs both classes; `ktodata negatives` makes some",
    ]
    rows = read_rows(str(out))
    assert short(rows) == Counter([FIRST, SECOND, THIRD])
    assert all(row.label and row.origin == "feedback" for row in rows)


def test_the_export_of_an_account_keeps_chats_apart(tmp_path: Path) -> None:
    other = [message(1, "Eve", "buy this"), message(2, "Anna", "no")]
    whole = {
        "about": "Here is the data you requested.",
        "chats": {"about": "…", "list": [chat(*ANNA), chat(*other, name="Eve", number=2)]},
        "left_chats": {"list": [chat(message(1, "Joe", "bye"), message(2, "Anna", "ciao"), name="Joe", number=3)]},
    }
    (tmp_path / "export").mkdir()
    export(tmp_path / "export" / "result.json", whole)
    made = label_chat(str(tmp_path / "export"), voice_of(["userAnna"]))
    expected = [FIRST, SECOND, THIRD, ((("user", "buy this"),), "no"), ((("user", "bye"),), "ciao")]
    assert short(made) == Counter(expected)


def test_in_a_group_words_carry_names(tmp_path: Path) -> None:
    group = chat(
        message(1, "Bob", "lunch?"),
        message(2, "Eve", "yes"),
        message(3, "Eve", "pizza"),
        message(4, "Anna", "I'm in"),
        message(5, None, "old account"),
        message(6, "Anna", "who is this?"),
        kind="private_group",
    )
    made = label_chat(export(tmp_path / "result.json", group), voice_of(["Anna"]))
    lunch = ("user", "Bob: lunch?\nEve: yes\npizza")
    account = ("user", "Deleted Account: old account")
    expected = [((lunch,), "I'm in"), ((lunch, ("assistant", "I'm in"), account), "who is this?")]
    assert short(made) == Counter(expected)


def test_context_and_gap(tmp_path: Path) -> None:
    source = export(tmp_path / "result.json", chat(*ANNA))
    less = label_chat(source, voice_of(["Anna"], context=2))
    assert short(less) == Counter([FIRST, ((("user", "nice"),), "ikr"), THIRD]), "a prompt begins with the user"
    whole = label_chat(source, voice_of(["Anna"], gap=86400.0))
    assert (SECOND[0], "ikr\ngood morning!") in short(whole)
    close = run(source, "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna", "--gap", "30s")
    assert "nothing to write: 12 completions read" in close.stderr
    last = label_chat(source, voice_of(["Bob"]))
    assert (((("user", "good morning!"),), "morning")) in short(last)


def test_times_decide_and_not_the_order_of_the_file(tmp_path: Path) -> None:
    rows = label_chat(export(tmp_path / "a.json", chat(*ANNA)), voice_of(["Anna"])).rows
    again = label_chat(export(tmp_path / "a.json", chat(*ANNA[::-1])), voice_of(["Anna"]))
    assert again.rows == rows
    dated = [{key: value for key, value in one.items() if key != "date_unixtime"} for one in ANNA]
    assert label_chat(export(tmp_path / "a.json", chat(*dated)), voice_of(["Anna"])).rows == rows
    # The date is this machine's clock, which goes back in autumn; seconds since 1970 do not.
    clock = [message(1, "Bob", "a?", date="2024-10-27T02:50:00"), message(2, "Anna", "b", date="2024-10-27T02:10:00")]
    (row,) = label_chat(export(tmp_path / "a.json", chat(*clock)), voice_of(["Anna"])).rows
    assert row.prompt == [{"role": "user", "content": "a?"}]


def test_a_pause_as_long_as_the_gap_ends_nothing(tmp_path: Path) -> None:
    source = export(tmp_path / "a.json", chat(message(1, "Bob", "a?"), message(2, "Anna", "b", minute=31)))
    assert len(label_chat(source, voice_of(["Anna"], gap=1800.0)).rows) == 1
    assert label_chat(source, voice_of(["Anna"], gap=1799.0)).skipped["nothing before it"] == 1


def test_control_characters_as_telegram_writes_them(tmp_path: Path) -> None:
    """They are no JSON as they stand there; after another backslash they are text."""
    texts = {r"a\\x08b\x1Fc": "a\\x08b\x1fc", r"\\\x08": "\\\x08", r"\n\u00e9\"\x41": '\n\u00e9"A'}
    said = [message(n, ("Bob", "Anna")[n % 2], f"text {n}") for n in range(4)]
    for written, meant in texts.items():
        whole = json.dumps(chat(*said)).replace("text 3", written)
        (tmp_path / "result.json").write_text(whole, encoding="utf-8")
        assert meant in [row.completion[0]["content"] for row in label_chat(str(tmp_path), voice_of(["Anna"])).rows]  # type: ignore[index]
    (tmp_path / "result.json").write_text(whole.replace("text 1", r"\xZZ"), encoding="utf-8")
    with pytest.raises(KtodataError, match="not JSON"):
        label_chat(str(tmp_path), voice_of(["Anna"]))


@pytest.mark.parametrize("place", [2**20 - 20, 2**20 - 10, 2**20 - 5, 2**20, 3 * 2**20])
def test_an_export_may_begin_with_much_else(tmp_path: Path, place: int) -> None:
    head = len(json.dumps({"about": "", "name": "Bob", "type": "personal_chat", "id": 1}))
    whole = json.dumps({"about": "x" * (place - head), **chat(*ANNA)})
    assert abs(whole.index('"messages"') - place) < 3
    (tmp_path / "result.json").write_text(whole, encoding="utf-8")
    assert len(label_chat(str(tmp_path), voice_of(["Anna"])).rows) == 3


WHATSAPP = {
    "German": (
        "12.03.24, 18:01 - Nachrichten sind Ende-zu-Ende-verschlüsselt.\n12.03.24, 18:02 - Bob: hi\nare you: there?\n"
        "12.03.24, 18:04 - Anna: yep\n12.03.24, 18:05 - Anna: <Medien ausgeschlossen>\n"
    ),
    "American": (
        "3/12/24, 6:01\u202fPM - Messages are end-to-end encrypted.\n3/12/24, 6:02\u202fPM - Bob: hi\nare you: there?\n"
        "3/12/24, 6:04\u202fPM - Anna: yep\n3/12/24, 6:05\u202fPM - Anna: <Media omitted>\n"
    ),
    "iPhone": (
        "\u200e[12/03/2024, 18:01:00] Bob created this group\r\n[12/03/2024, 18:02:00] Bob: hi\nare you: there?\r\n"
        "[12/03/2024, 18:04:00] Anna: yep\r\n\u200e[12/03/2024, 18:05:00] Anna: \u200eimage omitted\r\n"
    ),
}


TIMES = {
    "31.12.24 kl. 22.02 - ": "2024-12-31T22:02:00",
    "2024-12-31 kl. 22:02 - ": "2024-12-31T22:02:00",
    "2024/12/31 下午10:02 - ": "2024-12-31T22:02:00",
    "2024/12/31 上午 10:02 - ": "2024-12-31T10:02:00",
    "[2024/12/31 下午12:02:03] ": "2024-12-31T12:02:03",
    "2024/12/31 凌晨12:02 - ": "2024-12-31T00:02:00",
    "2024. 12. 31. 오후 10:02 - ": "2024-12-31T22:02:00",
    "31/12/2024, 10:02 p. m. - ": "2024-12-31T22:02:00",
    "31/12/2024 à 22:02 - ": "2024-12-31T22:02:00",
    "31/12/2024 22:02 - ": "2024-12-31T22:02:00",
    "12/31/24, 12:02 AM - ": "2024-12-31T00:02:00",
    "31-12-2024 22:02 - ": "2024-12-31T22:02:00",
}


@pytest.mark.parametrize("start", TIMES)
def test_whatsapp_writes_times_in_many_ways(tmp_path: Path, start: str) -> None:
    (tmp_path / "chat.txt").write_text(f"{start}Anna: hi\nand 12.03.24 more\n", encoding="utf-8")
    opened = whatsapp.open_export(tmp_path / "chat.txt", "s")
    assert opened is not None
    (one,) = opened()
    moment = datetime.datetime.fromisoformat(f"{TIMES[start]}+00:00").timestamp()
    assert one.values() == {"author": "Anna", "time": moment, "text": "hi\nand 12.03.24 more"}


@pytest.mark.parametrize("country", WHATSAPP)
def test_a_whatsapp_chat(tmp_path: Path, country: str) -> None:
    (tmp_path / "chat.txt").write_text(WHATSAPP[country], encoding="utf-8", newline="")
    made = label_chat(str(tmp_path / "chat.txt"), voice_of(["Anna"]))
    assert short(made) == Counter([((("user", "hi\nare you: there?"),), "yep")])
    assert made.skipped == {"service message": 1, "someone else's turn": 1, "no text": 1}


def test_whether_days_or_months_come_first_is_found_out(tmp_path: Path) -> None:
    days = ["01/02/24", "02/02/24", "03/02/24"]  # one day apart, or a month
    for dates, count in ((days, 2), ([f"{date[3:5]}/{date[:2]}/24" for date in days], 2)):
        lines = [
            f"{date}, 23:5{n} - {author}: {date}{n}\n" for n, date in enumerate(dates) for author in ("Bob", "Anna")
        ] + ["28/02/24, 10:00 - Bob: x\n" if dates is days else "02/28/24, 10:00 - Bob: x\n"]
        (tmp_path / "chat.txt").write_text("".join(lines), encoding="utf-8")
        made = label_chat(str(tmp_path / "chat.txt"), voice_of(["Anna"], gap=36 * 3600.0, context=9))
        assert max(len(row.prompt) for row in made.rows) == 2 * count + 1


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_any_file_with_a_message_a_record(tmp_path: Path, suffix: str) -> None:
    import pandas

    frame = pandas.DataFrame(
        [
            {"room": one, "sender": who, "sent_at": f"2024-03-12T18:0{n}:00", "body": text}
            for one in ("a", "b")
            for n, (who, text) in enumerate(
                [("Bob", f"hi {one}"), ("Anna", f"yo {one}"), (None, "joined"), ("Bob", None)]
            )
        ]
    )
    path = tmp_path / f"chat{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    made = label_chat(str(path), voice_of(["Anna"]))
    assert short(made) == Counter([((("user", "hi a"),), "yo a"), ((("user", "hi b"),), "yo b")])
    assert made.skipped == {"someone else's turn": 2, "no author": 2, "no text": 2}
    fields = ["--author", "sender", "--time", "sent_at", "--text", "body", "--chat", "room"]
    result = run(str(path), "-o", str(tmp_path / "o.jsonl"), *fields, "--speaker", "Anna")
    assert short(read_rows(str(tmp_path / "o.jsonl"))) == short(made), result.stderr


@pytest.mark.parametrize(
    "values",
    [
        [1710266400, 1710266460],
        [1710266400000, 1710266460000],
        ["1710266400.5", "1710266460"],
        ["2024-03-12 18:00:00", "2024-03-12T18:01:00+00:00"],
        [1710266400000000, "1710266460000000"],
        [1710266400000000000, 1710266460000000000],
        ["2024-03-12", "2024-03-12T00:01:00"],
        [20240312, "2024-03-12T00:01:00"],
        ["20240312", 1710201660],
        [20240312.0, "20240312.0"],
        [20240312180500, "2024-03-12T18:06:00"],
        ["202403121805", "20240312180600"],
    ],
)
def test_times_in_many_forms(tmp_path: Path, values: list[Any]) -> None:
    records = [{"author": who, "time": value, "text": who} for who, value in zip(("Bob", "Anna"), values, strict=True)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    assert len(label_chat(str(path), voice_of(["Anna"], gap=90.0)).rows) == 1


@pytest.mark.parametrize("finer", [1, 10**3, 10**6, 10**9])
def test_times_are_seconds_whatever_they_count(finer: int) -> None:
    for second in (1710266400, 4102444800):
        for value in (second * finer, str(second * finer), float(second * finer), Decimal(second * finer)):
            assert seconds(value, "time", "a.csv:1") == second
    assert seconds(20240312.5, "time", "") == 20240312.5
    moment = START.timestamp() + 300
    for value in (20240312180500, 202403121805, 20240312180500.0, Decimal(202403121805), " 20240312180500 "):
        assert seconds(value, "time", "") == moment
    for value in (18991231180500, 21000101180500):
        assert seconds(value, "time", "") == value / 1000, "in no year of chats: milliseconds"
    assert seconds(18991399, "time", "") == 18991399


@pytest.mark.parametrize("digits", ["20230230", "20241399", "202302282560", "202403122405", "20241399180500"])
def test_digits_of_a_date_that_is_none_are_no_seconds(tmp_path: Path, digits: str) -> None:
    for value in (int(digits), digits, float(digits), Decimal(digits)):
        with pytest.raises(RowError, match=r"a.csv:2: time is .*, but there is no such date or time\. Write 2024-"):
            seconds(value, "time", "a.csv:2")
    source, aside = tmp_path / "a.csv", tmp_path / "q.jsonl"
    source.write_text(f"author,time,text\nBob,20230228,hi\nAnna,{digits},yes\nBob,20230301,and?\nAnna,20230301,no\n")
    arguments = [str(source), "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna"]
    strict = run(*arguments)
    assert (strict.exit_code, strict.stderr.count("\n")) == (1, 1)
    assert f"a.csv:3: time is str '{digits}'" in strict.stderr
    assert run(*arguments, "--quarantine", str(aside)).exit_code == 0
    assert short(read_rows(str(tmp_path / "o.jsonl"))) == Counter([((("user", "and?"),), "no")])


def test_every_message_is_accounted_for_once() -> None:
    said = [Said("AB"[n * n % 3 % 2], "", n * n % 17 * 3000.0, f"{n}") for n in range(40)]
    found = list(replies(voice_of(["A"]), said))
    assert sorted(index for index, _ in found) == list(range(40))
    assert {type(one) for _, one in found} == {Example, Skip}
    for _, one in found:
        if isinstance(one, Example):
            roles = [turn["role"] for turn in one.prompt]  # type: ignore[index]
            assert roles == (["user", "assistant"] * 9)[: len(roles)]
            assert roles[-1] == "user"


BAD: dict[str, tuple[str, Any, list[str], str]] = {
    "no speaker": ("result.json", chat(*ANNA), [], "no --speaker. Who speaks in it: Anna (5), Bob (4)"),
    "a misspelt speaker": (
        "result.json",
        chat(*ANNA),
        ["--speaker", "Ana"],
        "no messages by Ana. Who speaks in it: Anna",
    ),
    "an empty speaker": ("result.json", chat(*ANNA), ["--speaker", ""], "no messages by . Who speaks"),
    "a prompt of a chat": (
        "result.json",
        chat(*ANNA),
        ["--speaker", "Anna", "--prompt", "text", "--on-both", "skip"],
        "--on-both and --prompt have no effect on a chat. Leave",
    ),
    "a split of a chat": (
        "result.json",
        chat(*ANNA),
        ["--speaker", "Anna", "--split", "train"],
        "--split has no effect on a chat",
    ),
    "columns of Telegram's": (
        "result.json",
        chat(*ANNA),
        ["--speaker", "Anna", "--author", "from"],
        "result.json: --author in Telegram's export, which has no columns to choose. Leave it out",
    ),
    "cut off": (
        "result.json",
        json.dumps(chat(*ANNA), indent=1)[:-50],
        ["--speaker", "Anna"],
        "result.json: not JSON: ",
    ),
    "no messages": ("result.json", chat(), ["--speaker", "Anna"], "error: "),
    "a text that is none": (
        "result.json",
        chat(message(1, "Bob", 5)),
        ["--speaker", "Bob"],
        "Bob, message 1: text is int 5, neither a string",
    ),
    "a piece of text that is none": (
        "result.json",
        chat(message(1, "Bob", [{"type": "bold"}])),
        ["--speaker", "Bob"],
        "message 1: text is list",
    ),
    "a date that is none": (
        "result.json",
        chat(message(1, "Bob", "x", date_unixtime=None, date="noon")),
        ["--speaker", "Bob"],
        "message 1: date is str 'noon', not a time",
    ),
    "half of an emoji": (
        "result.json",
        chat(message(1, "Bob", "\ud83d")),
        ["--speaker", "Bob"],
        "Bob, message 1: half of a surrogate pair",
    ),
    "a message that is none": ("result.json", chat(message(1, "Bob", "x"), 5), ["--speaker", "Bob"], "not an object"),  # type: ignore[arg-type]
    "a text file that is no chat": (
        "notes.txt",
        "Dear diary\n",
        ["--speaker", "Anna"],
        "no message in it that WhatsApp",
    ),
    "dates that are none": (
        "c.txt",
        "99.99.24, 18:00 - Bob: hi\n",
        ["--speaker", "Bob"],
        "c.txt:1: a date or time that is none, whichever of day, month and year comes first. Mend it, or name a --quar",
    ),
    "a page": ("messages.html", "<html>", ["--speaker", "Anna"], "Telegram offers machine-readable JSON"),
    "an archive": ("chat.zip", "PK", [], "Unpack it: WhatsApp's .txt is in it"),
    "not UTF-8": ("c.txt", "12.03.24, 18:00 - Bob: hé\n".encode("latin-1"), ["--speaker", "Bob"], "c.txt:1: not UTF-8"),
    "no author": ("a.jsonl", '{"time": 1, "text": "x"}\n', ["--speaker", "A"], "no column that could be the author"),
    "no time": (
        "a.jsonl",
        '{"author": "A", "text": "x"}\n',
        ["--speaker", "A"],
        "be the time of a message (columns: author, text)",
    ),
    "no text": ("a.jsonl", '{"author": "A", "time": 1}\n', ["--speaker", "A"], "Name it with --text"),
    "a misspelt field": (
        "a.jsonl",
        '{"who": "A", "time": 1, "text": "x"}\n',
        ["--author", "woh"],
        "--author: no column 'woh'. Did you mean 'who'",
    ),
    "a number as author": (
        "a.jsonl",
        '{"author": 3, "time": 1, "text": "x"}\n',
        ["--speaker", "A"],
        "author is int 3, not a string",
    ),
    "an endless time": (
        "a.jsonl",
        '{"author": "A", "time": 1e999, "text": "x"}\n',
        ["--speaker", "A"],
        "time is float inf, not a time",
    ),
    "a time of 400 digits": (
        "a.jsonl",
        f'{{"author": "A", "time": {"9" * 400}, "text": "x"}}\n',
        ["--speaker", "A"],
        "time is int 9999",
    ),
    "a date of 400 digits": (
        "result.json",
        chat(message(1, "Bob", "x", date_unixtime=int("9" * 400))),
        ["--speaker", "Bob"],
        "message 1: date is int 9999",
    ),
    "an empty file": ("a.jsonl", "", ["--speaker", "A"], "the file is empty"),
    "no such file": ("", "", ["--speaker", "A"], "no such file or folder"),
    "no context": ("result.json", chat(*ANNA), ["--speaker", "Anna", "--context", "0"], "'--context'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, arguments, text = BAD[case]
    if name and isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif name:
        shown = content if isinstance(content, str) else json.dumps(content, indent=1)
        (tmp_path / name).write_text(shown, encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    result = run(name or "none.json", "-o", "o.jsonl", *arguments)
    assert result.exit_code in (1, 2), result.output
    assert text in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_unpair_sends_a_chat_export_to_label(tmp_path: Path) -> None:
    source = export(tmp_path / "result.json", chat(*ANNA))
    result = CliRunner().invoke(main, ["unpair", source, "-o", str(tmp_path / "o.jsonl")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "chat exports are for `ktodata label`" in result.stderr


def test_a_turn_without_words_stands_between_others(tmp_path: Path) -> None:
    """A reply to a picture, to something forwarded or to what cannot be read is no reply to what came before it."""
    photo, forwarded, deleted = {"photo": "photos/1.jpg"}, {"forwarded_from": "Carl"}, {"forwarded_from": None}
    for more in (photo, forwarded, deleted):
        wordless = message(3, "Bob", "" if more is photo else "see", **more)
        said = [message(1, "Bob", "a?"), message(2, "Anna", "one"), wordless, message(4, "Anna", "two")]
        said += [message(5, "Bob", "b?"), message(6, "Anna", "three")]
        made = label_chat(export(tmp_path / "result.json", chat(*said)), voice_of(["Anna"]))
        assert short(made) == Counter([((("user", "a?"),), "one"), ((("user", "b?"),), "three")])
        assert made.skipped["nothing before it"] == 1
        assert made.completions == len(made.rows) + made.skipped.total() == 6


@pytest.mark.parametrize("bad", ["Bob,soon,look", "Bob,1,look,at,that", '"",3,look', "Bob,3,"])
def test_a_message_that_cannot_be_read_stands_between_others(tmp_path: Path, bad: str) -> None:
    source, aside = tmp_path / "chat.csv", tmp_path / "q.jsonl"
    source.write_text(f"author,time,text\nBob,1,a?\nAnna,2,one\n{bad}\nAnna,4,two\nBob,5,b?\nAnna,6,three\n")
    out = str(tmp_path / "o.jsonl")
    result = run(str(source), "-o", out, "--speaker", "Anna", "--quarantine", str(aside))
    assert result.exit_code == 0, result.stderr
    assert short(read_rows(out)) == Counter([((("user", "a?"),), "one"), ((("user", "b?"),), "three")])
    assert "1 nothing before it" in result.stderr
    assert "service message" not in result.stderr
    assert len(aside.read_text().splitlines()) == 4


def test_unreadable_messages_go_to_the_quarantine(tmp_path: Path) -> None:
    source = export(tmp_path / "result.json", chat(*ANNA, message(99, "Bob", 5)))
    bad = tmp_path / "bad.jsonl"
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna", "--quarantine", str(bad))
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
    assert [line["record"]["text"] for line in lines if line["reason"] == "unreadable"] == [5]
    assert len(lines) == 10


WRONG_AUTHORS: list[Any] = [{"a": 1}, ["Anna"], 5, True]


@pytest.mark.parametrize("field", ["from", "from_id"])
def test_an_author_of_another_type_is_unreadable(tmp_path: Path, field: str) -> None:
    wrong = [one for one in WRONG_AUTHORS if not (field == "from_id" and one == 5)]
    messages = [message(0, "Bob", "hi"), message(1, "Anna", "hey")]
    messages += [message(2 + n, "Bob", "x", **{field: one}) for n, one in enumerate(wrong)]
    messages += [message(9, "Anna", "what?"), message(10, None, "gone", from_id=None), message(11, "Anna", "yes")]
    (tmp_path / "result.json").write_text(json.dumps({"name": "B", "type": "x", "id": 1, "messages": messages}))
    bad = tmp_path / "bad.jsonl"
    options = ["-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna"]
    result = run(str(tmp_path / "result.json"), *options)
    assert (result.exit_code, f"{field} is dict {{'a': 1}}, not a string" in result.stderr) == (1, True), result.stderr
    result = run(str(tmp_path / "result.json"), *options, "--quarantine", str(bad))
    assert result.exit_code == 0, result.stderr
    reasons = [json.loads(line) for line in bad.read_text().splitlines()]
    assert [one["record"][field] for one in reasons if one["reason"] == "unreadable"] == wrong


@pytest.mark.parametrize("chat", [None, "", " ", {"id": 1}, [1], True, ...])
def test_a_message_of_an_unknown_chat_is_unreadable_and_in_none(tmp_path: Path, chat: Any) -> None:
    lines: list[dict[str, Any]] = [
        {"author": "Bob", "time": 1, "text": "in one", "chat": "a"},
        {"author": "Bob", "time": 2, "text": "lost", "chat": chat},
        {"author": "Anna", "time": 3, "text": "lost too", "chat": chat},
        {"author": "Bob", "time": 4, "text": "in seven", "chat": 7},
        {"author": "Anna", "time": 5, "text": "reply", "chat": 7},
    ]
    records = [{key: value for key, value in line.items() if value is not ...} for line in lines]
    source, bad = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    result = run(str(source), "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna")
    assert result.exit_code == 1
    assert "a.jsonl:2: chat is " in result.stderr
    assert "so it is not known which chat the message is in" in result.stderr
    options = ["-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna", "--quarantine", str(bad)]
    assert run(str(source), *options).exit_code == 0
    refused = [json.loads(line) for line in bad.read_text().splitlines()]
    assert [one["where"][-1] for one in refused if one["reason"] == "unreadable"] == ["2", "3"]
    assert [row.completion for row in read_rows(str(tmp_path / "o.jsonl"))] == [
        [{"role": "assistant", "content": "reply"}]
    ]


def test_rows_of_messages_are_no_chat_export(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"messages": turns, "good": True}) + "\n", encoding="utf-8")
    assert run(str(path), "-o", str(tmp_path / "o.jsonl"), "--desirable", "good").exit_code == 0
    assert label_chat.__module__ == "ktodata.chats.export"
    assert Fields()._asdict() == dict.fromkeys(("author", "time", "text", "chat"), "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "list"]), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_in_an_export_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    value: dict[str, Any] = {
        "chats": {"list": [chat(*ANNA)]},
        "messages": list(ANNA),
        "name": "x",
        "type": "y",
        "id": 1,
    }
    if data.draw(st.booleans()):
        del value["chats"]
    for place in range(len(ANNA)):
        if data.draw(st.booleans()):
            columns = data.draw(st.dictionaries(st.sampled_from(sorted(ANNA[0])), VALUES, max_size=2))
            value["messages"][place] = {**ANNA[place], **columns}
    value |= data.draw(
        st.dictionaries(st.sampled_from(["chats", "messages", "name", "left_chats"]), VALUES, max_size=1)
    )
    source = export(tmp_path_factory.mktemp("chat") / "result.json", value)
    with contextlib.suppress(KtodataError):
        label_chat(source, voice_of(["Anna"]))
    with contextlib.suppress(KtodataError), Quarantine(None) as quarantine:
        made = label_chat(source, voice_of(["Anna"]), quarantine=quarantine)
        assert made.completions == len(made.rows) + sum(made.skipped.values())


LINES = st.lists(
    st.sampled_from(
        ["12.03.24, 18:0", "[12/3/24, 6:05:11 PM] ", "3", " - ", "Anna: hi", "Bob", ": ", "99/99/99, 1:00 - A: x", "\n"]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(text=LINES | st.text(max_size=30))
def test_whatever_is_in_a_text_file_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("chat") / "chat.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(KtodataError):
        label_chat(str(path), voice_of(["Anna"]))
    with contextlib.suppress(KtodataError), Quarantine(None) as quarantine:
        made = label_chat(str(path), voice_of(["Anna"]), quarantine=quarantine)
        assert made.completions == len(made.rows) + sum(made.skipped.values())


def test_an_export_without_dates_or_messages_is_told_as_such(tmp_path: Path) -> None:
    dateless = [{**one, "date": None, "date_unixtime": None} for one in ANNA[1:5]]
    for messages, told in (
        (dateless, "4 of 4 messages cannot be read, and nobody says anything in the others; the first: date is null"),
        (
            [*dateless, message(9, "Bob", "hi")],
            "no messages by Anna. Who speaks in it: Bob (1); 4 messages cannot be read",
        ),
    ):
        source = export(tmp_path / "result.json", chat(*messages))
        result = run(source, "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna", "--quarantine", str(tmp_path / "q"))
        assert result.exit_code in (1, 2)
        assert told in result.stderr
    for value in ({"messages": {}}, {"name": "x", "type": "personal_chat", "id": 1, "messages": None}, {"chats": {}}):
        result = run(export(tmp_path / "result.json", value), "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna")
        assert result.exit_code == 1
        assert "Telegram's export, but" in result.stderr
        assert "--time" not in result.stderr
