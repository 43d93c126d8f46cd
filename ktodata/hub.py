"""The Hugging Face Hub, as far as reading needs it: what a dataset repository holds, its files, its rows.

Files of a dataset whose layout we know are listed and downloaded (so a mirror may hold any subset of them) and read
by our own readers. Of any other dataset `datasets` tells which files are those of a configuration and split, and which
columns are true or false as its card has it; these files are read by our readers too, if they can be, and else by
`datasets`. Both libraries are imported when they are needed, and their errors become one `SourceError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ktodata.errors import SourceError, UsageError, first_line

log = logging.getLogger(__name__)
_IN_URL = re.compile(r"hf://datasets/[^/@]+/[^/@]+@[^/]+/")
_FETCH = "Fetch the files (hf download) and name their folder: then it is told where, and --quarantine holds"
_NO_NETWORK = "Check the network, set HF_HUB_OFFLINE=1 to use the cache, or name a local copy"
_NOT_CACHED = "The cache lacks what is asked for: run this once without HF_HUB_OFFLINE, or name a local copy"
_CACHED = "the Hub cannot be reached; reading what the cache has of %s, which may not be all of it"
_TO_FETCH = "Run this once where the Hub can be reached, without HF_HUB_OFFLINE, to fetch the others"
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
    """The files of a split, by their names on the Hub, each downloaded when it is asked for; and its columns that are
    true or false as the card has it, whatever stands for that in the files."""

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

    def check_whole(self, names: Collection[str], folders: Sequence[str] = ()) -> None:
        """Raises SourceError if the files to be read are the cache's, and it is known to lack some that belong to them:
        those of one of the folders, or of files that count themselves (`train-00000-of-00002`)."""
        if self._folder:
            _check_folders(self.repo, names, folders)
            _check_whole(self.repo, names)


def _check_folders(repo: str, names: Collection[str], folders: Sequence[str]) -> None:
    """Raises SourceError if the cache has files of some folders only, as it does where only some were asked for.

    A mirror may have no others. Nothing in the cache tells that, and who knows it can name those that are there.
    """
    there = {part for name in names for part in PurePosixPath(name).parts[:-1]}
    found = [folder for folder in folders if folder in there]
    if found and len(found) < len(folders):
        missing = ", ".join(folder for folder in folders if folder not in there)
        raise SourceError(
            f"the cache has no files of {missing}",
            where=f"{repo} on the Hub",
            do=f"{_TO_FETCH}, or name one that it has: {', '.join(f'{repo}:{folder}' for folder in found)}",
        )


def _check_whole(repo: str, names: Iterable[str]) -> None:
    """Raises SourceError if of files that count themselves (`train-00000-of-00002`) not all are there, as a run that
    was interrupted leaves them in the cache: part of a split is not to pass for all of it.

    Of other files it cannot be known whether the cache has all: it does not keep what the repository has. The warning
    that comes with whatever is read from it says so.
    """
    parts: dict[tuple[str, str], set[str]] = {}
    for name in names:
        if match := _OF.search(name):
            parts.setdefault((name[: match.start()], match["total"]), set()).add(match["number"])
    for (name, total), numbers in sorted(parts.items()):
        if len(numbers) < int(total):
            raise SourceError(
                f"the cache has {len(numbers)} of the {int(total)} files {name}-…-of-{total} only",
                where=f"{repo} on the Hub",
                do=_TO_FETCH,
            )


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
        SourceError: no such repository or configuration (those that exist are named), or, where the Hub is not to be
            asked, the cache has a part of the files only.
    """
    import datasets

    kept = _kept(hub_id.repo)
    with hub_errors(hub_id.repo), quiet():
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
    if not (whole or kept) and type(builder.config).__name__ == "ParquetConfig":
        return None
    if kept:
        log.warning(_CACHED, hub_id.repo)
        _check_whole(hub_id.repo, names)
    # No more than this is taken from the card: `datasets` casts all columns, and by what pandas made of their text.
    declared = (builder.info.features or {}).items()
    flags = (name for name, kind in declared if isinstance(kind, datasets.Value) and kind.dtype == "bool")
    files = ((name, Path(kept) / name if kept else _fetch(hub_id.repo, name)) for name in names)
    return SplitFiles(files, tuple(flags))


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

    with hub_errors(hub_id.repo), quiet():
        try:
            data = datasets.load_dataset(hub_id.repo, hub_id.config or None, split=split, streaming=limit is not None)
        except datasets.exceptions.DatasetGenerationError as error:
            what = first_line(error.__cause__ or error)  # it says nothing itself
            raise SourceError(what, where=f"{hub_id.repo} on the Hub", do=_FETCH) from error
    records = iter(data)
    while True:
        with hub_errors(hub_id.repo, do=_FETCH):
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
def hub_errors(repo: str, *, do: str = "") -> Iterator[None]:
    """Turn whatever the Hub's clients raise into one `SourceError` that says what to do: `do`, if nothing is known."""
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
            raise SourceError(
                "the Hub cannot be reached", where=where, do=_NOT_CACHED if constants.HF_HUB_OFFLINE else _NO_NETWORK
            ) from error
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
