"""A dataset as a folder that the Hub understands, and up there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ktodata import hub
from ktodata.errors import KtodataError, RowError, SourceError, UsageError, WriteError
from ktodata.io import atomic_file, read_records, write_rows
from ktodata.report import plots
from ktodata.report.card import card
from ktodata.report.facts import Counts
from ktodata.schema import Row, parse_row

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def prepare(
    sources: Mapping[str, str],
    hub_id: str,
    folder: Path,
    *,
    split: str = "train",
    licence: str = "",
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, Counts]:
    """Write data, pictures and card into a folder, as they are to be on the Hub; rows keep their order.

    Args:
        sources: a file, folder or Hub id of rows for each split's name.
        hub_id: `owner/name`, for the card.
        split: which split of a source that has several.
        licence: as the Hub calls it; "" to tell it from where the rows came.

    Returns:
        The counts of each split.

    Raises:
        SourceError: a source cannot be read, has no rows, or another kind than the first.
        WriteError: the disk says no.
        UsageError: the licence is none that the Hub could know.
    """
    _check_licence(licence)
    splits = {name: Counts() for name in sources}
    whole = Counts()
    for name, source in sources.items():
        rows = whole.passing(splits[name].passing(_rows(source, split, advance)))
        write_rows(rows, str(folder / "data" / f"{name}-00000-of-00001.parquet"))
        if not splits[name].rows:
            raise SourceError("no rows to publish", where=source)
    if len({counts.kind for counts in splits.values()}) > 1:
        raise SourceError(
            "text and chat in one dataset",
            where=" and ".join(sources.values()),
            do="`ktodata unpair --as` makes them one kind",
        )
    for file, content in (
        ("plots/lengths.png", plots.lengths(whole)),
        ("plots/shares.png", plots.shares(whole)),
        ("README.md", card(hub_id, splits, whole, licence=licence).encode("utf-8", "replace")),
    ):
        with atomic_file(folder / file) as stream:
            stream.write(content)
    return splits


def _check_licence(licence: str) -> None:
    if licence and not _LICENCE.fullmatch(licence):
        lower = licence.strip().lower()
        do = f"Did you mean {lower!r}?" if _LICENCE.fullmatch(lower) else "It is like apache-2.0 or cc-by-4.0, or other"
        raise UsageError(f"--licence {licence!r} is no licence's identifier on the Hub", do=do)


def _rows(source: str, split: str, advance: Callable[[int], object]) -> Iterator[Row]:
    for raw in read_records(source, split=split):
        try:
            yield parse_row(raw.values(), where=raw.where, source=raw.source)
        except RowError as error:
            raise error.advised("`ktodata unpair FILE --quarantine BAD` sorts out such rows") from error
        advance(1)


def check_id(hub_id: str) -> str:
    """The id, if it is one that a dataset can have.

    Raises:
        UsageError: it is not `owner/name`.
    """
    found = hub.parse_id(hub_id)
    if found is None or found.config:
        raise UsageError(f"{hub_id!r} is no id on the Hub", do="It is owner/name")
    return hub_id


def upload(folder: Path, hub_id: str, *, private: bool = False, token: str = "", splits: tuple[str, ...] = ()) -> str:
    """Put a folder up as a dataset, made if it is not there, in one commit. Gives its address.

    Files of these `splits` that were there before go; whatever else is there stays.

    Args:
        private: for a dataset that is made; one that is there stays as it is.
        token: "" for the one that the Hub's own tools would take.

    Raises:
        WriteError: no permission, no network, or the Hub says no. Neither it nor anything else names the token.
        UsageError: the token cannot be one.
    """
    from huggingface_hub import HfApi

    hub.check_token(token)
    api = HfApi(token=token or None)
    with _errors(hub_id, token), hub.quiet():
        address = api.create_repo(hub_id, repo_type="dataset", private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=hub_id,
            repo_type="dataset",
            folder_path=str(folder),
            commit_message="Upload by ktodata push",
            delete_patterns=[f"data/{name}-*.parquet" for name in splits] or None,
        )
    return str(address)


@contextlib.contextmanager
def _errors(hub_id: str, token: str) -> Iterator[None]:
    from huggingface_hub import constants, errors

    where = f"{hub_id} on the Hub"
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise WriteError(
                "no permission to write there", where=where, do="`hf auth login`, or name a --token-env that may write"
            ) from None
        raise WriteError(f"the Hub answers: {_told(error, token)}", where=where) from None
    except errors.LocalTokenNotFoundError:
        raise WriteError("no token", where=where, do="`hf auth login`, or name a --token-env") from None
    except KtodataError:
        raise
    except Exception as error:
        if hub.unreachable(error):
            do = "Unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "Check the network"
            raise WriteError("the Hub cannot be reached", where=where, do=f"{do}; nothing was put there") from None
        if isinstance(error, OSError | ValueError):
            raise WriteError(_told(error, token), where=where) from None
        raise


def _told(error: Exception, token: str) -> str:
    """The first line of an error, without the token, should a client ever put it there."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return line.replace(token, "…") if token else line
