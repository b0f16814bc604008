"""What the point-in-time view will hold, answered from a snapshot config and its contracts alone:
which columns, of which type, and when each is known. A wrong config fails before any data is read;
view.py computes the rows.
"""

import difflib
from collections.abc import Mapping, Sequence

from rayapp.config.snapshot import AsOfFeature, SnapshotConfig, ViewConfig
from rayapp.errors import ConfigError, LeakageRefused
from rayapp.schemas.data import Column, ColumnType, KnownAt, Task
from rayapp.transforms import Expression

Columns = Mapping[str, Column]


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
    kinds: dict[Task, ColumnType] = {
        "binary": "integer",
        "multiclass": "string",
        "regression": "number",
        "text": "string",
    }
    if label.expression is None:
        _must_exist(label.fields, columns, "label.fields")
        return Column(name=label.name, type=kinds[config.task], known_at="outcome")
    found = _derived(label.name, label.expression, columns)
    if config.task == "regression" and found.type not in ("integer", "number"):
        raise ConfigError(
            f"label {label.name!r} is {found.type}, a regression needs a number",
            "mend label.expression or task",
        )
    return Column(name=label.name, type=kinds[config.task], known_at="outcome")


def _marked(view: ViewConfig, columns: Columns) -> list[Column]:
    """A column that alone makes the label is an outcome, whatever its contract says; so is each
    column that the label repeats."""
    makers = frozenset(view.label.fields)
    if view.label.expression is not None:
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
