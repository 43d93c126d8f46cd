"""The records of a file, read as its suffix says: `.jsonl .json .csv`, also with `.gz`, and `.parquet`."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from ktodata.errors import SourceError
from ktodata.io.csv_files import read_csv
from ktodata.io.json_files import read_json, read_jsonl
from ktodata.io.parquet_files import read_parquet
from ktodata.io.paths import shown_path
from ktodata.io.records import (
    AGAIN_ADVICE,
    BLOCK,
    UTF8_ADVICE,
    Raw,
    read_lines,
)

GZIP = b"\x1f\x8b"
# Byte order marks, the longer ones first: UTF-32's begins with UTF-16's.
OTHER_MARKS = {"UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "UTF-16": (b"\xff\xfe", b"\xfe\xff")}
LFS = b"version https://git-lfs"

READERS: dict[str, Callable[[IO[bytes], str, str], Iterator[Raw]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


def suffix_of(path: str | Path) -> str:
    """The suffix that says how to read a file, `.gz` included; "" if it is none that we know."""
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def read_file(path: Path, source: str, *, name: str = "") -> Iterator[Raw]:
    """The records of one file, read as its suffix says; of something that is no regular file, such as a pipe, JSONL.

    `name` is what errors call it, by default its path.

    Raises:
        SourceError: it is missing, has an unknown suffix, is damaged, or holds no record.
    """
    name = name or shown_path(path)
    suffix = suffix_of(path)
    if not suffix and path.is_file():
        raise SourceError(f"unknown suffix {path.suffix!r}", where=name, do=f"Known: {', '.join(SUFFIXES)}")
    empty = True
    try:
        if _is_endless(path):
            raise SourceError("is a device, not a file", where=name)
        with path.open("rb", buffering=BLOCK) as stream, _unpacked(stream, suffix) as data:
            _refuse_others(data, suffix, name)
            for raw in READERS.get(suffix.removesuffix(".gz"), read_lines)(data, name, source):
                empty = False
                yield raw
    except (EOFError, zlib.error) as error:
        raise SourceError("the gzip data ends early or is damaged", where=name, do=AGAIN_ADVICE) from error
    except gzip.BadGzipFile as error:
        raise SourceError(f"not gzip data, or damaged: {error}", where=name, do=AGAIN_ADVICE) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"not UTF-8: {error.reason}", where=name, do=UTF8_ADVICE) from error
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=name) from error
    if empty:
        raise SourceError("the file is empty: no rows in it", where=name)


def _is_endless(path: Path) -> bool:
    """Whether it is a device that need not end: not a file, a pipe or a terminal, and not /dev/null."""
    if path.is_block_device():
        return True
    if not path.is_char_device() or path.resolve() == Path(os.devnull):
        return False
    with path.open("rb") as stream:
        return not stream.isatty()


def _refuse_others(stream: IO[bytes], suffix: str, name: str) -> None:
    """Files that are not what their name says, told by how they begin.

    Raises:
        SourceError: it is one of those that people often have.
    """
    head = cast(io.BufferedReader, stream).peek(64)
    if head.startswith(LFS):
        raise SourceError("a pointer of Git LFS, not the data", where=name, do="Fetch them with `git lfs pull`")
    for encoding, marks in OTHER_MARKS.items():
        if head.startswith(marks):
            raise SourceError(f"{encoding}, not UTF-8", where=name, do=UTF8_ADVICE)
    if head.startswith(GZIP):
        do = f"Call it {name}.gz" if f"{suffix}.gz" in SUFFIXES else "Unpack it first"
        raise SourceError("gzip data", where=name, do=do)


def _unpacked(stream: BinaryIO, suffix: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if suffix.endswith(".gz"):
        return cast(contextlib.AbstractContextManager[IO[bytes]], gzip.GzipFile(fileobj=stream))
    return contextlib.nullcontext(stream)
