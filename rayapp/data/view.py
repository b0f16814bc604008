"""The point-in-time view: one row per prediction, with everything a model may be trained on.

`plan_view` answers from contracts alone which columns the view will have, of which type, and when
each is known, so a wrong config fails before any data is read. `make_view` computes the rows.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.snapshot import AsOfFeature, SnapshotConfig, ViewConfig
from rayapp.data.features import add_features
from rayapp.data.labels import encode_label
from rayapp.data.splits import SPLITS, split_column
from rayapp.errors import ConfigError, DataError, LeakageRefused
from rayapp.schemas.data import (
    PREDICTION_TIME_COLUMN,
    ROW_ID_COLUMN,
    SPLIT_COLUMN,
    Column,
    ColumnType,
    KnownAt,
    SplitSize,
    Task,
)
from rayapp.transforms import Expression, arrow_type

log = logging.getLogger("rayapp.data.view")

Columns = Mapping[str, Column]


@dataclass(frozen=True)
class View:
    """rows: sorted by prediction time and row id. dropped: reason → how many base rows have no
    place in the view."""

    rows: pa.Table
    classes: tuple[str, ...]
    splits: tuple[SplitSize, ...]
    dropped: Mapping[str, int]


def plan_view(config: SnapshotConfig, tables: Mapping[str, Sequence[Column]]) -> tuple[Column, ...]:
    """The columns that features may be built from, and the label last.

    Raises ConfigError for a name or a type that does not fit, LeakageRefused where the prediction
    time itself depends on an outcome.
    """
    view = config.view
    columns = {c.name: c for c in tables[view.base]}
    _must_exist(view.key, columns, "key")
    if view.splits.kind == "hash":
        _must_exist(view.splits.by, columns, "splits.by")
    for name, text in view.derive.items():
        _must_be_new(name, columns, "derive")
        columns[name] = _derived(name, text, columns)
    if view.prediction_time is not None:
        time = _derived("prediction_time", view.prediction_time, columns)
        _must_be(time, "timestamp")
        if time.known_at == "outcome":
            raise LeakageRefused(
                f"prediction_time {view.prediction_time!r} uses a column that is known only after "
                "the outcome",
                "build it from columns whose contract says knownAt: prediction",
            )
    for feature in view.features:
        if isinstance(feature, AsOfFeature):
            found = _as_of_columns(feature, view.base, columns, tables[feature.table])
        else:
            _must_exist(feature.key, columns, feature.name)
            _must_be(_derived(feature.name, feature.known_at, columns), "timestamp")
            kind = _derived(feature.name, feature.value, columns).type
            found = {feature.name: kind if feature.kind == "last" else "number"}
            if feature.kind == "last" and feature.age_name is not None:
                found[feature.age_name] = "number"
        for name, kind in found.items():
            _must_be_new(name, columns, "features")
            columns[name] = Column(name=name, type=kind, nullable=True)
    return (*_marked(view, columns), _label(config, columns))


def _label(config: SnapshotConfig, columns: Columns) -> Column:
    label = config.view.label
    found = _derived(label.name, label.expression, columns)
    kinds: dict[Task, ColumnType] = {
        "binary": "integer",
        "multiclass": "string",
        "regression": "number",
    }
    if config.task == "regression" and found.type not in ("integer", "number"):
        raise ConfigError(
            f"label {label.name!r} is {found.type}, a regression needs a number",
            "mend label.expression or task",
        )
    return Column(name=label.name, type=kinds[config.task], known_at="outcome")


def _marked(view: ViewConfig, columns: Columns) -> list[Column]:
    """A column that alone makes the label is an outcome, whatever its contract says."""
    used = Expression.parse(view.label.expression).columns
    makers = used if len(used) == 1 else frozenset()
    return [
        c.model_copy(update={"known_at": "outcome"}) if c.name in makers else c
        for c in columns.values()
        if c.name != view.label.name
    ]


def _as_of_columns(
    feature: AsOfFeature, base: str, columns: Columns, other: Sequence[Column]
) -> dict[str, ColumnType]:
    place, there = f"as_of {feature.table}", {c.name: c for c in other}
    if feature.table == base:
        raise ConfigError(
            f"{place}: the base table cannot be joined with itself",
            "use a `last` or `rolling` feature, which leaves the row itself out",
        )
    _must_exist(list(feature.on), columns, f"{place}.on")
    _must_exist([*feature.on.values(), *feature.columns.values()], there, place)
    for mine, theirs in feature.on.items():
        if columns[mine].type != there[theirs].type:
            raise ConfigError(
                f"{place}: {mine} is {columns[mine].type}, {theirs} is {there[theirs].type}",
                "join columns of one type",
            )
    _must_be(_derived(f"{place}.event_time", feature.event_time, there), "timestamp")
    return {new: there[old].type for new, old in feature.columns.items()}


def _derived(name: str, text: str, columns: Columns) -> Column:
    """The column an expression makes: an outcome as soon as one of its inputs is."""
    expression = Expression.parse(text)
    _must_exist(sorted(expression.columns), columns, f"{name}: {text!r}")
    kind = expression.result_type({c.name: c.type for c in columns.values()})
    inputs = [columns[used] for used in expression.columns]
    known_at: KnownAt = "outcome" if any(c.known_at == "outcome" for c in inputs) else "prediction"
    return Column(name=name, type=kind, nullable=True, known_at=known_at)


def _must_exist(names: Sequence[str], columns: Columns, place: str) -> None:
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            raise ConfigError(
                f"view: {place}: no column {name!r}",
                f"did you mean {near[0]!r}?" if near else f"columns are {sorted(columns)}",
            )


def _must_be_new(name: str, columns: Columns, place: str) -> None:
    if name in columns or name.startswith("_"):
        raise ConfigError(
            f"view: {place}: {name!r} is taken or starts with an underscore", "choose another name"
        )


def _must_be(column: Column, kind: ColumnType) -> None:
    if column.type != kind:
        raise ConfigError(f"view: {column.name} gives {column.type}, not {kind}", "mend it")


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


def _with_identity(view: ViewConfig, base: pa.Table) -> pa.Table:
    for name, text in view.derive.items():
        base = base.append_column(name, Expression.parse(text).evaluate(base))
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
