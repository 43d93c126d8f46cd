"""What of chat exports cannot be read, Telegram's above all: no chats, keys that are there twice, names of files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ktodata.chats.export import label_chat
from ktodata.chats.voice import voice_of
from ktodata.errors import KtodataError
from ktodata.io import read_rows
from tests.test_label_chats import ANNA, FIRST, SECOND, THIRD, WHATSAPP, chat, export, message, run, short


def quarantined(source: str, path: Path, speaker: str = "Anna") -> tuple[list[tuple[str, str, object]], Result]:
    """What of a chat is unreadable: the place's end, the detail, and the record."""
    aside = path / "q.jsonl"
    result = run(source, "-o", str(path / "o.jsonl"), "--speaker", speaker, "--quarantine", str(aside))
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in aside.read_text().splitlines()]
    return [
        (line["where"].rpartition("/")[2], line["detail"], line["record"])
        for line in lines
        if line["reason"] == "unreadable"
    ], result


def test_what_is_no_chat_in_an_account_is_unreadable(tmp_path: Path) -> None:
    odd = [
        (
            {"name": "Eve", "type": "personal_chat", "id": 2, "messages": {"a": 1}},
            "Eve: messages is dict {'a': 1}, not",
        ),
        ({"name": "Joe", "type": "personal_chat", "id": 3}, "Joe: a chat without messages"),
        (5, "chat 4: a JSON number, not an object"),
        (None, "chat 5: a JSON null, not an object"),
    ]
    whole = {"chats": {"list": [chat(*ANNA), *(one for one, _ in odd)]}}
    source = export(tmp_path / "result.json", whole)
    found, result = quarantined(source, tmp_path)
    assert short(read_rows(str(tmp_path / "o.jsonl"))) == Counter([FIRST, SECOND, THIRD])
    assert "4 unreadable" in result.stderr
    assert [record for _, _, record in found] == [one for one, _ in odd]
    for (where, detail, _), (one, told) in zip(found, odd, strict=True):
        assert f"{where}: {detail}".startswith(f"result.json: {told}")
        strict = run(export(tmp_path / "result.json", {"chats": {"list": [chat(*ANNA), one]}}), "-o", "-")
        assert strict.exit_code == 1
        assert told.partition(": ")[2] in strict.stderr


def test_chats_of_one_name_have_places_of_their_own(tmp_path: Path) -> None:
    said = [message(1, "Bob", "a?"), message(2, "Anna", "one"), message(3, "Bob", "b?"), message(4, "Anna", "two")]
    broken = [*said[:2], message(3, "Bob", 5), *said[3:]]
    names = ["Team", "Eve", "Team", "Team"]
    chats = [chat(*messages, name=name) for messages, name in zip((broken, said, said, said), names, strict=True)]
    source = export(tmp_path / "result.json", {"chats": {"list": chats[:3]}, "left_chats": {"list": chats[3:]}})
    found, result = quarantined(source, tmp_path)
    assert [where for where, _, _ in found] == ["result.json: Team (chat 1), message 3"]
    assert "1 nothing before it" in result.stderr, "in the chat with the gap, and in no other"
    places = {json.loads(line)["where"] for line in (tmp_path / "q.jsonl").read_text().splitlines()}
    for number in (1, 3, 4):
        assert any(f"Team (chat {number}), message 1" in place for place in places)
    assert any(place.endswith("result.json: Eve, message 1") for place in places), "a name that is there once"


@pytest.mark.parametrize("left", [{"list": {}}, {"about": ""}, 5, []])
def test_a_part_of_an_account_without_a_list_is_an_error(tmp_path: Path, left: Any) -> None:
    source = export(tmp_path / "result.json", {"chats": {"list": [chat(*ANNA)]}, "left_chats": left})
    with pytest.raises(KtodataError, match="Telegram's export, but left_chats has no list of chats"):
        label_chat(source, voice_of(["Anna"]))


def test_a_message_with_a_key_twice_is_unreadable(tmp_path: Path) -> None:
    source = export(tmp_path / "result.json", chat(*ANNA, message(13, "Bob", "first"), message(14, "Anna", "yes")))
    text = Path(source).read_text(encoding="utf-8")
    for twice in ('"first",\n"text": "second \\ud83d"', '[{"type": "bold", "text": "first", "text": "second"}]'):
        Path(source).write_text(text.replace('"first"', twice), encoding="utf-8")
        with pytest.raises(KtodataError, match="Bob, message 13: the key 'text' is there more than once"):
            label_chat(source, voice_of(["Anna"]))
        ((where, detail, record),), _ = quarantined(source, tmp_path)
        assert (where, detail) == ("result.json: Bob, message 13", "the key 'text' is there more than once")
        assert isinstance(record, str)
        assert '"text": "first"' in record
        assert '"text": "second' in record
        assert short(read_rows(str(tmp_path / "o.jsonl"))) == Counter([FIRST, SECOND, THIRD])


@pytest.mark.parametrize("depth", [300, 600, 900])
def test_a_message_nested_too_deeply_is_unreadable(tmp_path: Path, depth: int) -> None:
    source = export(tmp_path / "result.json", chat(*ANNA, message(13, "Bob", "x", more="DEEP")))
    text = Path(source).read_text(encoding="utf-8")
    Path(source).write_text(text.replace('"DEEP"', "[" * depth + "]" * depth), encoding="utf-8")
    ((where, detail, _),), _ = quarantined(source, tmp_path)
    assert (where, detail) == ("result.json: Bob, message 13", "JSON nested too deeply")
    assert short(read_rows(str(tmp_path / "o.jsonl"))) == Counter([FIRST, SECOND, THIRD])


def test_a_chat_or_an_export_with_a_key_twice(tmp_path: Path) -> None:
    source = tmp_path / "result.json"
    bob, eve = json.dumps(chat(*ANNA)), json.dumps(chat(message(1, "Eve", "hi"), name="Eve"))
    twice = eve.replace('"messages": [', '"messages": [], "messages": [')
    source.write_text(f'{{"chats": {{"list": [{bob}, {twice}]}}}}', encoding="utf-8")
    ((where, detail, record),), _ = quarantined(str(source), tmp_path)
    assert (where, detail, record) == ("result.json: Eve", "the key 'messages' is there more than once", twice)
    source.write_text(twice, encoding="utf-8")
    with pytest.raises(KtodataError, match="Eve: the key 'messages' is there more than once"):
        label_chat(str(source), voice_of(["Eve"]))
    for text in ('"chats": {"list": []}, "chats": {"list": [BOB]}', '"chats": {"list": [BOB], "list": []}'):
        source.write_text(f"{{{text}}}".replace("BOB", bob), encoding="utf-8")
        with pytest.raises(KtodataError, match=r"result.json: the key '(chats|list)' is there more than once"):
            label_chat(str(source), voice_of(["Anna"]))


@pytest.mark.parametrize("kind", ["telegram", "whatsapp", "chat"])
def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "b\udcff"
    folder.mkdir()
    if kind == "telegram":
        source = export(folder / "result.json", chat(*ANNA, message(99, "Bob", 5)))
    elif kind == "whatsapp":
        source = str(folder / "chat.txt")
        Path(source).write_text(f"{WHATSAPP['German']}12.03.24, 99:02 - Bob: x\n", encoding="utf-8")
    else:
        source = str(folder / "chat.jsonl")
        Path(source).write_text("".join(json.dumps({"author": a, "time": 1, "text": a}) + "\n" for a in ("B", "Anna")))
        with Path(source).open("a") as more:
            more.write('{"author": 5, "time": 1, "text": "x"}\n')
    strict = run(source, "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna")
    assert (strict.exit_code, strict.stderr.count("\n")) == (1, 1)
    assert "b\\udcff/" in strict.stderr
    ((where, _, _),), _ = quarantined(source, tmp_path)
    assert where
    rows = read_rows(str(tmp_path / "o.jsonl"))
    assert {row.source for row in rows} == {f"b\\udcff/{Path(source).name}"}
