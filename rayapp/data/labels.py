"""The label of each row as models and metrics take it, and the names of the classes."""

import json

import pyarrow as pa
import pyarrow.compute as pc

from rayapp.config.snapshot import LabelConfig
from rayapp.errors import DataError
from rayapp.schemas.data import Task
from rayapp.transforms import Expression


def encode_label(
    task: Task, label: LabelConfig, table: pa.Table
) -> tuple[pa.Array, tuple[str, ...]]:
    """binary: 0 or 1; multiclass: the class's name; regression: a number; text: the answer. Null
    stays null.

    Class names are sorted; a binary label of two texts is 1 for the second one. Raises DataError
    where the values do not make such a label.
    """
    if label.expression is None:
        return json_objects(table.select(label.fields)), ()
    values = Expression.parse(label.expression).evaluate(table)
    if task == "text":
        return pc.cast(values, pa.string()), ()
    if task == "regression":
        numbers = pc.cast(values, pa.float64())
        if not pc.all(pc.is_finite(numbers), min_count=0).as_py():
            raise DataError(f"label {label.name!r} is not finite everywhere", "mend its expression")
        return numbers, ()
    if task == "multiclass":
        texts = pc.cast(values, pa.string())
        classes = _classes(texts)
        if len(classes) < 2:
            raise DataError(f"label {label.name!r} has the classes {classes}", "it needs two")
        return texts, classes
    if pa.types.is_string(values.type):
        classes = _classes(values)
        if len(classes) != 2:
            raise DataError(
                f"label {label.name!r} has {len(classes)} values, a binary label has two: "
                f"{classes[:5]}",
                "write a comparison, or set task: multiclass",
            )
        return pc.cast(pc.equal(values, classes[1]), pa.int64()), classes
    whole = pc.cast(values, pa.float64()) if values.type != pa.bool_() else values
    numbers = pc.cast(whole, pa.float64())
    found = {value for value in pc.unique(numbers).to_pylist() if value is not None}
    if found != {0.0, 1.0}:
        raise DataError(
            f"label {label.name!r} has the values {sorted(found)[:5]}, a binary label has 0 and 1",
            "write a comparison, for example `x > 15`",
        )
    return pc.cast(numbers, pa.int64()), ("0", "1")


def _classes(texts: pa.Array) -> tuple[str, ...]:
    return tuple(sorted(value for value in pc.unique(texts).to_pylist() if value is not None))


def json_objects(table: pa.Table) -> pa.Array:
    """Each row as the text of a JSON object, in the order of the columns. No spaces: a language
    model pays for each."""
    texts = [
        json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)
        for row in table.to_pylist()
    ]
    return pa.array(texts, pa.string())
