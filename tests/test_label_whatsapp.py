"""WhatsApp's exports: text as it was written, what stands in it for something else, who said it, and in what order."""

import datetime
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ktodata.chats import whatsapp
from ktodata.chats.export import label_chat
from ktodata.chats.placeholders import phrases_of, words_of
from ktodata.chats.voice import voice_of
from ktodata.cli import main
from ktodata.errors import SourceError
from ktodata.io import read_rows

ANDROID, IPHONE = "12/03/2024, 18:02 - ", "[12/03/2024, 18:02:00] "


def messages(path: Path, text: str) -> list[dict[str, Any]]:
    """The messages of an export."""
    (path / "chat.txt").write_bytes(text.encode())
    opened = whatsapp.open_export(path / "chat.txt", "s")
    assert opened is not None
    return [raw.values() for raw in opened()]


NOTHING = [
    "\u200eBild weggelassen",
    "\u200eimage omitted",
    "\u200eDiese Nachricht wurde gelöscht.",
    "\u200e<attached: 0001-PHOTO.jpg>",
    "\u200e<angehängt: 0001-PHOTO.jpg>",
    "<attached: 0001-PHOTO.jpg>",
    "\u200ePOLL:\nWhere?\n\u200eOPTION: Rome (\u200e2 votes)\n\u200eOPTION: Oslo (\u200e0 votes)",
    "POLL:\nWhere?\nOPTION: Rome (2 votes)",
    "\u200eLocation: https://maps.google.com/?q=1,2",
    "location: https://maps.google.com/?q=1,2",
    "plan.pdf • \u200e3 pages \u200edocument omitted",
    "mein plan.pdf \u200eDokument weggelassen",
    "\u200eMissed voice call, \u200eTap to call back",
    "\u200eContact card omitted",
    "<Media omitted>",
    "<Medien ausgeschlossen>",
    "<Médias omis>",
    "<Без медиафайлов>",
    "<省略多媒体文件>",
    "<미디어 파일을 제외했습니다>",
    "<تم استبعاد الوسائط>",
    "<pominięto multimedia>",
    "<Mídia oculta>",
    "IMG-2024.jpg (file attached)",
    "\u200eIMG-2024.jpg (file attached)",
    "IMG-2024.jpg (ファイル添付)",
    "Rechnung vom März.pdf (Datei angehängt)",
    "This message was deleted",
    "You deleted this message.",
    "null",
    "\u200e<Media omitted> \u200e<This message was edited>",
    " <This message was edited>",
]


@pytest.mark.parametrize("text", NOTHING)
@pytest.mark.parametrize("start", [ANDROID, IPHONE])
def test_what_stands_for_something_else_is_no_text(tmp_path: Path, start: str, text: str) -> None:
    (one,) = messages(tmp_path, f"{start}Anna: {text}\n")
    assert (one["author"], one["text"]) == ("Anna", "")


WORDS = {
    "see you \u200e<Diese Nachricht wurde bearbeitet.>": "see you",
    "see you\u200e <Ce message a été modifié>": "see you",
    "see you <This message was edited>": "see you",
    "see\nyou <Se editó este mensaje>": "see\nyou",
    "look! \u200e<attached: 0001-PHOTO.jpg>": "look!",
    "look!\n\u200e<attached: 0001-PHOTO.jpg>": "look!",
    "\u200e<attached: 0001-PHOTO.jpg>\nlook!\nhere": "look!\nhere",
    "look,\nthere! \u200eBild weggelassen": "look,\nthere!",
    "read this\nplan.pdf • \u200e3 pages \u200edocument omitted": "read this",
    "IMG-2024.jpg (file attached)\nlook!\n\nhere": "look!\n\nhere",
    "\u200eIMG-2024.jpg (Datei angehängt)\nlook!": "look!",
    "<Media omitted>\nlook!": "look!",
}


@pytest.mark.parametrize("text", WORDS)
def test_the_words_beside_it_stay(tmp_path: Path, text: str) -> None:
    for start in (ANDROID, IPHONE):
        assert [one["text"] for one in messages(tmp_path, f"{start}Anna: {text}\n")] == [WORDS[text]]


VERBATIM = [
    "<3 you",
    "<3 you>",
    "<sigh>",
    "<div> and <b>",
    "nothing omitted",
    "the image omitted",
    "a message was deleted",
    "I said <this and that>",
    "see plan.pdf (the new one)",
    "<Media omitted> she says",
    "yes\u202f! ש\u200f 100\u00a0km",
    "one\u200e two \u200e3\nthree",
    "call \u200e+49 170",
    "הסרט \u200eThe Matrix is great",
    "call me \u200eDavid, not him",
    "first\nthen \u200eDavid",
    "see • \u200eThe Matrix",
    "see • \u200eThe Matrix \u200eDavid",
    "Rechnung.pdf \u200eDavid",
    "two\n\nlines ",
    "ends in lines\n\n",
    " \ttab: and colon",
    "null and void",
    '‘quoted: “this”’ and "that: too"',
]


@pytest.mark.parametrize("text", VERBATIM)
def test_text_is_as_it_was_written(tmp_path: Path, text: str) -> None:
    for start in (ANDROID, IPHONE, f"\u200e{IPHONE}"):
        for end in ("\n", "\r\n"):
            found = messages(tmp_path, f"{start}Anna: {text}\n{start}Bob: {text}\n".replace("\n", end))
            assert [(one["author"], one["text"]) for one in found] == [("Anna", text), ("Bob", text)]


CAPTIONS = """
image omitted | Contact card omitted. | Bild weggelassen | Kontaktkarte ausgelassen | GIF ausgeschlossen
imagen omitida | Tarjeta de contacto omitida | vidéo absente | document manquant | sticker omis
immagine omessa | sticker non incluso | ficheiro de áudio não revelado | imagem ocultada | afbeelding weggelaten
изображение отсутствует | стикер не добавлен | зображення відсутнє | документ пропущено | βίντεο παραλείφθηκε
Παράληψη GIF | görüntü dahil edilmedi | bild utesluten | utelatt dokument | Kontaktkort sløyfet
billede udeladt | zvukový soubor vynechán | obraz pominięty | pominięto naklejkę | videota ei sisällytetä
tarraa ei sisällytetty | Hang kihagyása | Carte de vizită contact omisă | fără audio | slika izostavljena
gambar tidak disertakan | Imatge omesa | đã bỏ qua hình ảnh | התמונה הושמטה | لم يتم إدراج الصورة | تصویر حذف شد
इमेज वगळली | 이미지 생략됨 | 画像は含まれていません | 連絡先カードを省略 | 圖片已略去 | GIF 动态图已被忽略
วิดีโอถูกลบ | ไม่มีรูปภาพ | Arquivo de mídia oculto
"""


@pytest.mark.parametrize("words", CAPTIONS.replace(" | ", "\n").split("\n")[1:-1])
def test_a_caption_ends_before_what_tells_that_a_picture_is_left_out(tmp_path: Path, words: str) -> None:
    for end in (words, words.upper(), f"\u200e{words}"):
        (one,) = messages(tmp_path, f"{IPHONE}Anna: look,\nthere! \u200e{end}\n")
        assert one["text"] == "look,\nthere!", end
    (one,) = messages(tmp_path, f"{IPHONE}Anna: look,\nthere! {words}\n")
    assert one["text"] == f"look,\nthere! {words}", "without a mark it is text"


def test_what_several_people_have_after_a_mark_is_whatsapps_where_it_stands_alone(tmp_path: Path) -> None:
    lines = {
        "Anna": "look! \u200eBildo ellasita",
        "Bob": "\u200eBildo ellasita",
        "Eve": "plan.pdf \u200eBildo ellasita.",
        "Joe": "a Bildo ellasita",
    }
    for order in (list(lines), list(lines)[::-1]):
        chat = "".join(f"{IPHONE}{author}: {lines[author]}\n" for author in order)
        found = {one["author"]: one["text"] for one in messages(tmp_path, chat)}
        assert found == {"Anna": "look!", "Bob": "", "Eve": "", "Joe": "a Bildo ellasita"}
    for alone in ("a \u200eDavid", "David", "<David>"):  # several people's, and no message's all
        chat = f"{IPHONE}Anna: call \u200eDavid\n{IPHONE}Bob: call \u200eDavid\n{IPHONE}Eve: {alone}\n"
        assert [one["text"] for one in messages(tmp_path, chat)] == ["call \u200eDavid"] * 2 + [alone]
    call = f"{IPHONE}Anna: \u200eMissed call, \u200eTap here\n{IPHONE}Bob: \u200eMissed call, \u200eTap here\n"
    assert messages(tmp_path, f"{call}{IPHONE}Eve: go \u200eTap here\n")[-1]["text"] == "go \u200eTap here"
    own = f"{IPHONE}Anna: call \u200eDavid\n{IPHONE}Anna: \u200eDavid\n"
    assert messages(tmp_path, own)[0]["text"] == "call \u200eDavid", "one person's"


@pytest.mark.parametrize("text", ["<sigh loudly>", "<très déçu>", "plan.pdf (the new one)"])
def test_what_one_person_puts_in_brackets_is_text(tmp_path: Path, text: str) -> None:
    for lines in ([text], [text] * 3, [f"{text}\nhere"]):
        chat = "".join(f"{ANDROID}Anna: {line}\n{ANDROID}Bob: see\n" for line in lines)
        assert [one["text"] for one in messages(tmp_path, chat) if one["author"] == "Anna"] == lines


@pytest.mark.parametrize("text", ["<Ei meediat>", "<Media Galibu>", "IMG-1.jpg (dosiero aldonita)"])
def test_what_several_people_have_in_brackets_is_whatsapps(tmp_path: Path, text: str) -> None:
    chat = f"{ANDROID}Anna: {text}\n{ANDROID}Bob: {text}\nlook!\n{ANDROID}Eve: I see {text}\n"
    assert [one["text"] for one in messages(tmp_path, chat)] == ["", "look!", f"I see {text}"]
    again = f"{ANDROID}Eve: I see {text}\n{ANDROID}Bob: {text}\nlook!\n{ANDROID}Anna: {text}\n"
    assert [one["text"] for one in messages(tmp_path, again)] == [f"I see {text}", "look!", ""]


BEFORE = "12.03.24, 18:00 - Bob: a?\n12.03.24, 18:01 - Anna: one\n"
AFTER = "12.03.24, 18:03 - Anna: two\n13.03.24, 18:04 - Bob: b?\n13.03.24, 18:05 - Anna: three\n"
UNREADABLE = {  # the message, where it is told to be, and why it cannot be read
    "an hour": (b"12.03.24, 99:02 - Bob: x\nmore", 3, "a date or time that is none, whichever of day, month and"),
    "an hour before noon": (b"12.03.24, 99:02 PM - Bob: x", 3, "a date or time that is none"),
    "a day": (b"32.03.24, 18:02 - Bob: x", 3, "a date that is none in the order of the others: day, month, year"),
    "a month": (b"03.13.24, 18:02 - Bob: x", 3, "a date that is none in the order of the others: day, month, year"),
    "a byte": (b"12.03.24, 18:02 - Bob: h\xe9", 3, "not UTF-8"),
    "a byte further on": (b"12.03.24, 18:02 - Bob: hi\n\nh\xe9\nx", 5, "not UTF-8"),
    "a byte of the date": (b"12.03.24,\xa018:02 - Bob: x", 2, ""),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_message_that_cannot_be_read_is_set_aside_and_the_others_are_read(tmp_path: Path, case: str) -> None:
    bad, line, told = UNREADABLE[case]
    source, aside = tmp_path / "chat.txt", tmp_path / "q.jsonl"
    source.write_bytes(BEFORE.encode() + bad + b"\n" + AFTER.encode())
    arguments = ["label", str(source), "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna"]
    strict = CliRunner().invoke(main, arguments)
    if told:  # else it is part of the message before
        assert (strict.exit_code, strict.stderr.count("\n")) == (1, 1)
        assert f"chat.txt:{line}: {told}" in strict.stderr
    else:
        assert "chat.txt:3: not UTF-8" in strict.stderr
    result = CliRunner().invoke(main, [*arguments, "--quarantine", str(aside)])
    assert result.exit_code == 0, result.stderr
    assert "1 unreadable" in result.stderr
    refused = [json.loads(line) for line in aside.read_text().splitlines()]
    (one,) = [one for one in refused if one["reason"] == "unreadable"]
    assert one["record"].endswith(bad.decode(errors="backslashreplace"))
    rows = [(row.prompt, row.completion) for row in read_rows(str(tmp_path / "o.jsonl"))]
    assert ([{"role": "user", "content": "b?"}], [{"role": "assistant", "content": "three"}]) in rows
    assert not any("two" in str(row) for row in rows), "it may be a reply to what could not be read"
    assert len(rows) == (2 if told else 1)


LATE = {  # the dates of a chat in which late messages come, and how days and months stand there
    "a minute": (["2/1/24, 12:01 AM", "1/31/24, 11:59 PM", "2/2/24, 6:00 PM"], "%m/%d/%y, %I:%M %p"),
    "twice": (["2/1/24, 12:01", "1/31/24, 23:59", "2/3/24, 00:01", "2/2/24, 23:59"], "%m/%d/%y, %H:%M"),
    "days": (["02/01/2024, 18:00", "01/17/2024, 18:00", "02/02/2024, 18:00"], "%m/%d/%Y, %H:%M"),
    "a day first": (["1.3.24, 00:01", "29.2.24, 23:59", "2.3.24, 18:00"], "%d.%m.%y, %H:%M"),
    "the year first": (["24-02-01, 00:01", "24-01-31, 23:59", "24-02-02, 18:00"], "%y-%m-%d, %H:%M"),
}


@pytest.mark.parametrize("case", LATE)
def test_a_late_message_weighs_less_than_a_date_that_is_none(tmp_path: Path, case: str) -> None:
    dates, form = LATE[case]
    found = messages(tmp_path, "".join(f"{date} - {'AB'[n % 2]}: {n}\n" for n, date in enumerate(dates)))
    moments = [datetime.datetime.strptime(date, form).replace(tzinfo=datetime.UTC) for date in dates]
    assert [one["time"] for one in found] == [moment.timestamp() for moment in moments]


@pytest.mark.parametrize("slip", ["32.03.24", "12.03.42", "12.30.24", "03.13.24"])
def test_a_slip_in_one_date_turns_no_others_round(tmp_path: Path, slip: str) -> None:
    (tmp_path / "chat.txt").write_text(f"{BEFORE}{slip}, 18:02 - Bob: x\n{AFTER}", encoding="utf-8")
    opened = whatsapp.open_export(tmp_path / "chat.txt", "s")
    assert opened is not None
    times = [raw.values()["time"] for place, raw in enumerate(opened()) if place != 2]
    assert times == [
        datetime.datetime(2024, 3, day, 18, minute, tzinfo=datetime.UTC).timestamp()
        for day, minute in ((12, 0), (12, 1), (12, 3), (13, 4), (13, 5))
    ]


def test_where_no_message_can_be_read_all_are_set_aside(tmp_path: Path) -> None:
    source, aside = tmp_path / "chat.txt", tmp_path / "q.jsonl"
    source.write_bytes(b"12.03.24, 99:02 - Bob: x\n12.03.24, 18:02 - Bob: h\xe9\n")
    arguments = ["label", str(source), "-o", str(tmp_path / "o.jsonl"), "--speaker", "Bob", "--quarantine", str(aside)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "2 of 2 messages cannot be read" in result.stderr
    assert len(aside.read_text().splitlines()) == 2


def test_lines_before_the_first_message_are_counted(tmp_path: Path) -> None:
    source, aside = tmp_path / "chat.txt", tmp_path / "q.jsonl"
    source.write_text(f"Chat with Bob\n\nand the end of something\n{BEFORE}", encoding="utf-8")
    made = label_chat(str(source), voice_of(["Anna"]))
    assert made.skipped == {"no date": 2, "someone else's turn": 1}
    assert made.completions == len(made.rows) + made.skipped.total() == 4
    source.write_bytes(b"Chat with Ren\xe9\n" + BEFORE.encode())
    with pytest.raises(SourceError, match=r"chat.txt:1: not UTF-8"):
        label_chat(str(source), voice_of(["Anna"]))
    arguments = ["label", str(source), "-o", str(tmp_path / "o.jsonl"), "--speaker", "Anna", "--quarantine", str(aside)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert json.loads(aside.read_text().splitlines()[0])["record"] == "Chat with Ren\\xe9"


def test_a_file_in_another_encoding_is_told_as_such(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "cp037"):
        (tmp_path / "chat.txt").write_bytes(f"{BEFORE}12.03.24, 18:02 - Bob: é\n".encode(encoding))
        with pytest.raises(SourceError, match=r"chat.txt:\d: not UTF-8"):
            label_chat(str(tmp_path / "chat.txt"), voice_of(["Anna"]))


def test_marks_and_spaces_of_dates_and_authors_are_none_of_them(tmp_path: Path) -> None:
    starts = [
        "\u200f12\u200f.03\u200f.24,\u00a018:02\u00a0- ",
        "\u200e[12.03.24, 18:02:00]\u00a0",
        "\ufeff12.03.24,\u202f6:02\u202fPM\u00a0-\u00a0",
    ]
    authors = ["Anna\u00a0B", "\u202aAnna B\u202c", "\u2068Anna\u202fB\u2069", "Anna B\u200f"]
    for start in starts:
        for author in authors:
            (one,) = messages(tmp_path, f"{start}{author}:\u00a0\u202fhi\n")
            assert (one["author"], one["text"]) == ("Anna B", "\u202fhi"), (start, author)


@pytest.mark.parametrize(
    "line",
    [
        f'{ANDROID}Bob changed the subject to "Trip: Berlin"',
        f'{ANDROID}Bob changed the subject from "A" to "B: C"',
        f'{ANDROID}Bob changed the subject from "A: B" to "C"',
        f"{ANDROID}Bob hat den Betreff zu „Trip: Berlin“ geändert",
        f"{ANDROID}Bob changed the subject to “Trip: Berlin”",
        f"{ANDROID}Bob a changé le sujet en « Trip : Berlin »",
        f"{ANDROID}Bob hernoemde de groep naar 'Trip: Berlin'",
        f"{ANDROID}Bob 将群组名称改为“Trip: Berlin”",
        f"{IPHONE}\u200eBob changed the group name to Trip: Berlin",
        f"{ANDROID}Messages and calls are end-to-end encrypted.",
    ],
)
def test_what_whatsapp_says_has_no_author(tmp_path: Path, line: str) -> None:
    (tmp_path / "chat.txt").write_text(f"{line}\n{ANDROID}Bob: hi\n{ANDROID}Anna: yes\n", encoding="utf-8")
    made = label_chat(str(tmp_path / "chat.txt"), voice_of(["Anna"]))
    assert made.skipped == {"service message": 1, "someone else's turn": 1}
    assert len(made.rows) == 1


@pytest.mark.parametrize("author", ['Bob "the dog" Smith', "Bob's mum", "“Bob”", "Rock 'n' Roll", 'Bob 5"'])
def test_quotes_in_names_are_part_of_them(tmp_path: Path, author: str) -> None:
    (one,) = messages(tmp_path, f"{ANDROID}{author}: it's: yes\n")
    assert one["author"] == author


def test_the_order_is_that_of_the_file_as_clocks_go_back(tmp_path: Path) -> None:
    lines = ["02:50 - Bob: a?", "02:05 - Anna: b", "02:55 - Bob: c?", "02:58 - Anna: d", "03:30 - Bob: e?"]
    lines.append("09:50 - Anna: f")
    (tmp_path / "chat.txt").write_text("".join(f"27.10.24, {line}\n" for line in lines), encoding="utf-8")
    made = label_chat(str(tmp_path / "chat.txt"), voice_of(["Anna"], context=1))
    rows = [(row.prompt[-1]["content"], row.completion[-1]["content"]) for row in made.rows]  # type: ignore[index,misc]
    assert Counter(rows) == Counter([("a?", "b"), ("c?", "d")])
    assert made.skipped == {"someone else's turn": 3, "nothing before it": 1}


@pytest.mark.parametrize(
    "line", ["١٢/٣/٢٠٢٤, ٦:٠٢ م - Bob: hi", "\u200f12/3/24, 6:02 μ.μ. - Bob: hi", "[12 Mar 2024, 18:02] Bob: hi"]
)
def test_dates_of_another_form_are_told_as_such(tmp_path: Path, line: str) -> None:
    with pytest.raises(SourceError) as caught:
        messages(tmp_path, f"A title\n{line}\n")
    assert "chat.txt:2: the dates of its messages are in a form that is not known. Known are 12.03.24" in str(
        caught.value
    )


def test_very_many_lines_of_marks_are_read() -> None:
    assert words_of("\u200e\n" * 20_000) == ""
    assert words_of(f"{'a ' * 20_000}\u200e{'<' * 20_000}").startswith("a a")
    marks = [
        "x " + "\u200e" * 200_000 + "1",
        "a \u200eb " * 50_000,
        f"look \u200e{'a ' * 200_000}",
        " • \u200eb" * 50_000,
    ]
    for text in [*marks, f" • \u200e{'1' * 200_000}"]:
        assert words_of(text) == text
        assert not phrases_of([("Anna", text), ("Bob", text)])
