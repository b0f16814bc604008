"""What endpoints look up is what the view would have: the same values, for a row asked for now."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayapp.config.operations import FeatureFeedConfig
from rayapp.config.snapshot import ViewConfig
from rayapp.data.features import add_features
from rayapp.data.publish import groups_of, latest_values
from rayapp.data.view import with_derived
from rayapp.errors import ConfigError
from rayapp.schemas.data import PREDICTION_TIME_COLUMN

START = datetime(2026, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
VIEW = ViewConfig.model_validate(
    {
        "base": "trips",
        "key": ["trip"],
        "derive": {"delay_min": "delay_h * 60"},
        "prediction_time": "asked",
        "label": {"name": "late", "expression": "delay_h > 0"},
        "splits": {"kind": "hash"},
        "features": [
            {
                "kind": "rolling",
                "name": "mean_3h",
                "key": ["line"],
                "value": "delay_min",
                "known_at": "known",
                "window_h": 3,
            },
            {
                "kind": "rolling",
                "name": "count_5h",
                "key": [],
                "value": "delay_h",
                "known_at": "known",
                "window_h": 5,
                "statistic": "count",
            },
            {
                "kind": "last",
                "name": "last_delay",
                "age_name": "last_age_h",
                "key": ["line", "driver"],
                "value": "delay_h",
                "known_at": "known",
                "max_age_h": 6,
            },
            {
                "kind": "as_of",
                "table": "weather",
                "on": {"line": "place"},
                "event_time": "seen",
                "max_age_h": 4,
                "columns": {"rain": "rain_mm"},
            },
        ],
    }
)
CONFIG = FeatureFeedConfig(name="trips", snapshot="x")
HOURS = st.integers(0, 12)
TRIPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.sampled_from([1, 2]),
        HOURS,  # asked
        st.integers(1, 4),  # known so many hours later
        st.one_of(st.none(), st.integers(-5, 5)),  # delay
    ),
    min_size=1,
    max_size=20,
)
WEATHER = st.lists(st.tuples(st.sampled_from(["a", "b"]), HOURS, st.integers(0, 9)), max_size=8)


def _trips(rows: list[tuple[Any, ...]]) -> pa.Table:
    lines, drivers, asked, later, delays = zip(*rows, strict=True)
    at = [START + timedelta(hours=h) for h in asked]
    known = [t + timedelta(hours=h) for t, h in zip(at, later, strict=True)]
    return pa.table(
        {
            "line": pa.array(lines, pa.string()),
            "driver": pa.array(drivers, pa.int64()),
            "asked": pa.array(at, TIME),
            "known": pa.array(known, TIME),
            "delay_h": pa.array(delays, pa.float64()),
        }
    )


def _weather(rows: list[tuple[str, int, int]]) -> pa.Table:
    return pa.table(
        {
            "place": pa.array([r[0] for r in rows], pa.string()),
            "seen": pa.array([START + timedelta(hours=r[1]) for r in rows], TIME),
            "rain_mm": pa.array([r[2] for r in rows], pa.int64()),
        }
    )


@settings(max_examples=60, deadline=None)
@given(trips=TRIPS, weather=WEATHER, number=st.integers(0, 19))
def test_looked_up_values_are_those_of_the_view(
    trips: list[tuple[Any, ...]], weather: list[tuple[str, int, int]], number: int
) -> None:
    number %= len(trips)
    base, others = _trips(trips), {"weather": _weather(weather)}
    minutes = pa.compute.multiply(base.column("delay_h"), 60)
    with_time = base.append_column("delay_min", minutes).append_column(
        PREDICTION_TIME_COLUMN, base.column("asked")
    )
    (expected,) = add_features(with_time, VIEW.features, others).slice(number, 1).to_pylist()
    others_only = _trips([*trips[:number], *trips[number + 1 :]]) if len(trips) > 1 else None
    known_before = with_derived(VIEW, others_only or base.slice(0, 0))
    at = expected["asked"]
    for group in groups_of(CONFIG, VIEW):
        names = ["mean_3h", "count_5h", "last_delay", "last_age_h", "rain"]
        table = latest_values(group, known_before, others, at)
        found = {
            tuple(row[k] for k in group.keys): {n: row[n] for n in names if n in row}
            for row in table.to_pylist()
        }
        key = tuple(expected[k] for k in group.keys)
        values = found.get(key)
        if values is None:  # nobody has had this key before: nothing is known of it
            wanted = [n for n in names if n in table.column_names]
            assert [expected[n] for n in wanted] == [None] * len(wanted)
        else:
            assert values == pytest.approx({n: expected[n] for n in values}, nan_ok=True)


def test_features_are_grouped_by_their_keys_and_sources() -> None:
    found = [(g.keys, g.source, len(g.features)) for g in groups_of(CONFIG, VIEW)]
    assert found == [
        (("line",), "trips", 1),
        ((), "trips", 1),
        (("line", "driver"), "trips", 1),
        (("line",), "weather", 1),
    ]
    some = CONFIG.model_copy(update={"features": ("last_age_h",)})
    assert [g.keys for g in groups_of(some, VIEW)] == [("line", "driver")]


def test_a_feature_that_is_not_there_is_named() -> None:
    wrong = CONFIG.model_copy(update={"features": ("mean_3d",)})
    with pytest.raises(ConfigError, match=r"no point-in-time feature 'mean_3d'"):
        groups_of(wrong, VIEW)
    with pytest.raises(ConfigError, match="has no point-in-time features"):
        groups_of(CONFIG, VIEW.model_copy(update={"features": ()}))
