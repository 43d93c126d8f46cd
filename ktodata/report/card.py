"""The dataset card: front matter for the Hub, counts, provenance, licences, pictures.

Names come from files and users, so whatever goes into Markdown is escaped or put into code, and the front matter is
written by a YAML writer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

from ktodata import __version__
from ktodata.report.facts import Counts, licence_id, origin_of

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!$~])")


def card(hub_id: str, splits: Mapping[str, Counts], whole: Counts, *, licence: str = "") -> str:
    """The text of README.md.

    Args:
        hub_id: `owner/name`.
        splits: the counts of each.
        whole: those of all rows.
        licence: what the Hub calls the licence; "" to tell it from the sources.
    """
    import jinja2
    from huggingface_hub import DatasetCardData

    origins = [origin_of(source) for source, _, _ in whole.table("source")]
    restricted = [one for one in origins if not one.commercial]
    rows = sum(counts.rows for counts in splits.values())
    metadata = DatasetCardData(
        license=licence or licence_id(origins) or None,
        task_categories=["text-generation"],
        tags=["kto", "alignment", "preference", "ktokit"],
        size_categories=[next((name for most, name in SIZES if rows < most), "n>10M")],
        pretty_name=hub_id.rpartition("/")[2],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits],
            }
        ],
        source_datasets=sorted({one.dataset for one in origins if one.dataset}) or None,
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"code": _code, "plain": _plain}
    text = resources.files("ktodata.report").joinpath("dataset_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        metadata=metadata.to_yaml().rstrip(),
        title=hub_id.rpartition("/")[2],
        hub_id=hub_id,
        rows=rows,
        splits=splits,
        whole=whole,
        origins=origins,
        restricted=restricted,
        version=__version__,
    )


def _code(text: str) -> str:
    """Text as code in a table's cell; nothing in it is markup."""
    shown = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`" if shown else ""


def _plain(text: str) -> str:
    """Text as text: nothing in it is markup."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))
