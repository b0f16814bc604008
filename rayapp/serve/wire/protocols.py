"""What the protocols have in common, and MLflow's scoring protocol. Pure: bytes in, bytes out.

body ─▶ parse_… ─▶ Parsed (columns as the client sent them) ─▶ validation ─▶ model ─▶ render_…
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from json import dumps, loads
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from rayapp.errors import RequestError
from rayapp.families.base import Floats
from rayapp.families.inputs import Values, shown
from rayapp.schemas.model import BundleSchema

LEAST_KEY, LARGEST_KEY = -(2**63), 2**64 - 1
MLFLOW_SHAPES = ("dataframe_split", "dataframe_records", "inputs", "instances")


@dataclass(frozen=True)
class WantedOutput:
    name: str
    is_binary: bool


@dataclass(frozen=True)
class Parsed:
    """At least one row: columns of equal length, or records. request_id: the id inside an OIP body,
    if any."""

    given: Mapping[str, Values] | Sequence[Mapping[str, Any]]
    num_rows: int
    request_id: str | None = None
    outputs: tuple[WantedOutput, ...] = ()
    """Empty: all of them."""
    is_binary: bool = False
    """Whether outputs that were not named come as binary tensors."""
    datatypes: Mapping[str, str] = field(default_factory=dict)

    @property
    def records(self) -> Sequence[Mapping[str, Any]] | None:
        """Row by row, if they came so."""
        return self.given if isinstance(self.given, list) else None

    @property
    def columns(self) -> Mapping[str, Values]:
        """Of rows that did not come as records."""
        assert isinstance(self.given, Mapping)
        return self.given

    def names(self) -> Iterable[str]:
        """Of every column that a row has, each once. (All columns together could be as many values
        as the square of what was sent: each record may have names of its own.)"""
        if isinstance(self.given, Mapping):
            return self.given
        return dict.fromkeys(name for record in self.given for name in record)

    def column(self, name: str) -> Values | None:
        """None where no row has it; missing in the records that lack it."""
        if isinstance(self.given, Mapping):
            return self.given.get(name)
        has_it = any(name in record for record in self.given)
        return [record.get(name) for record in self.given] if has_it else None

    def take(self, rows: Sequence[int]) -> "Parsed":
        """Some of the rows, by number, in this order."""
        records = self.records
        if records is not None:
            return replace(self, given=[records[row] for row in rows], num_rows=len(rows))
        taken = {
            name: values.take(pa.array(rows))
            if isinstance(values, pa.Array)
            else [values[row] for row in rows]
            for name, values in self.columns.items()
        }
        return replace(self, given=taken, num_rows=len(rows))

    def plain(self, name: str) -> Sequence[Any] | None:
        """One column as Python's own values; None where no row has it."""
        values = self.column(name)
        return None if values is None else plain_values(values)


def plain_values(values: Values) -> Sequence[Any]:
    return values.to_pylist() if isinstance(values, pa.Array) else values


_JSON_KINDS: dict[type, str] = {
    **{type(None): "null", bool: "a boolean", str: "a text", list: "an array"},
    **{int: "a number", float: "a number"},
}


def bad_request(what: str, next_step: str, param: str | None = None) -> RequestError:
    return RequestError(what, next_step, 400, "bad_request", param)


def decode_json(body: bytes) -> dict[str, Any]:
    """A JSON object. NaN and Infinity, which Python's own encoder writes, are read as numbers."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" not in body and b"Infinity" not in body:
            raise _too_large(error) if "infinity" in str(error) else _not_json(str(error)) from None
        value = _with_constants(body)
    if not isinstance(value, dict):
        raise bad_request(
            f"the body is {_JSON_KINDS[type(value)]}, must be a JSON object",
            "see GET / for the paths and their formats",
        )
    return value


def _with_constants(body: bytes) -> Any:
    """By Python's own reader, which knows NaN and Infinity. It takes half a character (a lone
    surrogate) too, which no answer and no record could be written with."""
    try:
        value = loads(body.decode())
        if b"\\ud" in body.lower():
            dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError
        raise _not_json(str(error)) from None
    return value


def check_rows(num_rows: int, max_rows: int) -> None:
    if num_rows == 0:
        raise RequestError("the batch is empty", "send at least one row", 400, "empty_batch")
    if num_rows > max_rows:
        raise RequestError(
            f"the request has {num_rows} rows, at most {max_rows} are taken",
            "send fewer rows in each request, or score in batch: python -m jobs.score_batch",
            413,
            "too_many_rows",
        )


def parse_mlflow(body: bytes, max_rows: int) -> Parsed:
    """dataframe_split, dataframe_records, inputs or instances. Raises RequestError."""
    request = decode_json(body)
    present = [name for name in MLFLOW_SHAPES if name in request]
    unknown = sorted(set(request) - set(MLFLOW_SHAPES) - {"params"})
    if len(present) != 1 or unknown:
        has = f"has the keys {shown(sorted(request))}" if request else "is an empty object"
        raise bad_request(
            f"the body {has}, must have exactly one of {', '.join(MLFLOW_SHAPES)}",
            'for example {"dataframe_split": {"columns": ["a"], "data": [[1]]}}',
            unknown[0] if unknown else None,
        )
    if request.get("params"):
        raise bad_request("this model takes no params", "leave params out", "params")
    shape, value = present[0], request[present[0]]
    columns: Mapping[str, Sequence[Any]]
    if shape == "dataframe_split":
        columns = _split_columns(value)
    elif shape in ("inputs", "instances") and isinstance(value, dict):
        columns = _named_columns(value)
    else:
        return Parsed(_records(value, shape, max_rows), len(value))
    num_rows = len(next(iter(columns.values()), ()))
    check_rows(num_rows, max_rows)
    return Parsed(columns, num_rows)


def render_mlflow(scores_NK: Floats, schema: BundleSchema) -> bytes:
    """{"predictions": [...]}: per row the positive class's probability, every class's for
    multiclass, or the value."""
    return orjson.dumps(
        {"predictions": main_output(scores_NK, schema)},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def main_output(scores_NK: Floats, schema: BundleSchema) -> Floats:
    """[N] P(positive) for binary, [N, K] for multiclass, [N] the value for a regression."""
    if schema.task == "multiclass":
        return np.ascontiguousarray(scores_NK, dtype=np.float32)
    column = 1 if schema.task == "binary" else 0
    return np.ascontiguousarray(scores_NK[:, column], dtype=np.float32)


def labels(scores_NK: Floats, schema: BundleSchema) -> list[str]:
    """The most probable class of each row."""
    best_N: npt.NDArray[np.intp] = scores_NK.argmax(axis=1)
    return [schema.classes[k] for k in best_N.tolist()]


def _not_json(reason: str) -> RequestError:
    return RequestError(
        f"the body is not JSON: {reason}",
        "send a JSON object in UTF-8",
        400,
        "not_json",
    )


def _too_large(error: orjson.JSONDecodeError) -> RequestError:
    return bad_request(
        f"the number on line {error.lineno}, column {error.colno} of the body is too large",
        "send numbers that 64 bits hold, up to 1.7e308",
    )


def _split_columns(value: Any) -> dict[str, list[Any]]:
    if not isinstance(value, dict) or not {"columns", "data"} <= set(value):
        raise bad_request(
            "dataframe_split must be an object with columns and data",
            'for example {"columns": ["a", "b"], "data": [[1, "x"]]}',
            "dataframe_split",
        )
    names, rows = value["columns"], value["data"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise bad_request(
            "dataframe_split.columns must be a list of names",
            "name every column",
            "dataframe_split.columns",
        )
    twice = first_repeated(names)
    if twice is not None:
        raise bad_request(
            "dataframe_split.columns names a column twice", "send each column once", twice
        )
    if not isinstance(rows, list):
        raise bad_request(
            "dataframe_split.data must be a list of rows",
            "see MLflow",
            "dataframe_split.data",
        )
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            found = len(row) if isinstance(row, list) else type(row).__name__
            raise bad_request(
                f"row {index} has {found} value(s), there are {len(names)} columns",
                "send one value for each column in every row",
                "dataframe_split.data",
            )
    check_rows(len(rows), len(rows))  # an empty batch has no columns to transpose
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _named_columns(value: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """{column: values}; a value that is no list is a batch of one row."""
    columns = {name: v if isinstance(v, list) else [v] for name, v in value.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        short = min(lengths, key=lambda n: lengths[n])
        raise bad_request(
            f"columns have unequal lengths, from {lengths[short]} ({shown(short)}) to "
            f"{max(lengths.values())}",
            "send one value for each row in every column",
            short,
        )
    return {name: [_unwrapped(v) for v in values] for name, values in columns.items()}


def _unwrapped(value: Any) -> Any:
    """[x] → x: numpy columns of shape [N, 1] arrive as lists of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _records(value: Any, shape: str, max_rows: int) -> list[dict[str, Any]]:
    """[{column: value}]"""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise bad_request(
            f"{shape} must be a list of objects, one for each row",
            'for example [{"a": 1, "b": "x"}]',
            shape,
        )
    check_rows(len(value), max_rows)
    return value


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def is_key(value: Any) -> bool:
    """Whether a row's business key may look so: 7.0 is 7, as it is in a column of integers. Of a
    longer number JSON's reader has lost digits."""
    if type(value) is float:
        is_whole = value.is_integer() and LEAST_KEY < value < LARGEST_KEY
        return is_whole or math.isnan(value)
    if type(value) is int:
        return LEAST_KEY <= value <= LARGEST_KEY
    return value is None or type(value) is str


def key_text(value: Any) -> str | None:
    if value is None or (type(value) is float and math.isnan(value)):
        return None
    return str(int(value) if type(value) is float else value)
