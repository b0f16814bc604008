"""Point-in-time features against a reference that looks at every pair of rows, and merge_asof."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayapp.config.snapshot import AsOfFeature, LastFeature, RollingFeature
from rayapp.data.features import as_of, last, rolling

START = datetime(2013, 1, 1, tzinfo=UTC)
HOURS = st.integers(0, 12)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),  # key
        HOURS,  # prediction time
        st.one_of(st.none(), HOURS),  # known at
        st.one_of(st.none(), st.integers(-5, 5)),  # value
    ),
    max_size=25,
)


def _at(hour: int | None) -> datetime | None:
    return None if hour is None else START + timedelta(hours=hour)


def _base(rows: list[tuple[Any, ...]]) -> pa.Table:
    keys, asked, known, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    time = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "_prediction_time": pa.array([_at(h) for h in asked], time),
            "known": pa.array([_at(h) for h in known], time),
            "value": pa.array(values, pa.float64()),
        }
    )


def _seen(rows: list[tuple[Any, ...]], index: int, by_key: bool) -> list[tuple[int, int, float]]:
    """(known at, row, value) of every other row that this one may use, brute force."""
    key, asked, _, _ = rows[index]
    return [
        (known, other, float(value))
        for other, (other_key, _, known, value) in enumerate(rows)
        if other != index and known is not None and value is not None and known <= asked
        if not by_key or (key is not None and other_key == key)
    ]


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, window=st.integers(1, 6), by_key=st.booleans())
def test_rolling_agrees_with_brute_force(
    rows: list[tuple[Any, ...]], window: int, by_key: bool
) -> None:
    base = _base(rows)
    for statistic in ("mean", "count", "sum"):
        feature = RollingFeature(
            kind="rolling",
            name="f",
            key=("key",) if by_key else (),
            value="value",
            known_at="known",
            window_h=window,
            statistic=statistic,
        )
        expected: list[float | None] = []
        for index, (key, asked, _, _) in enumerate(rows):
            seen = [v for known, _, v in _seen(rows, index, by_key) if known > asked - window]
            if by_key and key is None:
                expected.append(None)
            elif statistic == "mean":
                expected.append(sum(seen) / len(seen) if seen else None)
            else:
                expected.append(float(len(seen)) if statistic == "count" else sum(seen, 0.0))
        assert rolling(base, feature).to_pylist() == pytest.approx(expected)


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, max_age=st.integers(1, 6))
def test_last_agrees_with_brute_force(rows: list[tuple[Any, ...]], max_age: int) -> None:
    feature = LastFeature(
        kind="last",
        name="f",
        key=("key",),
        value="value",
        known_at="known",
        max_age_h=max_age,
        age_name="age",
    )
    found = last(_base(rows), feature)
    for index, (_, asked, _, _) in enumerate(rows):
        newest = max(_seen(rows, index, by_key=True), default=None)
        if newest is None or asked - newest[0] > max_age:
            assert found["f"][index].as_py() is None
            assert found["age"][index].as_py() is None
        else:
            assert found["f"][index].as_py() == newest[2]
            assert found["age"][index].as_py() == asked - newest[0]


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, bump=st.integers(1, 3))
def test_the_future_changes_nothing(rows: list[tuple[Any, ...]], bump: int) -> None:
    """Values that become known after every prediction time may be anything."""
    late = [(k, a, None if h is None else h + 13, v) for k, a, h, v in rows]
    other = [(k, a, h, None if v is None else v * bump + 1) for k, a, h, v in late]
    feature = RollingFeature(
        kind="rolling", name="f", key=("key",), value="value", known_at="known", window_h=50
    )
    newest = LastFeature(
        kind="last", name="f", key=("key",), value="value", known_at="known", max_age_h=50
    )
    assert rolling(_base(late), feature).equals(rolling(_base(other), feature))
    assert last(_base(late), newest)["f"].null_count == len(rows)


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    events=st.lists(st.tuples(st.sampled_from(["a", "b"]), HOURS), max_size=20, unique=True),
    max_age=st.integers(1, 6),
)
def test_as_of_agrees_with_merge_asof(
    rows: list[tuple[Any, ...]], events: list[tuple[str, int]], max_age: int
) -> None:
    other = pa.table(
        {
            "place": pa.array([k for k, _ in events], pa.string()),
            "at": pa.array([_at(h) for _, h in events], pa.timestamp("us", "UTC")),
            "reading": pa.array([float(n) for n in range(len(events))], pa.float64()),
        }
    )
    feature = AsOfFeature(
        kind="as_of",
        table="other",
        on={"key": "place"},
        event_time="at",
        columns={"r": "reading"},
        max_age_h=max_age,
    )
    found = as_of(_base(rows), other, feature)["r"].to_pylist()
    asked = [_at(h) for _, h, _, _ in rows]
    left = pd.DataFrame({"t": pd.to_datetime(asked, utc=True), "k": [r[0] for r in rows]})
    left["k"] = left["k"].fillna("nobody").astype(str)
    right = pd.DataFrame(
        {
            "t": pd.to_datetime([_at(h) for _, h in events], utc=True),
            "k": [k for k, _ in events],
            "r": np.arange(len(events), dtype=float),
        }
    ).astype({"k": str, "t": left["t"].dtype})
    left["row"] = range(len(left))
    merged = pd.merge_asof(
        left.sort_values("t"),
        right.sort_values("t"),
        on="t",
        by="k",
        tolerance=pd.Timedelta(hours=max_age),
    ).sort_values("row")
    expected = [None if pd.isna(v) else v for v in merged["r"]]
    assert found == expected
