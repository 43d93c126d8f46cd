"""What WhatsApp writes in the place of what its export leaves out: `<Media omitted>`, `This message was deleted`.

In front of such words stands a left-to-right mark (U+200E), on iPhones always, which tells them in any language where a
message begins with it. Where there is none, they are listed here; or they stand in brackets, and several people of one
chat have them, as it is one phone that writes them all. Everything else is text, and stays as it is (`<sigh loudly>`):
what is listed has to be the whole of a line, and a caption beside a picture is text. At its end are marked words; but
people write such marks too, between languages of both directions, so these words have to be listed, or to be several
people's, and some message's all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MARK = "\u200e"
# <attached: 0001-PHOTO.jpg>, <This message was edited>, wherever they stand; a space or line feed parts them from text.
_MARKED_BRACKETS = re.compile(rf"^{MARK} ?<[^<>\n]+>[ \n]?|[ \n]?{MARK} ?<[^<>\n]+>")
# POLL: with its question and options, Location: with a link.
_LABEL = re.compile(rf"{MARK}+[^:\n]{{1,40}}:")
_FILE = re.compile(r"\S.*\.\w{2,5}")
_MARKED = re.compile(rf"(?:(?P<before>.*\S) )?{MARK}+(?P<words>[^\W\d][^{MARK}]*)")  # look! [mark]image omitted
# plan.pdf • [mark]3 pages [mark]document omitted
_PAGES = re.compile(rf".* • {MARK}[^•\d{MARK}]*\d[^•{MARK}]*{MARK}[^•{MARK}]+")

# Several words, or one in another alphabet, without digits: <Media omitted> is none of <3 you>, <div> and <sigh>.
_PHRASE = r"(?=[^\W\d_])(?=[^<>()\n]*(?:\s|[^\x00-\x7f]))[^\d<>()=/\n]+"
# <Media omitted>, IMG-2024.jpg (file attached)
_BRACKETS = re.compile(rf"<({_PHRASE})>|\S+\.\w{{2,5}} \(({_PHRASE})\)")
_ATTACHED = re.compile(
    r"<[^<>:\n]+: [^<>\n]+\.\w{2,5}>|.+\.\w{2,5} \((?:file attached|Datei angehängt|archivo adjunto|fichier joint"
    r"|file allegato|arquivo anexado|ficheiro anexado|bestand bijgevoegd|bifogad fil|vedlagt fil|vedhæftet fil"
    r"|tiedosto liitetty|plik załączony|załączony plik|файл добавлен|файл додано|dosya ekli|file terlampir|קובץ מצורף"
    r"|الملف مرفق|ファイル添付|파일 첨부됨|文件附件|檔案附件)\)"
)
# As phones of many languages have it.
_OMITTED = """
Media omitted | Video note omitted | Video message omitted | View once voice message omitted
Medien ausgeschlossen | Medien weggelassen | Médias omis | Fichier omis | Multimedia omitido
Archivo omitido | Archivo multimedia omitido | Media omessi | Media omesso | Mídia oculta
Mídia omitida | Arquivo de mídia oculto | Ficheiro não revelado | Mitjans omesos | Media weggelaten
Media utelämnat | Media har utelämnats | Media utelatt | Uten vedlegg | Medier udeladt
Mediefil udeladt | Media jätettiin pois | Media jätetty pois | Meedia ära jäetud
Pominięto multimedia | Pliki pominięto | Média vynechány | Médiá vynechané | Hiányzó médiafájl
Média elhagyva | Conținut media omis | Medijski zapis izostavljen | Datoteke izpuščene
Медији су изостављени | Без медиафайлов | Файл пропущен | Медіа пропущено | Παραλείφθηκαν πολυμέσα
Medya dahil edilmedi | Medya atlanmış | Media tidak disertakan | Media disingkirkan
Media dikecualikan | Bỏ qua tệp phương tiện | Bỏ qua Media | ไฟล์สื่อถูกลบ | สื่อถูกลบ
תוכן המדיה הושמט | המדיה לא נכללה | מדיה הושמטה | تم استبعاد الوسائط | رسانه حذف شد | मीडिया के बिना
মিডিয়া বাদ দেওয়া হয়েছে | میڈیا چھوڑ دیا گیا | メディアなし | メディアは含まれていません
미디어 파일을 제외했습니다 | 미디어 파일 제외됨 | 미디어 파일을 생략한 대화내용 | 省略多媒体文件
媒体文件已忽略 | 省略多媒體檔案 | 忽略多媒體檔 | 已略去多媒體檔案
"""
_KNOWN = frozenset(re.split(r" \| |\n", _OMITTED.strip().casefold()))
# What ends a caption after a mark, as phones of many languages have it (in small letters): up to four words for what is
# left out, and that it is. Where this is said of much else too (`fără`: without), it is listed with what it is said of.
_LEFT_OUT = re.compile(
    r"(?:\S+ ){1,4}(?:omitted|weggelassen|ausgelassen|omitid[oa]|omis[eă]?|absente|manquante?|omess[oa]|non inclus[oa]"
    r"|não revelad[oa]|ocultad[oa]|weggelaten|отсутствует|не добавлен|відсутн(?:є|я)|пропущено|не додано"
    r"|παραλείφθηκε|παραλήφθηκε|dahil edilmedi|uteslutet|utesluten|utelslutet|utelatt|sløyfet|ikke inkludert|udeladt"
    r"|vynechán[ao]?|vynechan[ýáé]|pominięt[yae]|ei sisällytet(?:ä|ty)|jätetty pois|jätettiin pois"
    r"|kihagy(?:va|ása)|izostavljen[ao]?|tidak disertakan|tidak dimasukkan|omès|omesa|הושמטה?|حذف شد|نظرانداز|نظر انداز"
    r"|نکال دی گئی ہے|वगळल[ाीे]|हटाई ग(?:ई|यी)|छोड़ा गया|বাদ দেওয়া হয়েছে|생략됨|제외됨)"
    r"|(?:pominięt[oay]|utelatt|παράληψη|(?:đã )?bỏ qua|đã bỏ|ละเว้น|لم يتم إدراج|تم حذف)(?: \S+){1,3}"
    r"|(?:gif ?)?[^\s\x00-\x7f]{0,12}(?:は含まれていません|を省略|已被?(?:略去|省略|忽略)|ถูกลบ|ที่ละเว้น)"
    r"|gif (?:retiré|esclusa|ausgeschlossen)|fără audio|kép küldése sikertelen|ei kuvaa"
    r"|ละเว้นเอกสาร|ไม่มี(?:รูปภาพ|ไฟล์เสียง|สติกเกอร์)"
)
_EDITED = re.compile(
    r" <(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje|Ce message a été modifié"
    r"|Questo messaggio è stato modificato|Mensagem editada|Esta mensagem foi editada|Dit bericht is bewerkt"
    r"|Данное сообщение изменено)\.?>\Z"
)
_WHOLE = re.compile(
    r"(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht"
    r"|Du hast diese Nachricht gelöscht|Se eliminó este mensaje|Eliminaste este mensaje|Ce message a été supprimé"
    r"|Vous avez supprimé ce message|Questo messaggio è stato eliminato|Hai eliminato questo messaggio"
    r"|Mensagem apagada|Esta mensagem foi apagada|Você apagou esta mensagem|Dit bericht is verwijderd"
    r"|U hebt dit bericht verwijderd|Je hebt dit bericht verwijderd|Данное сообщение удалено"
    r"|Вы удалили данное сообщение"
    r"|(?:image|video|audio|sticker|GIF|document|Contact card) omitted)\.?"
    r"|null|POLL:\n.*\nOPTION: .*|(?:live )?location(?:: https://maps\.\S+| shared)",
    re.DOTALL,
)


def words_of(text: str, phrases: frozenset[str] = frozenset()) -> str:
    """What somebody wrote of a message's text; "" if all of it stands for something else. `phrases` are those that do
    in its chat, beside what is known."""
    text = _EDITED.sub("", _MARKED_BRACKETS.sub("", text))
    if _WHOLE.fullmatch(text.strip()) or _LABEL.match(text):
        return ""
    lines = text.split("\n")
    begin = next((at for at, line in enumerate(lines) if not _is_placeholder(line, phrases)), len(lines))
    return _without_end("\n".join(lines[begin:]), phrases)


def phrases_of(messages: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The phrases in brackets, or after a mark, that messages (author and text) of several people have, and that are
    some message's first line: a language that is not known here, most likely, while a turn of phrase is somebody's own.
    Those after a mark may end messages, and are given with it."""
    authors: dict[str, str] = {}
    shared, alone = set(), set()
    for author, text in messages:
        first = text.partition("\n")[0]
        before, words = _marked(first)
        begins = _phrase_in(first) or ("" if before else words)
        alone.add(begins)
        for phrase in {begins, _marked(text.rpartition("\n")[2])[1]} - {""}:
            if authors.setdefault(phrase, author) != author:
                shared.add(phrase)
    return frozenset(shared & alone)


def _phrase_in(line: str) -> str:
    """What stands in the brackets of a line that is nothing else, or a file's name beside them."""
    found = _BRACKETS.fullmatch(line.strip())
    return (found[1] or found[2]).casefold().removesuffix(".") if found else ""


def _is_placeholder(line: str, phrases: frozenset[str]) -> bool:
    if line.startswith(MARK) or _ATTACHED.fullmatch(line.strip()):
        return True
    phrase = _phrase_in(line)
    return phrase in _KNOWN or phrase in phrases


def _marked(line: str) -> tuple[str, str]:
    """A line without the marked words that it ends in, and these with a mark, as they are compared."""
    found = _MARKED.fullmatch(line) if MARK in line else None
    return (found["before"] or "", MARK + found["words"].casefold().removesuffix(".")) if found else (line, "")


def _without_end(text: str, phrases: frozenset[str]) -> str:
    """A text whose last line ends in marked words that are WhatsApp's, without these; a file's name is no caption."""
    before, feed, last = text.rpartition("\n")
    if _PAGES.fullmatch(last):
        return before
    caption, words = _marked(last)
    told = words.removeprefix(MARK)
    if not caption or not (words in phrases or told in _KNOWN or _LEFT_OUT.fullmatch(told)):
        return text
    return before if _FILE.fullmatch(caption) else f"{before}{feed}{caption}"
