"""Open Inference Protocol v2 over HTTP with its binary tensors. Pure: bytes in, bytes out.

https://github.com/kserve/open-inference-protocol; the extension as tritonclient speaks it: the JSON
comes first (its length is in the header Inference-Header-Content-Length), then the tensors' bytes
in the order of the JSON, a BYTES element being a little-endian uint32 length and its bytes.

Every input column is a tensor of shape [N] or [N, 1], named by the column; times are BYTES in ISO
8601. A tensor named `id` carries the rows' business keys unless the model has such a column.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from rayapp.errors import RequestError
from rayapp.families.base import Floats
from rayapp.families.inputs import Values, shown
from rayapp.schemas.data import Column, ColumnType
from rayapp.schemas.model import BundleSchema
from rayapp.serve.wire.protocols import (
    Parsed,
    WantedOutput,
    bad_request,
    check_rows,
    decode_json,
    first_repeated,
    labels,
    main_output,
)

LENGTH_HEADER = b"inference-header-content-length"
_LENGTH_DIGITS = 20
"""Python reads no number of thousands of digits."""
_NUMPY: dict[str, str] = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
DATATYPES: dict[ColumnType, str] = {
    "string": "BYTES",
    "integer": "INT64",
    "number": "FP64",
    "boolean": "BOOL",
    "timestamp": "BYTES",
}


def parse_oip(body: bytes, header_length: bytes | None, max_rows: int) -> Parsed:
    """header_length: the value of the header of that name. Raises RequestError."""
    text, rest = _divide(body, header_length)
    request = decode_json(text)
    tensors = request.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        raise bad_request(
            "inputs must be a list of tensors, one for each column",
            "see GET /v2/models/NAME of this endpoint for their names and datatypes",
            "inputs",
        )
    columns: dict[str, Values] = {}
    datatypes: dict[str, str] = {}
    num_rows: int | None = None
    offset = 0
    for tensor in tensors:
        name, length = _name_and_length(tensor)
        if name in columns:
            raise bad_request(f"input {shown(name)} is there twice", "send each column once", name)
        if num_rows is not None and length != num_rows:
            raise bad_request(
                f"input {shown(name)} has {length} row(s), the inputs before it have {num_rows}",
                "send tensors of equal length",
                name,
            )
        num_rows = length
        check_rows(length, max_rows)
        datatypes[name] = tensor["datatype"]
        columns[name], offset = _values(tensor, name, length, rest, offset)
    if offset != len(rest):
        raise bad_request(
            f"{len(rest) - offset} byte(s) follow the last binary tensor",
            f"let {LENGTH_HEADER.decode()} be the length of the JSON part",
        )
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise bad_request("id must be a text", "send a text or leave it out", "id")
    return Parsed(
        columns,
        num_rows or 0,
        request_id,
        _wanted(request),
        bool(_parameters(request, "parameters").get("binary_data_output", False)),
        datatypes,
    )


def render_oip(
    name: str,
    parsed: Parsed,
    scores_NK: Floats,
    schema: BundleSchema,
    release_id: str,
    request_id: str,
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part if binary tensors follow."""
    wanted = parsed.outputs or tuple(
        WantedOutput(n, parsed.is_binary) for n in output_names(schema)
    )
    outputs: list[dict[str, Any]] = []
    buffers: list[bytes] = []
    for output in wanted:
        made, data = _output(output, scores_NK, schema)
        outputs.append(made)
        if data is not None:
            buffers.append(data)
    answer = {
        "model_name": name,
        "model_version": release_id,
        "id": parsed.request_id or request_id,
        "outputs": outputs,
    }
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *buffers]), len(text)) if buffers else (text, None)


def check_outputs(parsed: Parsed, schema: BundleSchema) -> None:
    """Raises RequestError for an output that the model does not have."""
    available = output_names(schema)
    for output in parsed.outputs:
        if output.name not in available:
            raise bad_request(
                f"there is no output {shown(output.name)}",
                f"outputs are {', '.join(available)}",
                output.name,
            )


def output_names(schema: BundleSchema) -> tuple[str, ...]:
    return ("value",) if schema.task == "regression" else ("probability", "label")


def model_metadata(name: str, schema: BundleSchema, versions: Sequence[str]) -> dict[str, Any]:
    """What the protocol asks for, and as each tensor's parameters what a value must keep to."""
    inputs = [
        {
            "name": column.name,
            "datatype": DATATYPES[column.type],
            "shape": [-1],
            "parameters": _limits(column),
        }
        for column in schema.inputs
    ]
    shape = [-1, len(schema.classes)] if schema.task == "multiclass" else [-1]
    main: dict[str, Any] = {
        "name": output_names(schema)[0],
        "datatype": "FP32",
        "shape": shape,
    }
    if schema.classes:
        of = schema.classes if schema.task == "multiclass" else schema.classes[1:]
        main["parameters"] = {"classes": list(of)}
    label = {"name": "label", "datatype": "BYTES", "shape": [-1]}
    return {
        "name": name,
        "versions": list(versions),
        "platform": f"rayapp_{schema.family}",
        "inputs": inputs,
        "outputs": [main] if schema.task == "regression" else [main, label],
    }


def _limits(column: Column) -> dict[str, Any]:
    limits: dict[str, Any] = {"type": column.type, "nullable": column.nullable}
    if column.minimum is not None:
        limits["minimum"] = column.minimum
    if column.maximum is not None:
        limits["maximum"] = column.maximum
    if column.allowed is not None:
        limits["allowed"] = list(column.allowed)
    if column.type == "timestamp":
        limits["format"] = "ISO 8601 with a zone"
    return limits


def _divide(body: bytes, header_length: bytes | None) -> tuple[bytes, memoryview]:
    """The JSON part, and the tensors' bytes after it."""
    if header_length is None:
        return body, memoryview(b"")
    is_length = header_length.isdigit() and len(header_length) <= _LENGTH_DIGITS
    length = int(header_length) if is_length else len(body) + 1
    if length > len(body):
        raise bad_request(
            f"{LENGTH_HEADER.decode()} is {shown(header_length.decode('latin-1'))}, the body has "
            f"{len(body)} bytes",
            "send the length of the JSON part in bytes",
        )
    return body[:length], memoryview(body)[length:]


def _name_and_length(tensor: Any) -> tuple[str, int]:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise bad_request("an input has no name", "name each input by its column", "inputs")
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(datatype, str) or (datatype not in _NUMPY and datatype != "BYTES"):
        known = ", ".join(["BYTES", *_NUMPY])
        raise bad_request(
            f"input {shown(name)} has datatype {shown(datatype)}", f"datatypes are {known}", name
        )
    is_flat = (
        isinstance(shape, list)
        and all(type(size) is int and size >= 0 for size in shape)
        and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
    )
    if not is_flat:
        raise bad_request(
            f"input {shown(name)} has shape {shown(shape)}, must be [rows] or [rows, 1]",
            "send one tensor for each column",
            name,
        )
    return name, int(shape[0])


def _values(
    tensor: Mapping[str, Any], name: str, length: int, rest: memoryview, offset: int
) -> tuple[Values, int]:
    size = _parameters(tensor, name).get("binary_data_size")
    if size is None:
        return _json_values(tensor.get("data"), name, length), offset
    if "data" in tensor:
        raise bad_request(
            f"input {shown(name)} has both data and binary_data_size",
            "send one of them",
            name,
        )
    if type(size) is not int or size < 0 or offset + size > len(rest):
        raise bad_request(
            f"input {shown(name)}: binary_data_size is {shown(size)}, {len(rest) - offset} bytes "
            "are left",
            "send as many bytes as the sizes say",
            name,
        )
    raw = rest[offset : offset + size]
    if tensor["datatype"] == "BYTES":
        return _texts(raw, name, length), offset + size
    kind = np.dtype(_NUMPY[tensor["datatype"]])
    if size != length * kind.itemsize:
        raise bad_request(
            f"input {shown(name)}: {length} × {tensor['datatype']} take "
            f"{length * kind.itemsize} bytes, binary_data_size is {size}",
            "let shape, datatype and size agree",
            name,
        )
    return pa.array(np.frombuffer(raw, kind)), offset + size


def _json_values(data: Any, name: str, length: int) -> list[Any]:
    if not isinstance(data, list):
        raise bad_request(f"input {shown(name)} has no list `data`", "send its values", name)
    flat = data
    if data and all(isinstance(v, list) for v in data):  # [N, 1] may come nested
        flat = [v for row in data for v in row]
    if len(flat) != length:
        raise bad_request(
            f"input {shown(name)} has {len(flat)} value(s), its shape says {length}",
            "let shape and data agree",
            name,
        )
    return flat


def _texts(raw: memoryview, name: str, length: int) -> list[str]:
    texts = []
    offset = 0
    try:
        while offset < len(raw):
            (size,) = struct.unpack_from("<I", raw, offset)
            end = offset + 4 + size
            if end > len(raw):
                raise ValueError("a length points beyond the tensor's end")
            texts.append(str(raw[offset + 4 : end], "utf-8"))
            offset = end
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise bad_request(
            f"input {shown(name)}: BYTES cannot be read ({error})",
            "send each element as a little-endian uint32 length and UTF-8 text",
            name,
        ) from None
    if len(texts) != length:
        raise bad_request(
            f"input {shown(name)} has {len(texts)} element(s), its shape says {length}",
            "let shape and data agree",
            name,
        )
    return texts


def length_prefixed(elements: Iterable[bytes]) -> bytes:
    """A BYTES tensor as it is written in binary."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _parameters(holder: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    found = holder.get("parameters") or {}
    if not isinstance(found, dict):
        raise bad_request("parameters must be an object", "send an object", param)
    return found


def _wanted(request: Mapping[str, Any]) -> tuple[WantedOutput, ...]:
    asked = request.get("outputs") or []
    if not isinstance(asked, list):
        raise bad_request("outputs must be a list", "leave it out to get all of them", "outputs")
    default = _parameters(request, "parameters").get("binary_data_output", False)
    wanted = []
    for output in asked:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise bad_request("an output has no name", "name each output", "outputs")
        parameters = _parameters(output, output["name"])
        if "classification" in parameters:
            raise RequestError(
                "the classification extension is not supported",
                "ask for the outputs probability and label",
                400,
                "bad_request",
                output["name"],
            )
        wanted.append(WantedOutput(output["name"], bool(parameters.get("binary_data", default))))
    twice = first_repeated([output.name for output in wanted])
    if twice is not None:  # a short body could ask for an answer of any length
        raise bad_request(f"output {shown(twice)} is there twice", "ask for it once", twice)
    return tuple(wanted)


def _output(
    wanted: WantedOutput, scores_NK: Floats, schema: BundleSchema
) -> tuple[dict[str, Any], bytes | None]:
    if wanted.name == "label":
        names = labels(scores_NK, schema)
        made: dict[str, Any] = {
            "name": "label",
            "datatype": "BYTES",
            "shape": [len(names)],
        }
        if not wanted.is_binary:
            return made | {"data": names}, None
        data = length_prefixed(n.encode() for n in names)
    else:
        values = main_output(scores_NK, schema)
        made = {"name": wanted.name, "datatype": "FP32", "shape": list(values.shape)}
        if not wanted.is_binary:
            return made | {"data": values.reshape(-1)}, None
        data = values.tobytes()
    return made | {"parameters": {"binary_data_size": len(data)}}, data
