"""The slices that a release config declares: groups of rows that are evaluated on their own."""

from collections.abc import Mapping, Sequence

from rayapp.errors import ConfigError
from rayapp.schemas.data import PREDICTION_TIME_COLUMN, ROW_ID_COLUMN, Column
from rayapp.transforms import Expression


def slice_expressions(slices: Sequence[str | Mapping[str, str]]) -> dict[str, Expression]:
    """Slice name → expression. Raises ConfigError for an expression or a name used twice."""
    found: dict[str, Expression] = {}
    for item in slices:
        for name, text in {item: item}.items() if isinstance(item, str) else item.items():
            if name in found:
                raise ConfigError(f"evaluation.slices names {name!r} twice", "rename one of them")
            found[name] = Expression.parse(text)
    return found


def check_slices(slices: Sequence[str | Mapping[str, str]], view: Sequence[Column]) -> None:
    """view: the columns that a snapshot's view will have. Raises ConfigError for a slice over a
    column that is not among them, or one that has no value of a type."""
    types = {c.name: c.type for c in view}
    types |= {ROW_ID_COLUMN: "string", PREDICTION_TIME_COLUMN: "timestamp"}
    for expression in slice_expressions(slices).values():
        expression.result_type(types)
