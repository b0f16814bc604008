"""The endpoint without Ray and without a socket: a real bundle behind the ASGI application."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from language_case import LanguageCase
from serving_case import (
    CLASSES,
    ENDPOINT,
    ROW,
    Case,
    in_parallel,
    make_bundle,
    oip_body,
    rows_table,
)

from rayapp.config.serving import EndpointConfig, ServingConfig
from rayapp.errors import TamperedError
from rayapp.families.bundle import Bundle
from rayapp.schemas.traffic import KEPT_OUT
from rayapp.serve.aside import INLINE_BYTES
from rayapp.serve.background import Background
from rayapp.serve.language import replica as language_replica
from rayapp.serve.replica import SWITCH_INTERVAL_S, BehindServe, ServeHooks

INFER = f"/v2/models/{ENDPOINT}/infer"
SCORE = f"/endpoints/{ENDPOINT}/invocations"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {"r1": folder / "1", "r2": folder / "2", "multi": folder / "m", "value": folder / "v"}
    make_bundle(made["r1"])
    make_bundle(made["r2"], seed=9)
    make_bundle(made["multi"], "multiclass")
    make_bundle(made["value"], "regression")
    return made


def started(bundles: dict[str, Path], release: str = "r1", **config: Any) -> Case:
    case = Case(ServingConfig(**config), releases=bundles)
    case.promote(release)
    case.follower.refresh()
    return case


@pytest.fixture
def case(bundles: dict[str, Path]) -> Case:
    return started(bundles)


def records(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"dataframe_records": list(rows)}


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"type", "message", "param", "next"}
    assert error["message"]
    assert error["next"]
    return response.status_code, error["type"], error["param"]


async def test_both_protocols_give_the_bundles_own_answer(
    case: Case, bundles: dict[str, Path]
) -> None:
    table = rows_table(20, seed=3).drop_columns(["y"])
    expected = Bundle.open(bundles["r1"]).predict(table)[:, 1].tolist()
    rows = [{**r, "departure": r["departure"].isoformat()} for r in table.to_pylist()]
    async with case.client() as client:
        oip = await client.post(INFER, json=oip_body(rows))
        mlflow = await client.post(SCORE, json=records(*rows))
    outputs = {o["name"]: o for o in oip.json()["outputs"]}
    assert outputs["probability"]["data"] == pytest.approx(expected, abs=1e-6)
    assert mlflow.json()["predictions"] == pytest.approx(expected, abs=1e-6)
    labels = [CLASSES["binary"][p > 0.5] for p in expected]
    assert outputs["label"]["data"] == labels
    assert oip.json()["model_version"] == oip.headers["x-release"] == "r1"


async def test_every_mlflow_shape_means_the_same(case: Case) -> None:
    split = {"columns": list(ROW), "data": [list(ROW.values())]}
    bodies = [
        {"dataframe_split": split},
        records(ROW),
        {"inputs": {k: [v] for k, v in ROW.items()}},
        {"inputs": {k: [[v]] for k, v in ROW.items()}},
        {"inputs": ROW},
        {"instances": [ROW]},
    ]
    async with case.client() as client:
        answers = [await client.post(SCORE, json=body) for body in bodies]
        bare = await client.post("/invocations", json=bodies[0])
    assert {a.status_code for a in answers} == {200}
    assert {a.text for a in answers} == {bare.text}


@pytest.mark.parametrize(("release", "width"), [("multi", 3), ("value", None)])
async def test_other_tasks(bundles: dict[str, Path], release: str, width: int | None) -> None:
    case = started(bundles, release)
    async with case.client() as client:
        oip = (await client.post(INFER, json=oip_body([ROW, ROW]))).json()
        mlflow = (await client.post(SCORE, json=records(ROW, ROW))).json()["predictions"]
        metadata = (await client.get(f"/v2/models/{ENDPOINT}")).json()
    assert [o["name"] for o in metadata["outputs"]] == [o["name"] for o in oip["outputs"]]
    if width is None:
        assert oip["outputs"][0]["shape"] == [2]
        assert isinstance(mlflow[0], float)
    else:
        assert oip["outputs"][0]["shape"] == [2, 3]
        assert sum(mlflow[0]) == pytest.approx(1, abs=1e-5)


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in ROW.items() if k != name}


BAD_ROWS: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({**ROW, "distance": "far"}, 422, "wrong_type", "distance"),
    ({**ROW, "distance": True}, 422, "wrong_type", "distance"),
    ({**ROW, "flight": 1.7}, 422, "wrong_type", "flight"),
    ({**ROW, "carrier": 7}, 422, "wrong_type", "carrier"),
    ({**ROW, "carrier": "ZZ"}, 422, "category", "carrier"),
    ({**ROW, "carrier": None}, 422, "missing_value", "carrier"),
    ({**ROW, "distance": float("nan")}, 422, "missing_value", "distance"),
    ({**ROW, "distance": float("inf")}, 422, "not_finite", "distance"),
    ({**ROW, "distance": -1}, 422, "range", "distance"),
    ({**ROW, "departure": "2013-10-01T12:15:00"}, 422, "wrong_type", "departure"),
    ({**ROW, "departure": "tomorrow"}, 422, "wrong_type", "departure"),
    ({**ROW, "departure": "0000-01-01T00:00:00Z"}, 422, "wrong_type", "departure"),
    ({**ROW, "departure": "0001-01-01T00:00:00+05:00"}, 422, "wrong_type", "departure"),
    ({**ROW, "departure": "9999-12-31T23:59:59-14:00"}, 422, "wrong_type", "departure"),
    (without("temp"), 422, "missing_column", "temp"),
    ({**without("carrier"), "carier": "UA"}, 422, "unknown_column", "carier"),
    ({**ROW, "id": {"a": 1}}, 400, "bad_request", "id"),
]


@pytest.mark.parametrize(("row", "status", "kind", "param"), BAD_ROWS)
async def test_a_row_that_breaks_the_contract_names_the_field(
    case: Case, row: dict[str, Any], status: int, kind: str, param: str | None
) -> None:
    async with case.client() as client:
        response = await client.post(
            SCORE,
            content=json.dumps(records(ROW, row)),
            headers={"content-type": "application/json"},
        )
    if param == "temp":  # missing in one of two records is a missing value, which it may be
        assert response.status_code == 200
        async with case.client() as client:
            response = await client.post(SCORE, json=records(row))
    assert error_of(response) == (status, kind, param)
    assert case.predictions.records == [] or param == "temp"


BAD_BODIES: list[tuple[str, bytes, int, str]] = [
    (SCORE, b"{", 400, "not_json"),
    (SCORE, b"[1]", 400, "bad_request"),
    (SCORE, b"", 400, "not_json"),
    (SCORE, b"\xff\xfe", 400, "not_json"),
    (SCORE, b"NaN", 400, "bad_request"),
    (SCORE, b'{"a": NaN', 400, "not_json"),
    (SCORE, b"[" * 100_000, 400, "not_json"),
    (SCORE, b"{}", 400, "bad_request"),
    (SCORE, b'{"inputs": {"a": [1' + b"0" * 400 + b"]}}", 400, "bad_request"),
    (SCORE, b'{"dataframe_records": []}', 400, "empty_batch"),
    (SCORE, b'{"dataframe_records": [1]}', 400, "bad_request"),
    (SCORE, b'{"dataframe_split": 5}', 400, "bad_request"),
    (SCORE, b'{"dataframe_split": {"columns": ["a"], "data": []}}', 400, "empty_batch"),
    (SCORE, b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', 400, "bad_request"),
    (SCORE, b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', 400, "bad_request"),
    (SCORE, b'{"dataframe_split": {"columns": [1], "data": [[1]]}}', 400, "bad_request"),
    (SCORE, b'{"inputs": {"a": [1], "b": [1, 2]}}', 400, "bad_request"),
    (SCORE, b'{"inputs": {}}', 400, "empty_batch"),
    (SCORE, b'{"inputs": [[1]]}', 400, "bad_request"),
    (SCORE, b'{"inputs": {"a": [1]}, "params": {"x": 1}}', 400, "bad_request"),
    (SCORE, b'{"inputs": {"a": [1]}, "more": 1}', 400, "bad_request"),
    (INFER, b"{}", 400, "bad_request"),
    (INFER, b'{"inputs": [5]}', 400, "bad_request"),
    (INFER, b'{"inputs": [{"name": "a"}]}', 400, "bad_request"),
    (INFER, b'{"inputs": [{"name": "a", "shape": [0], "datatype": "FP64"}]}', 400, "empty_batch"),
    (
        INFER,
        b'{"inputs": [{"name": "a", "shape": [1, 2], "datatype": "FP64"}]}',
        400,
        "bad_request",
    ),
    (INFER, b'{"inputs": [{"name": "a", "shape": [-1], "datatype": "FP64"}]}', 400, "bad_request"),
    (INFER, b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP64"}]}', 400, "bad_request"),
    (
        INFER,
        b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP64", "data": [1]}]}',
        400,
        "bad_request",
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "kind"), BAD_BODIES)
async def test_a_body_that_is_not_in_order(
    case: Case, path: str, body: bytes, status: int, kind: str
) -> None:
    async with case.client() as client:
        response = await client.post(
            path, content=body, headers={"content-type": "application/json"}
        )
    assert error_of(response)[:2] == (status, kind)
    assert response.headers["x-request-id"]
    assert response.headers["x-release"] == "r1"


def oip_changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    body = oip_body([ROW, ROW])
    change(body)
    return body


OIP_CHANGES: list[tuple[Callable[[dict[str, Any]], Any], int, str, str | None]] = [
    (lambda b: b["inputs"].append(b["inputs"][0]), 400, "bad_request", "distance"),
    (lambda b: b["inputs"][1].update(shape=[1], data=[1]), 400, "bad_request", "flight"),
    (lambda b: b["inputs"][0].update(datatype="FP128"), 400, "bad_request", "distance"),
    (lambda b: b["inputs"][2].update(datatype="INT64"), 422, "wrong_type", "carrier"),
    (lambda b: b["inputs"].pop(), 422, "missing_column", "departure"),
    (lambda b: b.update(outputs=[{"name": "rank"}]), 400, "bad_request", "rank"),
    (lambda b: b.update(outputs="label"), 400, "bad_request", "outputs"),
    (lambda b: b.update(id=7), 400, "bad_request", "id"),
    (lambda b: b["inputs"][0].update(parameters=3), 400, "bad_request", "distance"),
    (
        lambda b: b["inputs"][0].update(parameters={"binary_data_size": 16}),
        400,
        "bad_request",
        "distance",
    ),
]


@pytest.mark.parametrize(("change", "status", "kind", "param"), OIP_CHANGES)
async def test_an_oip_request_that_is_not_in_order(
    case: Case,
    change: Callable[[dict[str, Any]], None],
    status: int,
    kind: str,
    param: str | None,
) -> None:
    async with case.client() as client:
        response = await client.post(INFER, json=oip_changed(change))
    assert error_of(response) == (status, kind, param)


async def test_an_unknown_output_is_refused_before_the_row_is_recorded(case: Case) -> None:
    async with case.client() as client:
        await client.post(INFER, json=oip_body([ROW], outputs=[{"name": "rank"}]))
    assert case.predictions.records == []


async def test_only_the_asked_outputs_come_back(case: Case) -> None:
    async with case.client() as client:
        response = await client.post(
            INFER, json=oip_body([ROW], id="mine", outputs=[{"name": "label"}])
        )
    assert [o["name"] for o in response.json()["outputs"]] == ["label"]
    assert response.json()["id"] == "mine"


PATHS: list[tuple[str, str, int, str]] = [
    ("POST", "/v2/models/other/infer", 404, "unknown_endpoint"),
    ("POST", "/endpoints/other/invocations", 404, "unknown_endpoint"),
    ("GET", "/v2/models/other", 404, "unknown_endpoint"),
    ("GET", "/v2/models/other/ready", 404, "unknown_endpoint"),
    ("GET", f"/v2/models/{ENDPOINT}/versions/r9", 404, "unknown_version"),
    ("GET", "/nothing", 404, "unknown_path"),
    ("GET", f"/v2/models/{ENDPOINT}/nothing", 404, "unknown_path"),
    ("GET", INFER, 405, "method_not_allowed"),
    ("DELETE", "/feedback", 405, "method_not_allowed"),
]


@pytest.mark.parametrize(("method", "path", "status", "kind"), PATHS)
async def test_paths_that_lead_nowhere(
    case: Case, method: str, path: str, status: int, kind: str
) -> None:
    async with case.client() as client:
        response = await client.request(method, path)
    assert error_of(response)[:2] == (status, kind)
    assert (status == 405) == ("allow" in response.headers)


async def test_limits(bundles: dict[str, Path]) -> None:
    case = started(bundles, max_rows=2, max_body_bytes=2048)
    async with case.client() as client:
        rows = await client.post(SCORE, json=records(ROW, ROW, ROW))
        body = await client.post(SCORE, content=b"x" * 10_000_000)
        kind = await client.post(SCORE, content=b"a,b", headers={"content-type": "text/csv"})
        packed = await client.post(SCORE, json={}, headers={"content-encoding": "gzip"})
    assert error_of(rows)[:2] == (413, "too_many_rows")
    assert error_of(body)[:2] == (413, "body_too_large")
    assert error_of(kind)[:2] == (415, "unsupported_media_type")
    assert error_of(packed)[:2] == (415, "unsupported_encoding")


async def test_before_the_first_release_it_is_not_ready_and_then_is_by_itself(
    bundles: dict[str, Path],
) -> None:
    case = Case(ServingConfig(endpoints={ENDPOINT: EndpointConfig()}), releases=bundles)
    case.follower.refresh()
    async with case.client() as client:
        early = await client.post(SCORE, json=records(ROW))
        ready = await client.get("/v2/health/ready")
        live = await client.get("/v2/health/live")
        case.promote("r1")
        case.follower.refresh()
        later = await client.post(SCORE, json=records(ROW))
        ready_later = await client.get("/v2/health/ready")
        model_ready = await client.get(f"/v2/models/{ENDPOINT}/ready")
    assert error_of(early)[:2] == (503, "unavailable")
    assert early.headers["retry-after"] == "1"
    assert "x-release" not in early.headers
    assert [ready.status_code, live.status_code] == [503, 200]
    assert [later.status_code, ready_later.status_code, model_ready.status_code] == [200] * 3


async def test_a_tampered_release_never_answers(bundles: dict[str, Path]) -> None:
    case = Case(ServingConfig(), releases=bundles)
    case.refusals["r1"] = TamperedError("manifest was changed", "restore it")
    case.promote("r1")
    case.follower.refresh()
    async with case.client() as client:
        response = await client.post(SCORE, json=records(ROW))
        index = (await client.get("/")).json()
    assert error_of(response)[:2] == (503, "unavailable")
    assert "manifest was changed" in response.json()["error"]["message"]
    assert "manifest was changed" in index["problems"][ENDPOINT]


async def test_answers_are_recorded_before_they_leave(case: Case) -> None:
    async with case.client() as client:
        response = await client.post(
            SCORE,
            json=records({**ROW, "id": "UA1545"}, {**ROW, "id": 7}, ROW),
            headers={"x-request-id": "my-id.1"},
        )
    kept = case.predictions.records
    assert response.headers["x-request-id"] == "my-id.1"
    assert [r["row"] for r in kept] == [0, 1, 2]
    assert [r["unit_id"] for r in kept] == ["UA1545", "7", None]
    assert {(r["request_id"], r["endpoint"], r["release_id"]) for r in kept} == {
        ("my-id.1", ENDPOINT, "r1")
    }
    assert [r["scores"][1] for r in kept] == pytest.approx(response.json()["predictions"])
    assert set(kept[0]["inputs"]) == set(ROW)
    assert case.meter.requests == [(ENDPOINT, "r1", 200)]
    assert case.meter.num_rows == 3


async def test_no_answer_without_a_record(case: Case) -> None:
    case.predictions.error = OSError(28, "No space left on device")
    async with case.client() as client:
        response = await client.post(SCORE, json=records(ROW))
    assert error_of(response)[:2] == (503, "unavailable")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('Application/JSON;charset="UTF-8"', 200),
        ("application/json; charset=utf-16", 415),
        ("text/json", 415),
    ],
)
async def test_a_body_is_json_in_unicode(case: Case, content_type: str, status: int) -> None:
    async with case.client() as client:
        answer = await client.post(
            SCORE, content=json.dumps(records(ROW)), headers={"content-type": content_type}
        )
    assert answer.status_code == status


async def test_a_bad_request_id_is_refused_and_a_missing_one_is_made(case: Case) -> None:
    async with case.client() as client:
        bad = await client.post(SCORE, json=records(ROW), headers={"x-request-id": "a b"})
        first = await client.post(SCORE, json=records(ROW))
        second = await client.post(SCORE, json=records(ROW))
    assert error_of(bad) == (400, "bad_request_id", "x-request-id")
    assert "is 'a b', must be" in bad.json()["error"]["message"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_our_own_fault_is_a_500_without_our_inside(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(table: pa.Table) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(case.follower.current[ENDPOINT].scorer, "_score", fail)
    async with case.client() as client:
        response = await client.post(SCORE, json=records(ROW))
    assert error_of(response)[:2] == (500, "internal")
    assert "secret" not in response.text


async def test_requests_that_arrive_together_share_a_call(bundles: dict[str, Path]) -> None:
    case = started(bundles, batch_wait_ms=20)
    bodies = [records(*[{**ROW, "distance": 100.0 + i}] * (i % 3 + 1)) for i in range(12)]
    async with case.client() as client:
        together = await in_parallel(*[client.post(SCORE, json=body) for body in bodies])
        alone = [await client.post(SCORE, json=body) for body in bodies]
    assert [r.json() for r in together] == [r.json() for r in alone]
    assert case.meter.batches[0] == 24


async def test_more_requests_than_the_limit_are_refused_at_once(bundles: dict[str, Path]) -> None:
    case = started(bundles, batch_wait_ms=20, max_ongoing_requests=2)
    async with case.client() as client:
        calls = [client.post(SCORE, json=records(ROW)) for _ in range(5)]
        responses = await in_parallel(*calls)
        assert (await client.post(SCORE, json=records(ROW))).status_code == 200
    assert sorted(r.status_code for r in responses) == [200, 200, 503, 503, 503]
    refused = next(r for r in responses if r.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert error_of(refused) == (503, "unavailable", None)
    assert case.app.num_ongoing == 0


async def test_behind_ray_serve_it_sends_no_request_id(bundles: dict[str, Path]) -> None:
    """Serve's own middleware adds the header; twice would be once too often."""
    case = started(bundles)
    transport = httpx.ASGITransport(app=BehindServe(case.app))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        response = await client.post(SCORE, json=records(ROW))
    assert response.status_code == 200
    assert "x-request-id" not in response.headers


@pytest.fixture
def usual_interval() -> Iterator[None]:
    usual = sys.getswitchinterval()
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("usual_interval")
def test_threads_of_a_replica_keep_its_answers_waiting_shortly(case: Case) -> None:
    ServeHooks(case.app)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)


@pytest.mark.usefixtures("usual_interval")
def test_so_do_those_of_language_models(monkeypatch: pytest.MonkeyPatch) -> None:
    made = LanguageCase()
    monkeypatch.setattr(language_replica, "make_gateway", lambda *parts: made.app)
    language_replica.make_hooks(made.config, lambda config: None, {})  # type: ignore[arg-type, return-value]
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)


async def test_a_swap_changes_whole_answers_only(bundles: dict[str, Path]) -> None:
    case = started(bundles, batch_wait_ms=5)
    by_release: dict[str, set[str]] = {}
    async with case.client() as client:
        for turn in range(10):
            calls = [client.post(SCORE, json=records(ROW)) for _ in range(5)]
            if turn == 5:
                case.promote("r2")
                case.follower.refresh()
            for response in await in_parallel(*calls):
                assert response.status_code == 200
                by_release.setdefault(response.headers["x-release"], set()).add(response.text)
    assert {release: len(texts) for release, texts in by_release.items()} == {"r1": 1, "r2": 1}
    assert by_release["r1"] != by_release["r2"]


async def test_several_endpoints(bundles: dict[str, Path]) -> None:
    case = started(bundles)
    case.sealed_for = "trip-length"
    case.promote("value", "trip-length")
    case.follower.refresh()
    async with case.client() as client:
        first = await client.post(SCORE, json=records(ROW))
        second = await client.post("/endpoints/trip-length/invocations", json=records(ROW))
        unnamed = await client.post("/invocations", json=records(ROW))
    assert [first.headers["x-release"], second.headers["x-release"]] == ["r1", "value"]
    assert error_of(unnamed)[:2] == (404, "unknown_endpoint")


FEEDBACK: list[tuple[dict[str, Any], int, str | None]] = [
    ({"request_id": "a", "label": True}, 202, None),
    ({"request_id": "a", "label": "late", "row": 2}, 202, None),
    ({"request_id": "a", "score": 0.5, "comment": "fine"}, 202, None),
    ({"label": 1}, 400, "request_id"),
    ({"request_id": "a"}, 400, "label"),
    ({"request_id": "a", "label": 1, "rating": 5}, 400, "rating"),
    ({"request_id": "a", "label": 1, "tenant": "acme"}, 400, "tenant"),
    ({"request_id": "a", "score": "good"}, 422, "score"),
    ({"request_id": 5, "label": 1}, 422, "request_id"),
]


@pytest.mark.parametrize(("body", "status", "param"), FEEDBACK)
async def test_feedback(case: Case, body: dict[str, Any], status: int, param: str | None) -> None:
    async with case.client() as client:
        response = await client.post("/feedback", json=body)
    assert response.status_code == status
    if status == 202:
        assert case.feedback.records[0]["label"] == body.get("label")
        assert case.feedback.records[0]["endpoint"] == ENDPOINT
    else:
        assert error_of(response)[2] == param
        assert case.feedback.records == []


@pytest.mark.parametrize("is_long", [True, False])
async def test_long_feedback_is_looked_at_aside(
    case: Case, monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    """On the event loop every other request would wait for it."""
    threads: list[threading.Thread] = []
    append = case.feedback.append

    def noting(records: Any) -> None:
        threads.append(threading.current_thread())
        append(records)

    monkeypatch.setattr(case.feedback, "append", noting)
    comment = "x" * (2 * INLINE_BYTES if is_long else 10)
    async with case.client() as client:
        response = await client.post("/feedback", json={"request_id": "a", "comment": comment})
    assert response.json() == {"accepted": 1, "request_id": "a"}
    assert (threads == [threading.current_thread()]) == (not is_long)


async def test_metadata_tells_what_to_send(case: Case) -> None:
    async with case.client() as client:
        found = (await client.get(f"/v2/models/{ENDPOINT}")).json()
        same = (await client.get(f"/v2/models/{ENDPOINT}/versions/r1")).json()
        server = (await client.get("/v2")).json()
    assert found == same
    assert found["platform"] == "rayapp_tabular"
    assert found["versions"] == ["r1"]
    assert {i["name"]: i["datatype"] for i in found["inputs"]}["departure"] == "BYTES"
    assert "binary_tensor_data" in server["extensions"]


async def test_a_prefix_in_front_of_the_application(case: Case) -> None:
    seen: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        seen.append(message)

    def messages() -> Iterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b""}

    source = messages()

    async def receive() -> dict[str, Any]:
        return next(source)

    scope = {"type": "http", "method": "GET", "path": "/p/v2", "root_path": "/p", "headers": []}
    await case.app(scope, receive, send)
    assert seen[0]["status"] == 200


async def test_a_client_that_leaves_is_no_error(case: Case) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there")

    scope = {"type": "http", "method": "POST", "path": SCORE, "headers": []}
    await case.app(scope, receive, send)
    assert case.predictions.records == []


async def test_lifespan_follows_commits_and_flushes(bundles: dict[str, Path]) -> None:
    case = Case(ServingConfig(), releases=bundles)
    work: list[str] = []
    loop, followed, committed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def follow(patience_s: float | None) -> None:
        case.follower.refresh(patience_s)
        if case.follower.current[ENDPOINT].release_id == "r2":
            loop.call_soon_threadsafe(followed.set)

    def commit() -> None:
        work.append("commit")
        loop.call_soon_threadsafe(committed.set)

    case.app._background = Background(follow, 0.001, commit, 0.001, lambda: work.append("flush"))
    case.promote("r1")
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(case.app({"type": "lifespan"}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    assert case.follower.current[ENDPOINT].release_id == "r1"
    case.promote("r2")
    await followed.wait()
    await committed.wait()
    async with case.client() as client:
        await client.get("/ping")
    await inbox.put({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await running
    assert case.meter.num_flushed == len(case.meter.requests) == 1
    assert work[-1] == "flush"


@pytest.mark.parametrize("agent", ["python/gevent-http-client-2.3.4", "Python/3.11 aiohttp/3.9"])
async def test_tritons_client_is_told_errors_as_one_text(case: Case, agent: str) -> None:
    """It raises TypeError where `error` is an object, so nobody would see the message."""
    body = oip_body([{**ROW, "carrier": "ZZ"}])
    async with case.client() as client:
        told = await client.post(INFER, json=body, headers={"user-agent": agent})
        other = await client.post(INFER, json=body)
        mlflow = await client.post(SCORE, json={}, headers={"user-agent": agent})
    assert (told.status_code, told.json()["type"], told.json()["param"]) == (
        422,
        "category",
        "carrier",
    )
    assert told.json()["error"].startswith("'carrier' in row 0 is 'ZZ'")
    assert "; next: send one of" in told.json()["error"]
    assert error_of(other) == (422, "category", "carrier")
    assert error_of(mlflow)[0] == 400


async def test_only_what_asks_a_model_counts_as_an_endpoints_request(case: Case) -> None:
    about = [*case.app.open_paths, "/", "/v2", "/openapi.json", "/nothing", "/nothing/infer"]
    about += [f"/v2/models/{ENDPOINT}", f"/v2/models/{ENDPOINT}/ready"]
    async with case.client() as client:
        told = [await client.get(path) for path in about]
        told.append(await client.post("/feedback", json={"request_id": "q", "label": 1}))
        assert {endpoint for endpoint, _, _ in case.meter.requests} == {"none"}
        assert {answer.headers["x-release"] for answer in told} == {"r1"}
        case.meter.requests.clear()
        for path in (INFER, SCORE, "/invocations"):
            await client.post(path, json={})
        await client.get(INFER)
    assert case.meter.requests == [(ENDPOINT, "r1", status) for status in (400, 400, 400, 405)]


async def test_what_haproxy_kept_out_is_counted(case: Case) -> None:
    async with case.client() as client:
        for told in ("7", "12", "", "-1", "9" * 30, "x"):
            response = await client.post(SCORE, json=records(ROW), headers={KEPT_OUT: told})
            assert response.status_code == 200
        for told in ("0", "00"):
            await client.get("/ping", headers={KEPT_OUT: told})
    assert case.meter.num_kept_out == 19
