"""Open Inference Protocol v2 over gRPC: another writing of what the gateway answers over HTTP.

    message ─▶ path, headers, JSON and binary tensors ─▶ gateway ─▶ the same back ─▶ message

So there is one gateway, and a call has every duty of a request: who may ask, how much and for how
long, records, receipts, figures. Metadata are its headers, and what would be headers of the answer
is trailing metadata: x-request-id, x-release, x-degraded, retry-after.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

import grpc
import numpy as np
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from rayapp.serve.aside import INLINE_BYTES, aside
from rayapp.serve.wire import oip_messages as messages
from rayapp.serve.wire.http import Header, Receive, Scope, Send
from rayapp.serve.wire.oip import LENGTH_HEADER, length_prefixed

Gateway = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""


class Context(Protocol):
    """The part of a gRPC context that Ray Serve's stand-in for it has too."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None: ...


@dataclass(frozen=True)
class Method:
    """path: what is asked for over HTTP. says_no: statuses that are an answer, with every field as
    it is by default, and no error."""

    request: type[Message]
    response: type[Message]
    path: Callable[[Any], str]
    says_no: frozenset[int] = frozenset()


@dataclass
class Sent:
    """What the gateway sent."""

    status: int = 500
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


def _model(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


METHODS = {
    "ServerLive": Method(
        messages.ServerLiveRequest, messages.ServerLiveResponse, lambda _: "/v2/health/live"
    ),
    "ServerReady": Method(
        messages.ServerReadyRequest,
        messages.ServerReadyResponse,
        lambda _: "/v2/health/ready",
        frozenset((503,)),
    ),
    "ModelReady": Method(
        messages.ModelReadyRequest,
        messages.ModelReadyResponse,
        lambda asked: _model(asked.name, asked.version) + "/ready",
        frozenset((404, 503)),
    ),
    "ServerMetadata": Method(
        messages.ServerMetadataRequest, messages.ServerMetadataResponse, lambda _: "/v2"
    ),
    "ModelMetadata": Method(
        messages.ModelMetadataRequest,
        messages.ModelMetadataResponse,
        lambda asked: _model(asked.name, asked.version),
    ),
    "ModelInfer": Method(
        messages.ModelInferRequest,
        messages.ModelInferResponse,
        lambda asked: _model(asked.model_name, asked.model_version) + "/infer",
    ),
}
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_RECEIPTS = (b"x-request-id", b"x-release", b"x-degraded", b"retry-after")
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where a tensor's values are, by its datatype. FP16 can only come as raw bytes."""
_FLOATS = {"FP32": "<f4", "FP64": "<f8"}
MAX_DETAILS_CHARS = 1000
"""gRPC's clients take 8 KiB of trailing metadata; a character there is up to twelve bytes, though
mostly one."""


def code_of(status: int) -> grpc.StatusCode:
    """Of an HTTP status that is an error."""
    other = grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL
    return _CODES.get(status, other)


async def respond(gateway: Gateway, name: str, asked: Any, context: Context) -> Message:
    """Answer a call of the method `name`. An error is told by the context, and the message is
    empty: raised, it would be a traceback in Serve's log, and come without its receipts."""
    method = METHODS[name]
    headers = headers_of(context.invocation_metadata())
    body = b""
    if name == "ModelInfer":
        body, json_length = await aside(partial(infer_body, asked), asked.ByteSize() > INLINE_BYTES)
        headers[b"content-type"] = b"application/octet-stream"
        headers[LENGTH_HEADER] = str(json_length).encode()
    sent = await _ask(gateway, "POST" if body else "GET", method.path(asked), headers, body)
    receipts = [(h.decode(), sent.headers[h].decode()) for h in _RECEIPTS if h in sent.headers]
    context.set_trailing_metadata(receipts)
    if sent.status == 200:
        return infer_response(sent) if body else _message(method.response, sent.body)
    if sent.status not in method.says_no:
        error = orjson.loads(sent.body)["error"]
        context.set_code(code_of(sent.status))
        context.set_details(f"{error['message']}; next: {error['next']}"[:MAX_DETAILS_CHARS])
    return method.response()


def headers_of(metadata: Iterable[tuple[str, str | bytes]]) -> MutableMapping[bytes, bytes]:
    """All but what says which HTTP client it is."""
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in metadata
        if name != "user-agent"
    }


async def _ask(
    gateway: Gateway, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes
) -> Sent:
    sent = Sent()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.status, sent.headers = message["status"], dict(message["headers"])
        else:
            sent.body = message["body"]

    pairs: list[Header] = list(headers.items())
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    await gateway(scope, receive, send)
    return sent


def infer_body(asked: Any) -> tuple[bytes, int]:
    """A ModelInferRequest as a body with binary tensors, and the length of its JSON part. What is
    wrong with it the gateway finds there. Outputs are wanted as the inputs came: as raw bytes, or
    as typed contents."""
    given = list(asked.raw_input_contents)
    num_given = len(given)
    tensors = [
        _input(tensor, given[number] if number < num_given else None)
        for number, tensor in enumerate(asked.inputs)
    ]
    request: dict[str, Any] = {
        "inputs": [described for described, _ in tensors],
        "outputs": [
            # what a parameter says does not matter, but that it is there
            {"name": o.name, "parameters": {p: True for p in o.parameters if p != "binary_data"}}
            for o in asked.outputs
        ],
        "parameters": {"binary_data_output": num_given > 0},
    }
    if asked.id:
        request["id"] = asked.id
    text = orjson.dumps(request)
    return b"".join([text, *(raw for _, raw in tensors), *given[len(tensors) :]]), len(text)


def _input(tensor: Any, raw: bytes | None) -> tuple[dict[str, Any], bytes]:
    """A tensor as JSON has it, and its bytes after that. raw: what came of it in
    raw_input_contents."""
    described: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
    }
    # JSON could not have what is not UTF-8, and has no infinity
    if raw is None and tensor.datatype == "BYTES":
        raw = length_prefixed(tensor.contents.bytes_contents)
    elif raw is None and tensor.datatype in _FLOATS:
        floats = getattr(tensor.contents, _CONTENTS[tensor.datatype])
        raw = np.array(floats, _FLOATS[tensor.datatype]).tobytes()
    elif raw is None or tensor.contents.ByteSize():
        contents = _CONTENTS.get(tensor.datatype)
        described["data"] = list(getattr(tensor.contents, contents)) if contents else []
    if raw is not None:
        described["parameters"] = {"binary_data_size": len(raw)}
    return described, raw or b""


def infer_response(sent: Sent) -> Message:
    """A ModelInferResponse, from a body of outputs."""
    length = sent.headers.get(LENGTH_HEADER)
    offset = int(length) if length is not None else len(sent.body)
    found = orjson.loads(sent.body[:offset])
    response = messages.ModelInferResponse(
        model_name=found["model_name"], model_version=found["model_version"], id=found["id"]
    )
    for output in found["outputs"]:
        made = response.outputs.add(
            name=output["name"], datatype=output["datatype"], shape=output["shape"]
        )
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            response.raw_output_contents.append(sent.body[offset : offset + size])
            offset += size
        elif output["datatype"] == "BYTES":
            made.contents.bytes_contents.extend(text.encode() for text in output["data"])
        else:
            getattr(made.contents, _CONTENTS[output["datatype"]]).extend(output["data"])
    return response


def _message(kind: type[Message], body: bytes) -> Message:
    """What a message has no field for is left out: limits of columns, for one."""
    made: Message = ParseDict(orjson.loads(body), kind(), ignore_unknown_fields=True)
    return made
