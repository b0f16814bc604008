"""The binary tensor extension, as Triton's own client writes and reads it."""

import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton
from serving_case import CLASSES, INPUTS, ROW, rows_table

from rayapp.errors import RequestError
from rayapp.families.base import Floats
from rayapp.families.encoding import encode
from rayapp.schemas.model import BundleSchema
from rayapp.serve.wire.oip import parse_oip, render_oip
from rayapp.serve.wire.protocols import Parsed
from rayapp.serve.wire.rows import RowEncoder
from rayapp.serve.wire.validation import validated

SCHEMA = BundleSchema(
    name="small",
    family="tabular",
    task="binary",
    label="y",
    classes=CLASSES["binary"],
    inputs=INPUTS,
    features=(),
)
SCORES = np.array([[0.25, 0.75], [0.9, 0.1], [0.5, 0.5]], np.float32)


def arrays(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    made: dict[str, np.ndarray[Any, Any]] = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if name == "departure":
            values = [value.isoformat() for value in values]
        if name == "temp":
            values = [np.nan if value is None else value for value in values]
        is_text = isinstance(values[0], str)
        made[name] = np.array(values, dtype=np.object_ if is_text else None)
    return made


def triton_request(
    columns: dict[str, np.ndarray[Any, Any]], binary: bool, **options: Any
) -> tuple[bytes, bytes | None]:
    inputs = []
    for name, values in columns.items():
        datatype = {"f": "FP64", "i": "INT64", "b": "BOOL", "O": "BYTES"}[values.dtype.kind]
        tensor = triton.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    body, length = triton.InferenceServerClient.generate_request_body(inputs, **options)
    return body, None if length is None else str(length).encode()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_tritons_requests_are_understood(binary: bool, shape: tuple[int, ...]) -> None:
    table = rows_table(50, seed=5).drop_columns(["y"])
    columns = {name: values.reshape(shape) for name, values in arrays(table).items()}
    body, length = triton_request(columns, binary)
    assert (length is None) == (not binary)
    rows = validated(parse_oip(body, length, 50), Encoding(), None)
    assert rows.inputs == table.to_pylist()  # NaN arrives as missing
    few, _ = triton_request({name: values[:8] for name, values in columns.items()}, binary)
    _, length = triton_request({name: values[:8] for name, values in columns.items()}, binary)
    quick = validated(parse_oip(few, length, 50), Encoding(), RowEncoder(SCHEMA))
    assert quick.inputs == rows.inputs[:8]
    np.testing.assert_array_equal(quick.x_NF, rows.x_NF[:8])


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_reads_our_answers(binary: bool) -> None:
    outputs = [
        triton.InferRequestedOutput("label", binary_data=binary),
        triton.InferRequestedOutput("probability", binary_data=binary),
    ]
    body, length = triton_request({"a": np.ones(3)}, True, outputs=outputs)
    parsed = parse_oip(body, length, 3)
    answer, json_length = render_oip("m", parsed, SCORES, SCHEMA, "r1", "q")
    read = triton.InferenceServerClient.parse_response_body(answer, header_length=json_length)
    assert read.as_numpy("probability").tolist() == pytest.approx(SCORES[:, 1].tolist())
    labels = [v.decode() if binary else v for v in read.as_numpy("label").tolist()]
    assert labels == ["late", "on_time", "on_time"]
    assert read.get_response()["id"] == "q"


def test_without_named_outputs_all_come_as_the_request_says() -> None:
    body, length = triton_request({"a": np.ones(3)}, True)
    answer, json_length = render_oip("m", parse_oip(body, length, 3), SCORES, SCHEMA, "r", "q")
    assert json_length is not None
    assert json_length < len(answer)


@pytest.mark.parametrize("datatype", ["INT8", "INT16", "INT32", "UINT8", "UINT64", "FP16", "FP32"])
def test_every_number_type(datatype: str) -> None:
    kind = {"I": "i", "U": "u", "F": "f"}[datatype[0]]
    bits = int(datatype.lstrip("UINTFP"))
    raw = np.array([1, 2], f"{kind}{bits // 8}").tobytes()
    columns: Any = parse_oip(*binary("distance", datatype, [2], raw), 2).given
    ones = {**{k: [v, v] for k, v in ROW.items()}, **columns}
    parsed = Parsed(ones, 2, datatypes={"distance": datatype})
    for encoder in (None, RowEncoder(SCHEMA)):
        rows = validated(parsed, Encoding(), encoder)
        assert [row["distance"] for row in rows.inputs] == [1.0, 2.0]


class Encoding:
    """A bundle that is not asked for scores."""

    schema = SCHEMA

    def encode(self, table: pa.Table) -> Floats:
        return encode(SCHEMA.features, table)

    def score(self, x_NF: Floats) -> Floats:
        raise AssertionError


def binary(
    name: str, datatype: str, shape: list[int], raw: bytes, size: int | None = None
) -> tuple[bytes, bytes]:
    parameters = {"binary_data_size": len(raw) if size is None else size}
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + raw, str(len(text)).encode()


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "size"),
    [
        ("FP64", [2], b"12345678", None),
        ("FP64", [1], b"12345678", 16),
        ("FP64", [1], b"1234567890", 8),
        ("BYTES", [1], struct.pack("<I", 9) + b"abc", None),
        ("BYTES", [2], struct.pack("<I", 3) + b"abc", None),
        ("BYTES", [1], b"\x01", None),
        ("BYTES", [1], struct.pack("<I", 2) + b"\xff\xff", None),
    ],
)
def test_tensors_that_do_not_add_up(
    datatype: str, shape: list[int], raw: bytes, size: int | None
) -> None:
    with pytest.raises(RequestError) as refused:
        parse_oip(*binary("a", datatype, shape, raw, size), 10)
    assert refused.value.status == 400


@pytest.mark.parametrize("length", [b"x", b"-1", b"99999", b""])
def test_a_wrong_json_length(length: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        parse_oip(b'{"inputs": []}', length, 10)
    assert refused.value.status == 400
