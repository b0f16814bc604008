"""The guard that reads contracts: no feature may rest on what is known only after the prediction.

It answers from a snapshot config and its contracts alone, before any data is read; the guard that
measures is in telltale.py.
"""

import difflib
from collections.abc import Mapping, Sequence

from rayapp.errors import ConfigError, LeakageRefused
from rayapp.schemas.data import Column
from rayapp.schemas.model import Feature
from rayapp.transforms import Expression


def resolve_features(items: Sequence[str | Mapping[str, str]]) -> tuple[Feature, ...]:
    """Features as a training config lists them: column names, or {name: expression}.

    Raises ConfigError for an expression that cannot be read or a name given twice.
    """
    features = []
    for item in items:
        pairs = {item: item}.items() if isinstance(item, str) else item.items()
        for name, expression in pairs:
            Expression.parse(expression)
            features.append(Feature(name=name, expression=expression))
    names = [f.name for f in features]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"features: {name!r} is listed twice", "remove one of them")
    return tuple(features)


def refuse_outcome_features(
    features: Sequence[Feature], columns: Sequence[Column], label: str
) -> None:
    """columns: the view's, the label among them. Raises LeakageRefused for the first feature that
    would not exist at prediction time, and ConfigError for a column that the view does not have or
    an expression of no type."""
    view = {c.name: c for c in columns}
    types = {c.name: c.type for c in columns}
    for feature in features:
        expression = Expression.parse(feature.expression)
        for name in sorted(expression.columns):
            _refuse_column(feature, name, view, label)
        expression.result_type(types)


def _refuse_column(feature: Feature, name: str, view: Mapping[str, Column], label: str) -> None:
    if name not in view:
        known = [c.name for c in view.values() if c.known_at == "prediction"]
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"feature {feature.name!r}: the view has no column {name!r}",
            f"did you mean {near[0]!r}?" if near else f"columns are {known}",
        )
    if name == label:
        raise LeakageRefused(
            f"feature {feature.name!r} uses {name!r}, which is the label",
            "remove it from the training config's features",
        )
    if view[name].known_at == "outcome":
        raise LeakageRefused(
            f"feature {feature.name!r} uses column {name!r}, whose contract says knownAt: outcome "
            "(or which is derived from one that does): it does not exist at prediction time",
            "remove it, or use it through a point-in-time feature of the snapshot config",
        )
