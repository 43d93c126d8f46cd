"""The Hugging Face Hub, as far as reading needs it: what a dataset repository holds, its files, its rows.

Files of a dataset whose layout we know are listed and downloaded (so a mirror may hold any subset of them) and read
by our own readers. Of any other dataset `datasets` tells which files are those of a configuration and split, and which
columns are true or false as its card has it; these files are read by our readers too, if they can be, and else by
`datasets`. Both libraries are imported when they are needed, and their errors become one `SourceError`.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ktodata.errors import SourceError, UsageError, first_line

log = logging.getLogger(__name__)
_IN_URL = re.compile(r"hf://datasets/[^/@]+/[^/@]+@[^/]+/")
_FETCH = "Fetch the files (hf download) and name their folder: then it is told where, and --quarantine holds"
_NO_NETWORK = "Check the network, set HF_HUB_OFFLINE=1 to use the cache, or name a local copy"
_NOT_CACHED = "The cache lacks what is asked for: run this once without HF_HUB_OFFLINE%s, or name a local copy"
_CACHED = "the Hub cannot be reached; reading what the cache has of %s, which may not be all of it"
_TO_FETCH = "Run this once where the Hub can be reached, without HF_HUB_OFFLINE, to fetch the others"
_TO_FETCH_WHOLE = _TO_FETCH.replace("OFFLINE", "OFFLINE and without --limit")
_OF = re.compile(r"-(?P<number>\d{5})-of-(?P<total>\d{5})")  # one of several files of a split
_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<config>[\w.+-]+))?")


class HubId(NamedTuple):
    """`owner/name`, and the configuration or subfolder that `owner/name:config` asks for, else ""."""

    repo: str
    config: str = ""


def parse_id(text: str) -> HubId | None:
    """The parts of a Hub id, or None if it does not look like one."""
    match = _ID.fullmatch(text)
    return HubId(match["repo"], match["config"] or "") if match else None


class SplitFiles(NamedTuple):
    """The files of a split, by their names on the Hub, each downloaded when it is asked for (SourceError, where the Hub
    is not to be asked and the cache is known to lack the next); and its columns that are true or false as the card has
    it, whatever stands for that in the files."""

    files: Iterator[tuple[str, Path]]
    flags: tuple[str, ...]


class Snapshot:
    """One dataset repository: its files, downloaded when they are asked for."""

    def __init__(self, repo: str) -> None:
        """List the repository, or find the copy in the local cache if the Hub cannot be reached.

        Raises:
            SourceError: it does not exist, is gated, or cannot be reached and is not in the cache.
        """
        self.repo, self._folder = repo, ""
        self.files = self._list()

    def _list(self) -> list[str]:
        import huggingface_hub

        check_token()
        with hub_errors(self.repo):
            try:
                # Not `list_repo_files`: that one retries for 23 seconds where there is no network.
                info = huggingface_hub.HfApi().dataset_info(self.repo, timeout=20)
            except Exception as error:
                if not unreachable(error):
                    raise
                try:
                    self._folder = huggingface_hub.snapshot_download(
                        self.repo, repo_type="dataset", local_files_only=True
                    )
                except OSError:
                    raise error from None
                log.warning(_CACHED, self.repo)
                root = Path(self._folder)
                return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        return sorted(sibling.rfilename for sibling in info.siblings or ())

    def fetch(self, name: str) -> Path:
        """The local copy of one of `files`, downloaded unless the cache has it.

        Raises:
            SourceError: the download fails.
        """
        return Path(self._folder) / name if self._folder else _fetch(self.repo, name)

    def with_gaps(self, names: Sequence[str], folders: Sequence[str] = ()) -> list[str | SourceError]:
        """The names of files to be read, which are sorted, and an error to raise wherever one is missing between them:
        where the files are the cache's, and it is known to lack those of one of the folders, or one of files that count
        themselves (`train-00000-of-00002`)."""
        if not self._folder:
            return list(names)
        return _with_gaps(names, _folder_gaps(self.repo, names, folders) | _file_gaps(self.repo, names, _TO_FETCH))


def _with_gaps(names: Sequence[str], gaps: Mapping[int, SourceError]) -> list[str | SourceError]:
    """Names, and the errors before those of these places. Part of a split is not to pass for all of it; but with a
    limit all that is asked for may come before what is missing, so nothing is raised until that is reached.

    Of other files it cannot be known whether the cache has all: it does not keep what the repository has. The warning
    that comes with whatever is read from it says so.
    """
    found: list[str | SourceError] = []
    for place in range(len(names) + 1):
        if place in gaps:
            found.append(gaps[place])
        found += names[place : place + 1]
    return found


def _folder_gaps(repo: str, names: Sequence[str], folders: Sequence[str]) -> dict[int, SourceError]:
    """Where files are missing if the cache has those of some folders only, as it does where only some were asked for.

    A mirror may have no others. Nothing in the cache tells that, and who knows it can name those that are there.
    """
    above = {path.name: path.parent for name in names for path in PurePosixPath(name).parents}
    found = [folder for folder in folders if folder in above]
    missing = [folder for folder in folders if folder not in above]
    if not found or not missing:
        return {}
    error = SourceError(
        f"the cache has no files of {', '.join(missing)}",
        where=f"{repo} on the Hub",
        do=f"{_TO_FETCH}; if it has no others, as a mirror may, name those that are there one by one: "
        + ", ".join(f"{repo}:{folder}" for folder in found),
    )
    return {bisect.bisect(names, f"{above[found[0]] / min(missing)}/"): error}


def _file_gaps(repo: str, names: Iterable[str], do: str) -> dict[int, SourceError]:
    """Where the first is missing of files that count themselves (`train-00000-of-00002`), if not all of them are there,
    as a run leaves it that was interrupted, or had a limit."""
    groups: dict[tuple[str, str], dict[int, int]] = {}
    for place, name in enumerate(names):
        if match := _OF.search(name):
            groups.setdefault((name[: match.start()], match["total"]), {})[int(match["number"])] = place
    gaps: dict[int, SourceError] = {}
    for (name, total), places in sorted(groups.items()):
        if len(places) < int(total):
            first = next(number for number in range(int(total)) if number not in places)
            later = [place for number, place in places.items() if number > first]
            what = f"the cache has {len(places)} of the {int(total)} files {name}-…-of-{total} only"
            at = min(later) if later else max(places.values()) + 1
            gaps.setdefault(at, SourceError(what, where=f"{repo} on the Hub", do=do))
    return gaps


def _fetch(repo: str, name: str) -> Path:
    import huggingface_hub

    with hub_errors(repo), quiet():
        # By name, not by commit: the cache then knows which commit to offer when the Hub cannot be reached.
        return Path(huggingface_hub.hf_hub_download(repo, name, repo_type="dataset"))


def split_files(hub_id: HubId, *, split: str, readable: Callable[[str], object], whole: bool) -> SplitFiles | None:
    """The files of one split of any dataset on the Hub.

    None where not all are `readable` by their names, or where options come with them that say how to read them: only
    `datasets` knows that. None too for parquet on the Hub of which not the `whole` is wanted: `datasets` streams that,
    and of a large file fetches only the parts that hold the first rows. A file of another kind is fetched whole, but
    only if those before it are used up. Call `check_reachable` first.

    Raises:
        SourceError: no such repository or configuration (those that exist are named).
    """
    import datasets

    kept = _kept(hub_id.repo)
    with hub_errors(hub_id.repo, whole=whole), quiet():
        try:
            builder = datasets.load_dataset_builder(kept or hub_id.repo, hub_id.config or None)
        except Exception:
            if not kept:
                raise
            return None  # it may still be in the other cache, that of `datasets`
    found = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
    urls = found.get(split, [])
    names = [url.removeprefix(f"{kept}/") if kept else _IN_URL.sub("", url) for url in urls]
    if not names or not all(readable(name) and not _is_elsewhere(name) for name in names) or not _is_plain(builder):
        return None
    streamed = not whole and type(builder.config).__name__ == "ParquetConfig"
    if streamed and not kept:
        return None
    gaps: dict[int, SourceError] = {}
    if kept:
        log.warning(_CACHED, hub_id.repo)
        gaps = _file_gaps(hub_id.repo, names, _TO_FETCH_WHOLE if streamed else _TO_FETCH)
    # No more than this is taken from the card: `datasets` casts all columns, and by what pandas made of their text.
    declared = (builder.info.features or {}).items()
    flags = (name for name, kind in declared if isinstance(kind, datasets.Value) and kind.dtype == "bool")
    return SplitFiles(_files(hub_id.repo, kept, _with_gaps(names, gaps)), tuple(flags))


def _files(repo: str, kept: str, names: Iterable[str | SourceError]) -> Iterator[tuple[str, Path]]:
    for name in names:
        if isinstance(name, SourceError):
            raise name
        yield name, Path(kept) / name if kept else _fetch(repo, name)


def _kept(repo: str) -> str:
    """The folder of what the cache has of a repository, if the Hub is not to be asked; else ""."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        with contextlib.suppress(OSError):
            return str(huggingface_hub.snapshot_download(repo, repo_type="dataset", local_files_only=True))
    return ""


def _is_elsewhere(name: str) -> bool:
    return "://" in name or name.startswith("/")


def _is_plain(builder: Any) -> bool:
    """Whether a builder of `datasets` reads files as others do: of a format that they know, and without options."""
    if type(builder.config).__name__ not in ("CsvConfig", "JsonConfig", "ParquetConfig"):
        return False
    usual = type(builder.config)()
    own = {"name", "version", "data_dir", "data_files", "description", "features"}
    options = {field.name for field in dataclasses.fields(usual)} - own
    return all(getattr(builder.config, name) == getattr(usual, name) for name in options)


def dataset_records(hub_id: HubId, *, split: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one split of any dataset on the Hub, in its order, through `datasets`.

    With a limit the data are streamed, so that no more than needed is downloaded. Call `check_reachable` first.

    Raises:
        SourceError: no such repository, configuration or split (those that exist are named).
    """
    import datasets

    with hub_errors(hub_id.repo, whole=limit is None), quiet():
        try:
            data = datasets.load_dataset(hub_id.repo, hub_id.config or None, split=split, streaming=limit is not None)
        except datasets.exceptions.DatasetGenerationError as error:
            what = first_line(error.__cause__ or error)  # it says nothing itself
            raise SourceError(what, where=f"{hub_id.repo} on the Hub", do=_FETCH) from error
    records = iter(data)
    while True:
        with hub_errors(hub_id.repo, do=_FETCH, whole=limit is None):
            record = next(records, None)
        if record is None:
            return
        yield record


def saved_records(folder: Path, *, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a folder written by `datasets`' `save_to_disk`, of one split if it holds several.

    Raises:
        SourceError: no such split, or the folder is damaged.
    """
    import datasets

    with _folder_errors(folder):
        data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise SourceError(f"no split {split!r}", where=str(folder), do=f"It has: {', '.join(sorted(data))}")
        data = data[split]
    with _folder_errors(folder):
        for batch in data.data.to_batches():
            batch.validate(full=True)  # Arrow trusts a file that it maps, and a damaged one would end the process
    records = iter(data)
    while True:
        with _folder_errors(folder):
            record = next(records, None)
        if record is None:
            return
        yield record


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # json, arrow, key, text and file errors, by what is damaged
        what = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise SourceError(f"not a readable dataset folder: {what}", where=str(folder)) from error


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def check_reachable(repo: str) -> None:
    """Fail at once, with our words, where `datasets` would retry for long. Offline mode is left to its cache.

    Raises:
        SourceError: no such repository, or no network.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        check_token()
        with hub_errors(repo):
            huggingface_hub.HfApi().dataset_info(repo, timeout=20)


@contextlib.contextmanager
def hub_errors(repo: str, *, do: str = "", whole: bool = True) -> Iterator[None]:
    """Turn whatever the Hub's clients raise into one `SourceError` that says what to do: `do`, if nothing is known.

    What is not read `whole` may be streamed, which leaves nothing in the cache.
    """
    from huggingface_hub import constants, errors

    where = f"{repo} on the Hub"
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(
            "access needs permission", where=where, do="Accept its terms, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            "no such dataset", where=where, do="Check the spelling; for a private one, `hf auth login` first"
        ) from error
    except errors.HfHubHTTPError as error:
        raise SourceError(f"the Hub answers: {first_line(error)}", where=where) from error
    except (ValueError, OverflowError) as error:
        # `datasets`: an unknown split or configuration (the text lists those there are), or a time beyond year 9999.
        raise SourceError(first_line(error, lines=2), where=where, do=do) from error
    except Exception as error:
        if unreachable(error):
            fetch = _NOT_CACHED % ("" if whole else " and --limit")
            advice = fetch if constants.HF_HUB_OFFLINE else _NO_NETWORK
            raise SourceError("the Hub cannot be reached", where=where, do=advice) from error
        if isinstance(error, OSError) or type(error).__module__.startswith("datasets"):
            raise SourceError(first_line(error), where=where, do=do) from error
        raise


def unreachable(error: BaseException) -> bool:
    """Whether an error means no connection, wherever in its chain that is said."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | TimeoutError) or any(
            base.__name__ in ("TransportError", "OfflineModeIsEnabled") for base in type(seen).__mro__
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def check_token(token: str = "") -> None:
    """Look at a token before a client fails on it in words of its own; "": the one that the Hub's own tools would take.

    Raises:
        UsageError: it has a character that none has. The token is not shown.
    """
    from huggingface_hub import get_token

    if not re.fullmatch(r"[!-~]*", token or get_token() or ""):
        raise UsageError(
            "the Hub's token has white space or a letter in it that no token has", do="Copy it again, whole and alone"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of the client libraries where there is no terminal, and no talk of retries."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # it says what it raises
    if not sys.stderr.isatty():
        disable_progress_bars()
        if "datasets" in sys.modules:
            sys.modules["datasets"].disable_progress_bars()
    yield
