"""What WhatsApp writes in the place of what its export leaves out: `<Media omitted>`, `This message was deleted`.

In front of such words stands a left-to-right mark (U+200E), on iPhones always, which tells them in any language. Where
there is none, brackets tell them, or that they are listed here. Everything else is text, and stays as it is: what is
listed has to be the whole of a line, and a caption beside a picture is text.
"""

from __future__ import annotations

import re

MARK = "\u200e"
# <attached: 0001-PHOTO.jpg>, <This message was edited>, wherever they stand; a space or line feed parts them from text.
_MARKED_BRACKETS = re.compile(rf"^{MARK} ?<[^<>\n]+>[ \n]?|[ \n]?{MARK} ?<[^<>\n]+>")
# POLL: with its question and options, Location: with a link.
_LABEL = re.compile(rf"{MARK}+[^:\n]{{1,40}}:")
_FILE = re.compile(r"\S.*\.\w{2,5}")
_AFTER_WORDS = re.compile(rf"(?P<before>.*\S) {MARK}+[^\W\d][^{MARK}]*")  # look! [mark]image omitted
_PAGES = f" • {MARK}"  # plan.pdf • [mark]3 pages [mark]document omitted

# Several words, or one in another alphabet, without digits: <Media omitted> is none of <3 you>, <div> and <sigh>.
_PHRASE = r"(?=[^\W\d_])(?=[^<>()\n]*(?:\s|[^\x00-\x7f]))[^\d<>()=/\n]+"
_ATTACHED = (
    "file attached|Datei angehängt|archivo adjunto|fichier joint|file allegato|arquivo anexado|ficheiro anexado"
    "|bestand bijgevoegd|файл добавлен|plik dołączony|dosya ekli"
)
_UNMARKED = re.compile(
    rf"<{_PHRASE}>|<[^<>:\n]+: [^<>\n]+\.\w{{2,5}}>|\S+\.\w{{2,5}} \({_PHRASE}\)|.+\.\w{{2,5}} \((?:{_ATTACHED})\)"
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


def words_of(text: str) -> str:
    """What somebody wrote of a message's text; "" if all of it stands for something else."""
    text = _EDITED.sub("", _MARKED_BRACKETS.sub("", text))
    if _WHOLE.fullmatch(text.strip()) or _LABEL.match(text):
        return ""
    lines = text.split("\n")
    begin = next((at for at, line in enumerate(lines) if not _is_placeholder(line)), len(lines))
    return _without_end("\n".join(lines[begin:]))


def _is_placeholder(line: str) -> bool:
    return line.startswith(MARK) or _UNMARKED.fullmatch(line.strip()) is not None


def _without_end(text: str) -> str:
    """A text whose last line ends in marked words, as a caption's does, without these; a file's name is no caption."""
    before, feed, last = text.rpartition("\n")
    found = _AFTER_WORDS.fullmatch(last)
    if _PAGES in last or (found and _FILE.fullmatch(found["before"])):
        return before
    return f"{before}{feed}{found['before']}" if found else text
