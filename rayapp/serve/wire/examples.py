"""What a usual row of a model looks like, and an answer to it: of means and categories of the rows
that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.serve.wire.oip import DATATYPES, output_names

TIME = "2013-10-01T12:00:00Z"
TEXT = "TEXT"


@dataclass(frozen=True)
class LookedUp:
    """columns: inputs that need not be sent, since a feed has them. keys: columns by which they are
    found and which are no inputs."""

    columns: frozenset[str] = frozenset()
    keys: tuple[Column, ...] = ()


NOTHING = LookedUp()


def row(schema: BundleSchema, looked_up: LookedUp) -> dict[str, Any]:
    """With all that a caller must send."""
    features = {feature.expression: feature for feature in schema.features}
    needed = [column for column in schema.inputs if column.name not in looked_up.columns]
    needed += sorted(looked_up.keys, key=lambda column: column.name)
    return {column.name: _usual(column, features.get(column.name)) for column in needed}


def tensors(schema: BundleSchema, looked_up: LookedUp) -> list[dict[str, Any]]:
    """The row as the Open Inference Protocol has it."""
    columns = (*schema.inputs, *looked_up.keys)
    datatypes = {column.name: DATATYPES[column.type] for column in columns}
    return [
        _tensor(name, datatypes[name], [1], [value])
        for name, value in row(schema, looked_up).items()
    ]


def answer(schema: BundleSchema) -> Any:
    """Of one row, by MLflow's protocol."""
    if schema.task == "multiclass":
        return [round(1 / len(schema.classes), 4)] * len(schema.classes)
    return 0.2


def outputs(schema: BundleSchema) -> list[dict[str, Any]]:
    """Of one row, by the Open Inference Protocol."""
    scores = answer(schema)
    if schema.task == "multiclass":
        main = _tensor(output_names(schema)[0], "FP32", [1, len(scores)], scores)
    else:
        main = _tensor(output_names(schema)[0], "FP32", [1], [scores])
    return [main, *(_tensor("label", "BYTES", [1], [c]) for c in schema.classes[:1])]


def _usual(column: Column, feature: EncodedFeature | None) -> Any:
    """feature: the column itself, where it is one."""
    if column.allowed is not None:
        return int(column.allowed[0]) if column.type == "integer" else column.allowed[0]
    if column.type == "timestamp":
        return TIME
    if column.type == "boolean":
        return True
    if column.type == "string":
        return feature.vocabulary[0] if feature is not None and feature.vocabulary else TEXT
    value = 0.0 if feature is None else float(f"{feature.mean:.4g}")
    if column.minimum is not None:
        value = max(value, column.minimum)
    if column.maximum is not None:
        value = min(value, column.maximum)
    return round(value) if column.type == "integer" else value


def _tensor(name: str, datatype: str, shape: list[int], data: Sequence[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
