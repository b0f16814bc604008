"""Golden sets: files of one JSON object a line, read as rows of a snapshot's view are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from rayapp.config.golden import GoldenConfig
from rayapp.errors import ConfigError, DataError
from rayapp.schemas.data import Column
from rayapp.storage import read_bytes, sha256
from rayapp.transforms import arrow_type


def golden_rows(config: GoldenConfig) -> list[dict[str, Any]]:
    """The objects of a golden set's file. Raises ConfigError where it is not the file that the
    config means, DataError where it is none of a golden set."""
    rows = labelled_rows(config.path, config.sha256, f"golden set {config.name} {config.version}")
    if len(rows) < config.min_items:
        raise DataError(
            f"{config.path}: {len(rows)} items, min_items is {config.min_items}", "add items"
        )
    return rows


def labelled_rows(path: str, digest: str, what: str) -> list[dict[str, Any]]:
    """The objects of a file that people have labelled, which its digest fixes. what: it is called
    in messages. Raises ConfigError for another file, DataError for lines that are no objects."""
    raw = read_bytes(path)
    if sha256(raw) != digest:
        raise ConfigError(
            f"{what}: {path} has the digest {sha256(raw)}, not the sha256 that the config gives",
            "restore the file, or give the new one a new version and this digest",
        )
    return [_object(path, n, line) for n, line in enumerate(raw.splitlines(), 1) if line.strip()]


def _object(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}: line {number} is no JSON object", "mend that line")
    return found


def golden_columns(rows: Sequence[Mapping[str, Any]], view: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that a golden set has: of the type that the view has them in, else text."""
    known = {column.name: column for column in view}
    names = dict.fromkeys(name for row in rows for name in row)
    return tuple(known.get(n, Column(name=n, type="string", nullable=True)) for n in names)


def golden_table(
    rows: Sequence[Mapping[str, Any]],
    inputs: Sequence[Column],
    view: Sequence[Column],
    label: str,
    fields: Sequence[str],
    what: str = "golden set",
) -> pa.Table:
    """The items in their order, with the label spelled as training spells it. inputs: the columns
    that a model is asked by. fields: of the label where it is an object. what: it is called in
    messages. Raises DataError that names the item where a value is missing, the column where one is
    of another type."""
    for column in inputs:
        missing = [n for n, row in enumerate(rows, 1) if row.get(column.name) is None]
        if missing and not column.nullable:
            raise DataError(
                f"{what}: item {missing[0]} has no {column.name!r}",
                "the model is asked by it: add it",
            )
    columns = [column for column in golden_columns(rows, view) if column.name != label]
    made = {column.name: _array(what, column, rows) for column in columns}
    answers = [
        _answer(f"{what}: item {n}", row.get(label), label, fields) for n, row in enumerate(rows, 1)
    ]
    return pa.table(made | {label: pa.array(answers, pa.string())})


def as_dataset(table: pa.Table) -> ray.data.Dataset:
    return ray.data.from_arrow(table)


def _array(what: str, column: Column, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    values = [row.get(column.name) for row in rows]
    try:
        if column.type == "timestamp":
            return pc.cast(pa.array(values, pa.string()), arrow_type("timestamp"))
        return pa.array(values, arrow_type(column.type))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{what}: column {column.name!r} must be of type {column.type}: {error}",
            "write its values as the contract has them",
        ) from None


def _answer(item: str, value: Any, label: str, fields: Sequence[str]) -> str:
    if fields and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if fields and not (isinstance(value, dict) and set(value) == set(fields)):
        raise DataError(
            f"{item} has no {label!r} that is an object of {', '.join(fields)}",
            "give it all of them; what is not there is null",
        )
    if value is None:
        raise DataError(f"{item} has no {label!r}", "give it its right answer")
    if isinstance(value, str):
        return value
    spelled = {name: value[name] for name in fields} if fields else value
    return json.dumps(spelled, ensure_ascii=False, separators=(",", ":"))
