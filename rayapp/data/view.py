"""The point-in-time view: one row per prediction, with everything a model may be trained on.

plan.py says from contracts alone which columns the view will have; this computes the rows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.snapshot import AsOfFeature, SnapshotConfig, ViewConfig
from rayapp.data.features import add_features
from rayapp.data.labels import encode_label
from rayapp.data.splits import SPLITS, split_column
from rayapp.errors import DataError, LeakageRefused
from rayapp.schemas.data import (
    PREDICTION_TIME_COLUMN,
    ROW_ID_COLUMN,
    SPLIT_COLUMN,
    Column,
    SplitSize,
)
from rayapp.transforms import Expression, arrow_type

log = logging.getLogger("rayapp.data.view")


@dataclass(frozen=True)
class View:
    """rows: sorted by prediction time and row id. dropped: reason → how many base rows have no
    place in the view."""

    rows: pa.Table
    classes: tuple[str, ...]
    splits: tuple[SplitSize, ...]
    dropped: Mapping[str, int]


def make_view(
    config: SnapshotConfig,
    columns: Sequence[Column],
    base: pa.Table,
    others: Mapping[str, pa.Table],
) -> View:
    """The rows of the view. columns: what plan_view said. others: canonically ordered tables.

    Raises DataError where keys repeat or a split is empty, LeakageRefused where an outcome claims
    to be known before its own prediction was asked for.
    """
    view, dropped = config.view, {}
    rows = _with_identity(view, base)
    if view.prediction_time is not None:
        rows, dropped["no prediction time"] = _keep_valid(rows, PREDICTION_TIME_COLUMN)
    rows = rows.sort_by([(c, "ascending") for c in _identity(view)])
    _must_be_unique(rows, view)
    _must_become_known_later(view, columns, rows)
    rows = add_features(rows, view.features, others)
    label, classes = encode_label(config.task, view.label, rows)
    if view.label.name in rows.column_names:
        rows = rows.drop_columns([view.label.name])
    rows, dropped["no label"] = _keep_valid(
        rows.append_column(view.label.name, label), view.label.name
    )
    split = split_column(rows, view.splits, view.key)
    rows, dropped["outside the splits"] = _keep_valid(
        rows.append_column(SPLIT_COLUMN, split), SPLIT_COLUMN
    )
    rows = rows.select([*_identity(view), SPLIT_COLUMN, *[c.name for c in columns]])
    dropped = {reason: count for reason, count in dropped.items() if count}
    log.info("view_made", extra={"rows": rows.num_rows, "dropped": dropped})
    return View(rows, classes, _sizes(rows), dropped)


def _identity(view: ViewConfig) -> list[str]:
    return [PREDICTION_TIME_COLUMN, ROW_ID_COLUMN] if view.prediction_time else [ROW_ID_COLUMN]


def with_derived(view: ViewConfig, base: pa.Table) -> pa.Table:
    """The base table and the columns that are made of its own."""
    for name, text in view.derive.items():
        base = base.append_column(name, Expression.parse(text).evaluate(base))
    return base


def _with_identity(view: ViewConfig, base: pa.Table) -> pa.Table:
    base = with_derived(view, base)
    parts = [pc.cast(base.column(name), pa.string()) for name in view.key]
    row_id = pc.binary_join_element_wise(*parts, "|", null_handling="replace", null_replacement="")
    base = base.append_column(ROW_ID_COLUMN, row_id)
    if view.prediction_time is None:
        return base
    asked = Expression.parse(view.prediction_time).evaluate(base)
    return base.append_column(PREDICTION_TIME_COLUMN, asked.cast(arrow_type("timestamp")))


def _keep_valid(rows: pa.Table, name: str) -> tuple[pa.Table, int]:
    missing = rows.column(name).null_count
    return (rows.filter(pc.is_valid(rows.column(name))) if missing else rows), missing


def _must_be_unique(rows: pa.Table, view: ViewConfig) -> None:
    ids = rows.column(ROW_ID_COLUMN)
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counted = ids.value_counts()
    many = counted.filter(pc.greater(counted.field("counts"), 1))[0].as_py()
    raise DataError(
        f"view: key {list(view.key)} is not unique: {many['values']!r} occurs "
        f"{many['counts']} times",
        "add columns to view.key, or make the contract's primaryKey refuse the duplicates",
    )


def _must_become_known_later(view: ViewConfig, columns: Sequence[Column], rows: pa.Table) -> None:
    """An outcome that is known before its own prediction is asked for is no outcome, or its
    `known_at` is wrong; either way the feature would look into the future."""
    outcomes = {c.name for c in columns if c.known_at == "outcome"}
    for feature in view.features:
        if isinstance(feature, AsOfFeature):
            continue
        if not Expression.parse(feature.value).columns & outcomes:
            continue
        known = Expression.parse(feature.known_at).evaluate(rows)
        early = pc.sum(pc.less_equal(known, rows.column(PREDICTION_TIME_COLUMN))).as_py() or 0
        if early:
            raise LeakageRefused(
                f"feature {feature.name!r}: {early} of {rows.num_rows} rows claim that their "
                f"outcome {feature.value!r} was known at {feature.known_at!r}, which is before "
                "their own prediction time",
                "correct known_at, or the contract if the column is no outcome",
            )


def _sizes(rows: pa.Table) -> tuple[SplitSize, ...]:
    counted = {
        e["values"]: e["counts"] for e in rows.column(SPLIT_COLUMN).value_counts().to_pylist()
    }
    for name in SPLITS:
        if not counted.get(name):
            span = (
                pc.min_max(rows.column(PREDICTION_TIME_COLUMN))
                if rows.num_rows and (PREDICTION_TIME_COLUMN in rows.column_names)
                else None
            )
            raise DataError(
                f"view: no row falls into the split {name!r}"
                + (f"; prediction times span {span.as_py()}" if span is not None else ""),
                "correct `splits`, or look into the quarantine table",
            )
    return tuple(SplitSize(name=name, num_rows=counted[name]) for name in SPLITS)
