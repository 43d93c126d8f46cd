"""Conditions on what parquet files and other libraries hold: dates of every unit and zone, decimals, NumPy's values."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from ktodata.errors import RowError
from ktodata.expressions import Expression
from ktodata.expressions.values import value_of
from ktodata.label import Outcomes, Thumbs, label

OSLO = datetime.timezone(datetime.timedelta(hours=2))  # in May
ZONES = {None: datetime.UTC, "UTC": datetime.UTC, "Europe/Oslo": OSLO, "+02:00": OSLO}


def holds(text: str, row: dict[str, Any]) -> bool:
    return Expression(text, "--desirable").holds(row, "a.parquet: row 7")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_as_text_compare_with_times_of_every_unit_and_zone(unit: str, zone: str | None) -> None:
    """Text without a zone is in that of the column: whoever sees 12:00 in it can write 12:00."""
    seen = datetime.datetime(2024, 5, 1, 12, tzinfo=ZONES[zone])
    array = pyarrow.array([seen, None], pyarrow.timestamp(unit, tz=zone))
    other = pyarrow.array([seen], pyarrow.timestamp("us", tz=zone))[0].as_py()
    row = {"at": array[0].as_py(), "other": other, "none": array[1].as_py(), "day": datetime.date(2024, 5, 1)}
    for text in (
        "at >= '2024-05-01'", "at == '2024-05-01T12:00:00'", "at < ' 2024-05-01 12:00:01'", "at != '2024-05-01'",
        "at in ('2024-05-01 12:00', '2023-01-01')", "'2024-04-30' < at < '2024-05-02'", "at == other", "other <= at",
        "at < '3000-01-01'", "none is null", "at is not null", "at > day", f"at == '{seen.isoformat()}'",
        f"at == '{seen.astimezone(datetime.UTC).isoformat()}'", "at in (other, 5)",
    ):  # fmt: skip
        assert holds(text, row), text
    for text in ("at < '2024-05-01'", "at > other", "at != other", "none < '2024-05-01'"):
        assert not holds(text, row), text
    with pytest.raises(RowError, match="cannot be compared with"):
        holds("at > 'yesterday'", row)
    with pytest.raises(RowError, match="cannot be compared with"):
        holds("at > 5", row)


def test_times_of_different_nanoseconds_differ() -> None:
    one, other = (pd.Timestamp("2024-05-01T12:00:00.000000001"), pd.Timestamp("2024-05-01T12:00:00.000000002"))
    assert holds("one < other and one != other", {"one": one, "other": other})
    assert holds("one < other", {"one": pd.Timedelta(1), "other": datetime.timedelta(seconds=1)})


def test_decimals_are_numbers() -> None:
    array = pyarrow.array([Decimal("0.10"), Decimal("12.00"), None], pyarrow.decimal128(10, 2))
    row = {"price": array[0].as_py(), "count": array[1].as_py(), "none": array[2].as_py(), "n": 12, "x": 0.1, "t": "12"}
    for text in (
        "price == 0.1", "price == x", "price < 1", "1 > price", "count == 12", "count == n", "count >= 11.5",
        "price != count", "price + 1 == 1.1", "count * x > 1", "count % 5 == 2", "count // n == 1", "-count < price",
        "abs(price) == 0.1", "number(count) == 12", "count == '12'", "t == count", "price in (0.1, 5)",
        "count in ('12', 'x')", "price == '0.1'", "none is null",
    ):  # fmt: skip
        assert holds(text, row), text
    assert not holds("none > 0", row)
    for text in ("price == 'cheap'", "price == true"):
        with pytest.raises(RowError, match="cannot be compared with"):
            holds(text, row)


def test_large_decimals_are_exact_beside_each_other_and_whole_numbers() -> None:
    row = {"one": Decimal(10**30), "other": Decimal(10**30 + 1), "n": 10**30}
    assert holds("one < other and one == n and other > n and other - one == 1", row)
    row = {"one": Decimal("0.1"), "other": Decimal("0.1000000000000000000001"), "n": 10**17, "near": Decimal(10**17)}
    row["near"] += Decimal("0.5")
    assert holds("one < other and one != other and near > n and n < near", row)
    row = {"one": Decimal(10**17 + 1), "text": str(10**17 + 1), "near": str(10**17)}
    assert holds("one == text and one != near and one > near and text in (one, 5)", row)


def test_what_has_no_order_is_refused_whatever_a_parquet_file_holds() -> None:
    struct = pyarrow.array([{"x": 1}, {"x": 2}])
    pairs = pyarrow.array([[("x", 1)], [("x", 2)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    span = pyarrow.array([(1, 2, 3), (1, 2, 4)], pyarrow.month_day_nano_interval())
    for array in (struct, pairs, span):
        row = {"a": array[0].as_py(), "b": array[1].as_py()}
        assert holds("a != b and a == a", row)
        with pytest.raises(RowError, match=r"a is .* has no order"):
            holds("a < b", row)
    row = {"a": datetime.time(12), "b": datetime.time(13), "z": datetime.time(13, tzinfo=datetime.UTC)}
    assert holds("a < b and a != z", row)
    with pytest.raises(RowError, match="cannot be compared with"):
        holds("a < z", row)
    assert holds("a < b", {"a": b"x", "b": b"y"})


def test_empty_cells_of_csv_are_as_the_nulls_of_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"prompt": list("abc"), "reply": list("xyz"), "rating": [1, 5, None], "outcome": ["won", None, None]}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for text, wanted in (
        ("rating not in (1, 2)", ["b"]), ("outcome != 'none'", ["a"]), ("outcome not in ('none', 'lost')", ["a"]),
        ("not outcome.contains('x')", ["a"]), ("not (outcome == 'none')", ["a"]), ("rating is null", ["c"]),
    ):  # fmt: skip
        judge = Outcomes(Expression(text, "--desirable"), None)
        for name in ("a.csv", "a.parquet"):
            assert sorted(str(row.prompt) for row in label(str(tmp_path / name), judge).rows) == wanted, (text, name)


def test_texts_are_in_the_order_of_what_they_say() -> None:
    """Two columns of a csv file: 10 comes after 9, and nine o'clock before ten, however these are written."""
    row = {"before": "9", "after": "10", "late": "2024-05-01 10:00", "early": "2024-05-01T09:00", "none": "n/a"}
    row |= {"zone": "2024-05-01T00:30:00+03:00", "word": "b", "other": "a", "american": "5/6/2024", "empty": ""}
    for text in (
        "after > before", "before < after", "before <= '9.0'", "after >= '9'", "'9' <= before < after", "late > early",
        "zone >= '2024-05-01'", "zone < early", "late >= '2024-05-01'", "late >= '2024'", "early > '2024-04'",
        "word > other", "word > 'a'", "none > 'm'", "before != '9.0'", "before < 'n'", "'2024-05' > '2024'",
    ):  # fmt: skip
        assert holds(text, row), text
    for text in (
        "after < before",
        "early >= late",
        "before > '10'",
        "empty < before",
        "before == '9.0'",
        "zone < '2024-05-01'",
    ):
        assert not holds(text, row), text
    for text in ("none > before", "before <= none", "american > '2024-01-01'", "late < other", "none < '9'"):
        with pytest.raises(RowError, match="cannot be compared with"):
            holds(text, row)


def test_values_of_numpy_and_pandas_are_values() -> None:
    row = {
        "n": np.int64(3), "x": np.float32(0.5), "yes": np.bool_(True), "nan": np.float64("nan"),
        "text": np.str_("sale"), "at": np.datetime64("2024-05-01T12:00:00.000000000"), "nat": np.datetime64("NaT"),
        "list": np.array([1, 2]), "pandas": pd.Timestamp("2024-05-01T12:00"), "missing": pd.NaT,
    }  # fmt: skip
    for text in (
        "n == 3", "n + x == 3.5", "yes", "yes == true", "nan is null", "text == 'sale'", "at >= '2024-05-01'",
        "nat is null", "2 in list", "len(list) == 2", "at == pandas", "missing is null", "n > x",
    ):  # fmt: skip
        assert holds(text, row), text
    assert value_of(np.float32(0.5)) == 0.5
    assert type(value_of(np.int8(1))) is int


def test_a_parquet_log_is_labelled_by_its_dates_and_prices(tmp_path: Path) -> None:
    days = [datetime.datetime(2024, 5, day) for day in range(1, 7)]
    table = pyarrow.table(
        {
            "prompt": [f"p{n}" for n in range(6)],
            "reply": [f"r{n}" for n in range(6)],
            "sent": pyarrow.array(days, pyarrow.timestamp("ns")),
            "due": pyarrow.array(reversed(days), pyarrow.timestamp("us")),
            "price": pyarrow.array([Decimal(n) / 2 for n in range(6)], pyarrow.decimal128(8, 2)),
            "thumb": pyarrow.array([Decimal(1), Decimal(-1), None] * 2, pyarrow.decimal128(3, 1)),
        }
    )
    source = str(tmp_path / "log.parquet")
    pyarrow.parquet.write_table(table, source)
    judge = Outcomes(
        Expression("sent >= '2024-05-05' and sent > due", "--desirable"), Expression("price < 0.75", "--undesirable")
    )
    rows = label(source, judge).rows
    assert sorted((row.prompt, row.label) for row in rows) == [("p0", False), ("p1", False), ("p4", True), ("p5", True)]
    thumbs = label(source, Thumbs("thumb"))
    assert sorted((row.prompt, row.label) for row in thumbs.rows) == [
        ("p0", True), ("p1", False), ("p3", True), ("p4", False),
    ]  # fmt: skip
