"""gRPC and HTTP are two writings of one protocol: what one answers, the other does."""

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_case import ENDPOINT, INPUTS, ROW, Case, make_bundle, oip_body, triton_inputs
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from rayapp.config.serving import EndpointConfig, FallbackConfig, ServingConfig
from rayapp.govern.keys import create_key
from rayapp.ledger import Ledger
from rayapp.schemas.traffic import Role
from rayapp.serve.cluster.grpc_ingress import GrpcMethods, add_to_server
from rayapp.serve.wire import oip_messages as messages
from rayapp.serve.wire.oip_grpc import METHODS, code_of, infer_body, respond
from rayapp.serve.wire.oip_messages import FIELDS, POOL, SERVICE
from rayapp.storage import Workspace

CODE = grpc.StatusCode
CONTENTS = {
    **{"FP32": "fp32_contents", "FP64": "fp64_contents"},
    **{"INT64": "int64_contents", "BOOL": "bool_contents"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "r1"
    make_bundle(made)
    return made


def started(folder: Path, **config: Any) -> Case:
    case = Case(ServingConfig(**config), releases={"r1": folder})
    case.promote("r1")
    case.follower.refresh()
    return case


@pytest.fixture
def case(folder: Path) -> Case:
    return started(folder)


class Call:
    """One call's context, and what the client would see."""

    def __init__(self, metadata: Mapping[str, str] | None = None) -> None:
        self._metadata = metadata or {}
        self.code = CODE.OK
        self.details = ""
        self.trailing: dict[str, str] = {}

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [("user-agent", "grpc-python"), ("trace-bin", b"\xff"), *self._metadata.items()]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        self.trailing = dict(trailing_metadata)


async def ask(
    case: Case, name: str, asked: Message, metadata: Mapping[str, str] | None = None
) -> tuple[Any, Call]:
    call = Call(metadata)
    return await respond(case.app, name, asked, call), call


def raw_request(rows: list[dict[str, Any]], **options: Any) -> Any:
    """As Triton's client writes it."""
    return written(triton_inputs(rows, InferInput), **options)


def written(inputs: list[InferInput], **options: Any) -> Any:
    settled = {"request_id": "", "outputs": None, "model_version": ""} | options
    made = _get_inference_request(
        model_name=ENDPOINT,
        inputs=inputs,
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        parameters=None,
        **settled,
    )
    return messages.ModelInferRequest.FromString(made.SerializeToString())


def typed_request(rows: list[dict[str, Any]]) -> Any:
    request = messages.ModelInferRequest(model_name=ENDPOINT)
    for column in oip_body(rows)["inputs"]:
        datatype, values = column["datatype"], column["data"]
        tensor = request.inputs.add(name=column["name"], datatype=datatype, shape=[len(rows), 1])
        if datatype == "BYTES":
            tensor.contents.bytes_contents.extend(v.encode() for v in values)
        else:
            missing = float("nan") if datatype == "FP64" else None
            known = [missing if v is None else v for v in values]
            getattr(tensor.contents, CONTENTS[datatype]).extend(known)
    return request


def test_the_messages_are_those_that_triton_knows() -> None:
    for name in FIELDS:
        ours = POOL.FindMessageTypeByName(f"inference.{name}")
        theirs = service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}")
        assert [told(field) for field in ours.fields] == [told(field) for field in theirs.fields]
        assert nested(ours) == nested(theirs)
    service = service_pb2.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]
    assert service.full_name == SERVICE
    for name, method in METHODS.items():
        published = service.methods_by_name[name]
        assert published.input_type.full_name == method.request.DESCRIPTOR.full_name
        assert published.output_type.full_name == method.response.DESCRIPTOR.full_name


def told(field: Any) -> tuple[Any, ...]:
    of = field.message_type.full_name if field.message_type is not None else None
    choice = field.containing_oneof.name if field.containing_oneof is not None else None
    return field.number, field.name, field.type, field.is_repeated, of, choice


def nested(message: Any) -> dict[str, Any]:
    return {
        m.name: (m.GetOptions().map_entry, [told(f) for f in m.fields])
        for m in message.nested_types
    }


async def test_every_question_has_the_answer_that_http_gives(case: Case) -> None:
    live, _ = await ask(case, "ServerLive", messages.ServerLiveRequest())
    ready, _ = await ask(case, "ServerReady", messages.ServerReadyRequest())
    server, _ = await ask(case, "ServerMetadata", messages.ServerMetadataRequest())
    model, call = await ask(case, "ModelMetadata", messages.ModelMetadataRequest(name=ENDPOINT))
    assert (live.live, ready.ready, server.name, model.name) == (True, True, "rayapp", ENDPOINT)
    assert [(t.name, list(t.shape)) for t in model.inputs] == [(c.name, [-1]) for c in INPUTS]
    assert call.trailing["x-release"] == model.versions[0] == "r1"


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [(ENDPOINT, "", True), (ENDPOINT, "r1", True), (ENDPOINT, "r9", False), ("a/b", "", False)],
)
async def test_a_model_is_ready_or_not(case: Case, name: str, version: str, is_ready: bool) -> None:
    found, call = await ask(
        case, "ModelReady", messages.ModelReadyRequest(name=name, version=version)
    )
    assert (found.ready, call.code) == (is_ready, CODE.OK)


async def test_nobody_is_ready_before_a_release(folder: Path) -> None:
    case = Case(ServingConfig(), releases={"r1": folder})
    server, call = await ask(case, "ServerReady", messages.ServerReadyRequest())
    assert (server.ready, call.code) == (False, CODE.OK)
    _, call = await ask(case, "ModelInfer", raw_request([ROW]))
    assert (call.code, call.trailing["retry-after"]) == (CODE.UNAVAILABLE, "1")


ROWS = st.fixed_dictionaries(
    {
        "distance": st.floats(0, 5000),
        "flight": st.integers(1, 2**40),
        "carrier": st.sampled_from(["AA", "DL", "UA"]),
        "temp": st.none() | st.floats(-1e9, 1e9),
        "is_holiday": st.booleans(),
        "departure": st.datetimes().map(lambda at: at.isoformat() + "Z"),
    }
)


@given(rows=st.lists(ROWS, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_the_same_rows_have_the_same_answer(folder: Path, rows: list[dict[str, Any]]) -> None:
    async def answers() -> tuple[Any, Any, Any]:
        case = started(folder)
        async with case.client() as client:
            http = await client.post(f"/v2/models/{ENDPOINT}/infer", json=oip_body(rows))
        raw, _ = await ask(case, "ModelInfer", raw_request(rows))
        typed, _ = await ask(case, "ModelInfer", typed_request(rows))
        return http.json(), raw, typed

    http, raw, typed = asyncio.run(answers())
    scores = np.array(http["outputs"][0]["data"], np.float32)
    assert raw.raw_output_contents[0] == scores.tobytes()
    assert list(typed.outputs[0].contents.fp32_contents) == scores.tolist()
    labels = [text.decode() for text in typed.outputs[1].contents.bytes_contents]
    assert labels == http["outputs"][1]["data"]
    assert [o.name for o in raw.outputs] == [o["name"] for o in http["outputs"]]
    assert not typed.raw_output_contents


def test_the_how_to_s_example_sends_rows_in_which_a_number_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code, with a client that reaches this gateway."""
    page = (Path(__file__).parents[2] / "docs/how-to/serve-over-grpc.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    body = {"dataframe_records": [{**ROW, "id": "a"}, {**ROW, "temp": None, "id": "b"}]}
    (tmp_path / "rows.json").write_text(json.dumps(body))
    monkeypatch.chdir(tmp_path)
    answers: list[Any] = []

    def asked(method: str, request: Any) -> Any:
        async def answer() -> tuple[Any, Call]:
            return await ask(started(folder), method, request)

        answered, call = asyncio.run(answer())
        assert call.code == CODE.OK, call.details
        return answered

    class Client:
        def __init__(self, url: str) -> None: ...

        def get_model_metadata(self, name: str) -> Any:
            return asked("ModelMetadata", messages.ModelMetadataRequest(name=name))

        def infer(self, name: str, inputs: list[InferInput], headers: dict[str, str]) -> Any:
            assert all(value.isascii() for value in headers.values())
            answers.append(asked("ModelInfer", written(inputs)))
            return InferResult(service_pb2.ModelInferResponse())

    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient", Client)
    exec(code, {})
    assert [list(answer.outputs[0].shape) for answer in answers] == [[2]]


async def test_a_call_leaves_what_a_request_leaves(case: Case, tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = {
        "x-request-id": "mine",
        "authorization": with_key(case, tmp_path, "caller"),
        "traceparent": f"00-{trace}-b7ad6b7169203331-01",
    }
    found, call = await ask(case, "ModelInfer", raw_request([ROW], request_id="id-1"), metadata)
    assert (found.id, found.model_version) == ("id-1", "r1")
    assert call.trailing == {"x-request-id": "mine", "x-release": "r1"}
    (record,) = case.predictions.records
    kept = (record["request_id"], record["tenant"], record["trace_id"])
    assert kept == ("mine", "acme", trace)
    assert case.meter.requests == [(ENDPOINT, "r1", 200)]
    assert case.meter.num_rows == 1


def with_key(case: Case, folder: Path, role: Role) -> str:
    text, key = create_key(Ledger.of(Workspace(str(folder)), "test"), "acme", role)
    case.keys = {key.key_id: key}
    case.ring.refresh()
    return f"Bearer {text}"


async def test_who_may_not_ask_is_told_so(folder: Path, tmp_path: Path) -> None:
    case = started(folder, requires_key=True)
    reader = {"authorization": with_key(case, tmp_path, "reader")}
    live, _ = await ask(case, "ServerLive", messages.ServerLiveRequest())
    _, without = await ask(case, "ModelInfer", raw_request([ROW]))
    _, looks_only = await ask(case, "ModelInfer", raw_request([ROW]), reader)
    assert live.live
    assert (without.code, looks_only.code) == (CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED)


async def test_a_declared_answer_says_that_it_is_one(folder: Path) -> None:
    fallback = EndpointConfig(fallback=(FallbackConfig(scores=(0.8, 0.2)),))
    case = started(folder, endpoints={ENDPOINT: fallback})
    case.follower.current[ENDPOINT].scorer.predict = broken  # type: ignore[method-assign]
    found, call = await ask(case, "ModelInfer", raw_request([ROW]))
    assert np.frombuffer(found.raw_output_contents[0], np.float32) == pytest.approx([0.2])
    assert call.trailing["x-degraded"] == "failed"


async def broken(*asked: Any, **more: Any) -> Any:
    raise RuntimeError("the model's inside")


async def test_our_own_fault_tells_nothing_of_our_inside(case: Case) -> None:
    case.follower.current[ENDPOINT].scorer.predict = broken  # type: ignore[method-assign]
    _, call = await ask(case, "ModelInfer", raw_request([ROW]))
    assert call.code == CODE.INTERNAL
    assert "inside" not in call.details
    assert call.trailing["x-request-id"] in call.details


async def test_a_deadline_holds(case: Case) -> None:
    _, call = await ask(case, "ModelInfer", raw_request([ROW]), {"x-deadline-ms": "0"})
    assert call.code == CODE.DEADLINE_EXCEEDED
    _, call = await ask(case, "ModelInfer", raw_request([ROW]), {"x-deadline-ms": "soon"})
    assert (call.code, "x-deadline-ms is 'soon'" in call.details) == (CODE.INVALID_ARGUMENT, True)


async def test_outputs_are_chosen_by_name(case: Case) -> None:
    wanted = raw_request([ROW], outputs=[InferRequestedOutput("label")])
    found, _ = await ask(case, "ModelInfer", wanted)
    assert [o.name for o in found.outputs] == ["label"]
    classes = raw_request([ROW], outputs=[InferRequestedOutput("label", class_count=2)])
    _, call = await ask(case, "ModelInfer", classes)
    assert "classification extension" in call.details


SPOILS: list[tuple[Callable[[Any], object], grpc.StatusCode, str]] = [
    (lambda r: r.inputs[0].contents.fp64_contents.append(1), CODE.INVALID_ARGUMENT, "has both"),
    (lambda r: r.inputs[2].contents.bytes_contents.append(b"UA"), CODE.INVALID_ARGUMENT, "both"),
    (lambda r: r.raw_input_contents.pop(), CODE.INVALID_ARGUMENT, "'departure' has 0 element(s)"),
    (lambda r: r.raw_input_contents.append(b"more"), CODE.INVALID_ARGUMENT, "4 byte(s) follow"),
    (lambda r: setattr(r.inputs[0], "datatype", "FP7"), CODE.INVALID_ARGUMENT, "datatype 'FP7'"),
    (lambda r: r.inputs[0].shape.append(-1), CODE.INVALID_ARGUMENT, "has shape [1, -1]"),
    (lambda r: r.raw_input_contents.insert(2, b"\1\0\0\0\xff"), CODE.INVALID_ARGUMENT, "be read"),
    (lambda r: setattr(r, "model_name", ""), CODE.NOT_FOUND, "there is nothing at"),
    (lambda r: setattr(r, "model_name", f"{ENDPOINT}/versions/r1"), CODE.NOT_FOUND, "no endpoint"),
]


@pytest.mark.parametrize(("spoil", "code", "says"), SPOILS)
async def test_a_request_that_cannot_be_read(case: Case, spoil: Any, code: Any, says: str) -> None:
    request = raw_request([ROW])
    spoil(request)
    found, call = await ask(case, "ModelInfer", request)
    assert (call.code, found.ByteSize()) == (code, 0)
    assert says in call.details
    assert "; next: " in call.details
    assert call.trailing["x-request-id"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("name", ["temp", "distance", "flight"])
async def test_what_is_no_number_is_answered_as_over_http(
    case: Case, value: float, datatype: str, name: str
) -> None:
    """`temp` may be null, the others may not."""
    request, body = typed_request([ROW]), oip_body([ROW])
    (place,) = [n for n, tensor in enumerate(body["inputs"]) if tensor["name"] == name]
    body["inputs"][place] |= {"datatype": datatype, "data": [value]}
    tensor = request.inputs[place]
    tensor.datatype = datatype
    tensor.contents.Clear()
    getattr(tensor.contents, CONTENTS[datatype]).append(value)
    found, call = await ask(case, "ModelInfer", request)
    async with case.client() as client:
        http = await client.post(
            f"/v2/models/{ENDPOINT}/infer",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )
    if name == "temp" and math.isnan(value):
        assert (call.code, http.status_code) == (CODE.OK, 200)
        scores = np.array(http.json()["outputs"][0]["data"], np.float32)
        assert list(found.outputs[0].contents.fp32_contents) == scores.tolist()
        return
    error = http.json()["error"]
    kind = "missing_value" if math.isnan(value) else "not_finite"
    assert error["type"] == ("wrong_type" if (name, kind) == ("flight", "not_finite") else kind)
    assert call.details == f"{error['message']}; next: {error['next']}"
    assert call.code == code_of(http.status_code)


async def test_half_floats_have_no_typed_contents(case: Case) -> None:
    request = typed_request([ROW])
    request.inputs[0].datatype = "FP16"
    _, call = await ask(case, "ModelInfer", request)
    assert (call.code, "has 0 value(s)" in call.details) == (CODE.INVALID_ARGUMENT, True)


async def test_a_long_list_of_names_leaves_the_details_short(folder: Path) -> None:
    case = started(folder, endpoints={f"e{i}": EndpointConfig() for i in range(2000)})
    _, call = await ask(case, "ModelMetadata", messages.ModelMetadataRequest(name="other"))
    assert (call.code, len(call.details)) == (CODE.NOT_FOUND, 1000)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, CODE.INVALID_ARGUMENT),
        (413, CODE.INVALID_ARGUMENT),
        (415, CODE.INVALID_ARGUMENT),
        (422, CODE.INVALID_ARGUMENT),
        (429, CODE.RESOURCE_EXHAUSTED),
        (500, CODE.INTERNAL),
        (503, CODE.UNAVAILABLE),
        (504, CODE.DEADLINE_EXCEEDED),
    ],
)
def test_statuses_have_their_codes(status: int, code: grpc.StatusCode) -> None:
    assert code_of(status) == code


def test_the_same_request_is_the_same_bytes() -> None:
    """By which a cache knows it."""
    assert infer_body(raw_request([ROW])) == infer_body(raw_request([ROW]))


class Server:
    def __init__(self) -> None:
        self.handlers: tuple[Any, ...] = ()

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        self.handlers += handlers


async def test_serve_finds_every_method(case: Case) -> None:
    server, replica = Server(), GrpcMethods()
    replica.gateway = case.app  # type: ignore[attr-defined]
    add_to_server(replica, server)
    (of_service,) = server.handlers
    handlers = of_service._method_handlers  # where Serve reads them
    assert set(handlers) == {f"/{SERVICE}/{name}" for name in METHODS}
    live = handlers[f"/{SERVICE}/ServerLive"]
    answer = await live.unary_unary(live.request_deserializer(b""), grpc_context=Call())
    assert (
        live.response_serializer(answer)
        == messages.ServerLiveResponse(live=True).SerializeToString()
    )
