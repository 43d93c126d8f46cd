"""`ktodata balance`: counts, the interval of the free weight, and the weights in every trainer's words."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import click

from ktodata.balance import Counts, Weights, balance_weights, count_labels, flags, parse_ratio, spell
from ktodata.cli_common import FILE, Command, check_places, example, files, resolve_source, say, source_argument
from ktodata.errors import KtodataError
from ktodata.io import check_writable, iter_rows, local_path


@click.command(
    cls=Command,
    epilog=example(
        "ktodata balance train.parquet",
        "ktodata balance train.parquet --ratio 3:2 --target 1.25",
        "ktodata balance train.parquet --write recipe.toml",
    ),
)
@source_argument
@click.option(
    "--ratio",
    default="4:3",
    show_default=True,
    help="Upper end of the rule's interval: 4:3 in the paper's first edition and in TRL, 3:2 in the current one.",
)
@click.option(
    "--target",
    metavar="T",
    help="What (desirable_weight * n_D) / (undesirable_weight * n_U) shall be; from 1 up to --ratio. Left out: 1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print counts, interval and weights as JSON.")
@click.option(
    "--write",
    "recipe",
    type=FILE,
    metavar="RECIPE.toml",
    help="Write both weights into this recipe's [loss] table; comments and layout stay.",
)
def balance(source: str | None, ratio: str, target: str | None, as_json: bool, recipe: str | None) -> None:
    """Count both classes of SOURCE and give the weights of the paper's rule.

    One weight stays 1 and the rarer class is weighted up, so that
    (desirable_weight * n_D) / (undesirable_weight * n_U) lies between 1 and --ratio.
    """
    limit = parse_ratio(ratio)
    goal = parse_ratio(target, name="--target") if target is not None else None
    document = _read_recipe(recipe) if recipe else None
    source = resolve_source(source)
    check_places(read=[("the input", source)], written=[("the recipe", recipe)])
    counts = count_labels(iter_rows(source))
    weights = balance_weights(counts.desirable, counts.undesirable, ratio=limit, target=goal)
    if recipe and document is not None:
        write_weights(document, weights, recipe)
    if as_json:
        click.echo(json.dumps(_numbers(counts, weights, limit), indent=2))
    else:
        click.echo("\n".join(_lines(counts, weights, limit)))
    if recipe:
        say(f"written to {recipe}, table [loss]")


def write_weights(document: Any, weights: Weights, recipe: str) -> None:
    """Put both weights into a tomlkit document's `[loss]` table, made if absent, and the document in its file.

    Raises:
        KtodataError: `loss` is there and no table.
        WriteError: the file cannot be written; it is then as it was.
    """
    import tomlkit

    before = tomlkit.dumps(document)
    table = document.get("loss")
    if table is None:
        table = tomlkit.table()
        document["loss"] = table
    elif not hasattr(table, "items"):
        raise KtodataError("loss is a value, not a table", where=recipe, do="A recipe has a [loss] table")
    table["desirable_weight"] = float(weights.desirable)
    table["undesirable_weight"] = float(weights.undesirable)
    text = tomlkit.dumps(document)
    if 0 < before.count("\n") == before.count("\r\n"):
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")  # the new lines end like the others
    with files() as together, together.open(recipe) as stream:
        stream.write(text.encode())


def _read_recipe(recipe: str) -> Any:
    """The recipe as a tomlkit document, before any rows are read, so that a mistyped name costs nothing."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = local_path(recipe)
    if path.exists() and not path.is_dir():
        check_writable(path)  # before it is read: a pipe would never end
    try:
        # Bytes, so that line ends stay what they are.
        text = path.read_bytes().decode("utf-8")
        document = tomlkit.parse(text)
    except FileNotFoundError:
        raise KtodataError("no such file", where=recipe, do="--write changes a recipe that exists") from None
    except OSError as error:
        raise KtodataError(f"cannot be read: {error.strerror or error}", where=recipe) from error
    except (UnicodeDecodeError, TOMLKitError) as error:
        raise KtodataError(f"is not TOML: {error}", where=recipe) from error
    check_writable(path)
    return document


def _numbers(counts: Counts, weights: Weights, ratio: Fraction) -> dict[str, object]:
    return {
        "desirable": counts.desirable,
        "undesirable": counts.undesirable,
        "ratio": float(ratio),
        "weight": weights.free,
        "low": float(weights.low),
        "high": float(weights.high),
        "desirable_weight": float(weights.desirable),
        "undesirable_weight": float(weights.undesirable),
        "effective_ratio": float(weights.effective),
    }


def _lines(counts: Counts, weights: Weights, ratio: Fraction) -> list[str]:
    value = weights.desirable if weights.free == "desirable_weight" else weights.undesirable
    lines = [
        f"desirable rows    {counts.desirable}",
        f"undesirable rows  {counts.undesirable}",
        f"{weights.free} in [{spell(weights.low)}, {spell(weights.high)}], the other weight is 1 "
        f"(weighted ratio in [1, {spell(ratio)}])",
        f"chosen            {weights.free} = {spell(value)}, which makes the weighted ratio {spell(weights.effective)}",
    ]
    for trainer, pasted in flags(weights).items():
        lines += ["", f"{trainer}:", *(f"  {line}" for line in pasted)]
    return lines
