"""From SOURCE, as a user types it, to the parts to read: stdin, a file, a folder, or a Hub id."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from ktodata import hub
from ktodata.errors import SourceError
from ktodata.io.files import GZIP, read_file, suffix_of
from ktodata.io.paths import STDIN, local_path, provenance, shown_path
from ktodata.io.records import Raw, read_lines

log = logging.getLogger(__name__)
NAMED = 5  # files that a warning names
# How splits are called in file and folder names, as `datasets` has it.
ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_SHARD = re.compile(r"(?P<split>[\w.]+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_CSV_HEADER = re.compile(rb'"?[A-Za-z][\w .-]*"?(,"?[A-Za-z][\w .-]*"?)+')
_METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One file, or one split, that holds records of one layout. `source` is the provenance of its rows.

    `path` is where it lies inside the folder or repository that was asked for, else "".
    """

    source: str
    open: Callable[[], Iterator[Raw]]
    path: str = ""


def find_parts(
    source: str,
    *,
    split: str = "train",
    limit: int | None = None,
    folders: Sequence[str] = (),
    own_files: bool = False,
) -> list[Part]:
    """What to read for SOURCE, in a fixed order. Nothing is read yet, but it is known to be there.

    What the cache is known to lack of a repository has a part too, which raises SourceError when it is opened.

    Args:
        split: which one of a folder or Hub id; a single file is read whole, whatever it is called.
        limit: how many records will be asked for at most, if that is known.
        folders: names of the subfolders to read of a folder or repository; () means all.
        own_files: whether a Hub repository's files are to be read by our own readers, since their layout is known.

    Raises:
        SourceError: there is no such thing, or nothing in it that can be read, or no such split.
    """
    if source == STDIN:
        return [Part("stdin", _read_stdin)]
    path = local_path(source)
    try:
        if path.is_dir():
            return _folder_parts(path, split=split, folders=folders)
        if path.exists():
            return [Part(provenance(path), partial(read_file, path, provenance(path)))]
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}", where=source) from error
    hub_id = hub.parse_id(source)
    if hub_id is None or suffix_of(hub_id.repo):
        raise SourceError("no such file or folder", where=source, do="A dataset on the Hub is named owner/name")
    if own_files:
        return _repository_parts(hub_id, split=split, folders=folders)
    label = ":".join(part for part in (*hub_id, split) if part)
    return [Part(label, partial(_hub_records, hub_id, split, limit, label))]


def read_records(
    source: str, *, split: str = "train", limit: int | None = None, folders: Sequence[str] = ()
) -> Iterator[Raw]:
    """The records of SOURCE, unparsed, in file order; the first `limit` of them.

    Raises:
        SourceError: see `find_parts` and `read_file`; parse errors of single records wait until `Raw.values`.
    """
    parts = find_parts(source, split=split, limit=limit, folders=folders)
    return itertools.islice(chain_parts(parts), limit)


def chain_parts(parts: Sequence[Part]) -> Iterator[Raw]:
    """The records of all parts. A part is opened, and downloaded, when the ones before it are used up."""
    return itertools.chain.from_iterable(part.open() for part in parts)


def _read_stdin() -> Iterator[Raw]:
    empty = True
    for raw in read_lines(sys.stdin.buffer, "stdin", "stdin"):
        if empty:
            _refuse_others(raw.data)
        empty = False
        yield raw
    if empty:
        raise SourceError("nothing came in: no rows", where="stdin")


def _refuse_others(line: object) -> None:
    """Raises SourceError if stdin begins with a line of something else than JSONL that people often have."""
    assert isinstance(line, bytes), "lines come unparsed"
    what = "gzip data" if line.startswith(GZIP) else "a JSON array" if line.startswith(b"[") else ""
    what = what or ("csv" if _CSV_HEADER.fullmatch(line) else "")
    if what:
        do = "Unpack it first: gunzip -c" if "gzip" in what else "Name the file, or write an object a line"
        raise SourceError(f"{what}, and stdin takes JSONL only", where="stdin", do=do)


def _folder_parts(folder: Path, *, split: str, folders: Sequence[str]) -> list[Part]:
    if hub.is_saved_dataset(folder):
        return [Part(shown_path(folder.resolve().name), partial(_saved_records, folder, split))]
    chosen = choose_files(_names_in(folder), split=split, folders=folders, where=str(folder))
    for name in chosen:
        _check_file(folder / name)
    root = folder.resolve().name
    sources = {name: shown_path(f"{root}/{name}") for name in chosen}
    return [Part(source, partial(read_file, folder / name, source), name) for name, source in sources.items()]


def _names_in(folder: Path) -> list[str]:
    """What is in a folder and in those below it, but for hidden folders, whatever it is.

    Raises:
        SourceError: one of the folders cannot be looked into.
    """
    names: list[str] = []
    linked: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        above = Path(place).relative_to(folder)
        names += [(above / name).as_posix() for name in files]
        linked += [(above / name).as_posix() for name in folders if Path(place, name).is_symlink()]
    if linked:  # they may lead anywhere, in a circle too
        log.warning("%s: not read, as they are links to folders: %s", folder, _some(sorted(linked)))
    return names


def _refuse_folder(error: OSError) -> None:
    raise SourceError(f"cannot be read: {error.strerror or error}", where=str(error.filename)) from error


def _check_file(path: Path) -> None:
    """Raises SourceError if something in a folder that is called as data are is no file."""
    if not path.exists():
        raise SourceError("a link to nothing", where=str(path), do="Take it away, or mend it")
    if not path.is_file():
        raise SourceError("not a regular file", where=str(path), do="Take it away, or name it itself to read from it")


def _some(names: Sequence[str]) -> str:
    """Names as a warning tells them: the first of very many."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _repository_parts(hub_id: hub.HubId, *, split: str, folders: Sequence[str]) -> list[Part]:
    snapshot = hub.Snapshot(hub_id.repo)
    wanted = [hub_id.config] if hub_id.config else folders
    where = f"{hub_id.repo} on the Hub"
    if hub_id.config and hub_id.config not in folders:
        raise SourceError(f"no data folder {hub_id.config!r}", where=where, do=f"Known: {', '.join(folders)}")
    parts = []
    chosen = choose_files(snapshot.files, split=split, folders=wanted, where=where)
    for name in snapshot.with_gaps(chosen, wanted):
        if isinstance(name, SourceError):
            parts.append(Part("", partial(_refuse, name)))
            continue
        above = PurePosixPath(name).parent.name
        label = ":".join(part for part in (hub_id.repo, above, split) if part)
        parts.append(Part(label, partial(_fetched_records, snapshot, name, label), name))
    return parts


def _refuse(error: SourceError) -> NoReturn:
    raise error


def _fetched_records(snapshot: hub.Snapshot, name: str, label: str) -> Iterator[Raw]:
    yield from read_file(snapshot.fetch(name), label, name=f"{snapshot.repo}/{name}")


def _hub_records(hub_id: hub.HubId, split: str, limit: int | None, label: str) -> Iterator[Raw]:
    hub.check_reachable(hub_id.repo)
    found = hub.split_files(hub_id, split=split, readable=suffix_of, whole=limit is None)
    if found is not None:
        for name, path in found.files:
            for raw in read_file(path, label, name=f"{hub_id.repo}/{name}"):
                yield raw._replace(flags=found.flags) if found.flags else raw
        return
    for row, values in enumerate(hub.dataset_records(hub_id, split=split, limit=limit), 1):
        yield Raw(values, f"{label}: row {row}", label)


def _saved_records(folder: Path, split: str) -> Iterator[Raw]:
    row = 0
    for row, values in enumerate(hub.saved_records(folder, split=split), 1):
        yield Raw(values, f"{shown_path(folder)}: row {row}", shown_path(folder.resolve().name))
    if not row:
        raise SourceError("the dataset is empty: no rows in it", where=str(folder))


def choose_files(names: Collection[str], *, split: str, folders: Sequence[str] = (), where: str = "") -> list[str]:
    """Which files of a folder or repository hold a split, sorted.

    Hidden files, files of other kinds and metadata are passed over. With `folders`, only files in subfolders of
    these names count, or, where there is none of them, those directly in the folder (which may be one of them).
    A split is told by the file's name or its folder's. Where no name tells one, all files are `train`.

    Raises:
        SourceError: no file is left; the splits that exist are named.
    """
    readable = sorted(name for name in names if _is_data(name))
    if folders:
        inside = [name for name in readable if set(PurePosixPath(name).parts[:-1]) & set(folders)]
        readable = inside or [name for name in readable if "/" not in name]
    if not readable:
        wanted = f" (looked in {', '.join(folders)})" if folders else ""
        raise SourceError(f"no data files{wanted}", where=where, do="It needs .jsonl, .json, .csv or .parquet files")
    splits = {name: split_of(name) for name in readable}
    if not any(splits.values()):
        chosen = readable if split == "train" else []
    else:
        chosen = [name for name in readable if split in (splits[name], _stem(name))]
        chosen = chosen or [name for name in readable if splits[name] == ALIASES.get(split, split)]
        if passed := [name for name in readable if not splits[name] and name not in chosen]:
            log.warning("%s: not read, as their names tell no split: %s", where, _some(passed))
    if not chosen:
        known = sorted({found for found in splits.values() if found} or {"train"})
        raise SourceError(f"no split {split!r}", where=where, do=f"It has: {', '.join(known)}")
    return chosen


def split_of(name: str) -> str:
    """The split that a file's path tells: `train-00000-of-00002.parquet`, `harmless-base/test.jsonl.gz`, else ""."""
    stem = _stem(name)
    if match := _SHARD.fullmatch(stem):
        return ALIASES.get(match["split"], match["split"])
    parts = [*re.split(r"[-._ ]", stem), *reversed(PurePosixPath(name).parts[:-1])]
    return next((ALIASES[part.lower()] for part in parts if part.lower() in ALIASES), "")


def _stem(name: str) -> str:
    file = PurePosixPath(name).name
    return file[: len(file) - len(suffix_of(file))]


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(map(_is_hidden, path.parts))
    return bool(suffix_of(name)) and not hidden and path.name not in _METADATA


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))
