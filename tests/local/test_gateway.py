"""The gateway on Ray Serve over real sockets, asked by the clients that people have."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from local_cluster import until
from ray import serve
from served import RECORDS, SCORE, Served
from serving_case import ENDPOINT, ROW, rows_table
from tritonclient.utils import InferenceServerException

from rayapp.config.serving import ServingConfig
from rayapp.govern.keys import create_key
from rayapp.observe.predictions import find_predictions, read_feedback
from rayapp.register.manifest import manifest_uri
from serve_apps.predict import build

pytestmark = [
    pytest.mark.usefixtures("ray_local"),
    pytest.mark.filterwarnings("ignore::Warning:gevent.*"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    config = ServingConfig(
        workspace=made.workspace.uri, num_cpus=0.1, follow_every_ms=100, commit_every_s=0.2
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": made.port},
        grpc_options={
            "port": made.grpc_port,
            "grpc_servicer_functions": ["rayapp.serve.cluster.grpc_ingress:add_to_server"],
        },
    )
    serve.run(build(config), name="gateway", route_prefix="/")
    assert httpx.get(f"{made.url}/v2/health/ready").status_code == 503
    early = httpx.post(made.url + SCORE, json=RECORDS)
    assert early.status_code == 503
    assert early.headers["retry-after"] == "1"
    made.promote(made.releases[0])
    until(lambda: made.release() == made.releases[0].release_id)
    yield made
    serve.shutdown()


def _inputs(num_rows: int, tensor: type[Any] = triton.InferInput) -> tuple[list[Any], Any]:
    table = rows_table(num_rows, seed=8).drop_columns(["y"])
    inputs = []
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if name == "departure":
            values = [value.isoformat() for value in values]
        if name == "temp":
            values = [np.nan if value is None else value for value in values]
        array = np.array(values, dtype=np.object_ if isinstance(values[0], str) else None)
        datatype = {"f": "FP64", "i": "INT64", "b": "BOOL", "O": "BYTES"}[array.dtype.kind]
        inputs.append(tensor(name, [num_rows], datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs, table


def test_a_triton_client_works_unchanged(served: Served) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(ENDPOINT)
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(ENDPOINT)
    inputs, table = _inputs(30)
    assert [i["name"] for i in metadata["inputs"]] == [i.name() for i in inputs]
    expected = served.bundle(0).predict(table)[:, 1]
    found = client.infer(ENDPOINT, inputs, request_id="triton-1")
    np.testing.assert_allclose(found.as_numpy("probability"), expected, atol=1e-6)
    assert found.get_response()["id"] == "triton-1"
    version = client.infer(ENDPOINT, inputs, model_version=metadata["versions"][0])
    np.testing.assert_allclose(version.as_numpy("probability"), expected, atol=1e-6)
    with pytest.raises(InferenceServerException) as refused:
        client.infer(ENDPOINT, inputs[:-1])
    assert refused.value.status() == "422"
    assert "is missing" in str(refused.value)
    client.close()


def test_a_triton_client_over_grpc_works_unchanged(served: Served) -> None:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(ENDPOINT)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "rayapp"
    metadata = client.get_model_metadata(ENDPOINT)
    inputs, table = _inputs(30, triton_grpc.InferInput)
    assert [i.name for i in metadata.inputs] == [i.name() for i in inputs]
    expected = served.bundle(0).predict(table)[:, 1]
    found = client.infer(ENDPOINT, inputs, request_id="triton-2")
    np.testing.assert_allclose(found.as_numpy("probability"), expected, atol=1e-6)
    assert found.get_response().id == "triton-2"
    version = client.infer(ENDPOINT, inputs, model_version=metadata.versions[0])
    np.testing.assert_allclose(version.as_numpy("probability"), expected, atol=1e-6)
    key, _ = create_key(served.ledger, "acme", "caller")
    headers = {"authorization": f"Bearer {key}", "x-request-id": "over-grpc"}
    until(lambda: _status(client, ENDPOINT, inputs, headers) is None)
    for name, given, with_headers, status in (
        (ENDPOINT, inputs[:-1], {}, "INVALID_ARGUMENT"),
        ("nobody", inputs, {}, "NOT_FOUND"),
        (ENDPOINT, inputs, {"authorization": f"Bearer {key}x"}, "UNAUTHENTICATED"),
        (ENDPOINT, inputs, {"x-deadline-ms": "0"}, "DEADLINE_EXCEEDED"),
    ):
        assert _status(client, name, given, with_headers) == f"StatusCode.{status}"
    client.close()
    until(lambda: len(find_predictions(served.workspace, "over-grpc")) == 30)
    assert {one.tenant for one in find_predictions(served.workspace, "over-grpc")} == {"acme"}


def _status(
    client: triton_grpc.InferenceServerClient,
    name: str,
    inputs: list[Any],
    headers: dict[str, str],
) -> str | None:
    try:
        client.infer(name, inputs, headers=headers)
    except InferenceServerException as error:
        return str(error.status())
    return None


@pytest.mark.filterwarnings("ignore::UserWarning")  # of mlflow about its own types, on import
def test_mlflows_clients_work_unchanged(served: Served) -> None:
    from mlflow.deployments import get_deploy_client
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    table = rows_table(10, seed=4).drop_columns(["y"])
    expected = served.bundle(0).predict(table)[:, 1]
    frame: pd.DataFrame = table.to_pandas()
    scoring = ScoringServerClient("127.0.0.1", served.port)
    scoring.wait_server_ready()
    assert scoring.get_version()
    found = scoring.invoke(frame).get_predictions()
    np.testing.assert_allclose(found.to_numpy()[:, 0], expected, atol=1e-6)
    deployments = get_deploy_client(served.url)
    answer = deployments.predict(endpoint=ENDPOINT, inputs=RECORDS)
    assert len(answer["predictions"]) == 1


def test_the_page_for_people_is_of_what_answers_there(served: Served) -> None:
    page = httpx.get(f"{served.url}/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f"URL={served.url}\n" in page.text
    release = served.release()
    assert release is not None
    assert release in page.text


def test_refusals_over_the_wire(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        big = client.post(SCORE, content=b"x" * 10_000_000)
        nan = client.post(
            SCORE,
            content=b'{"inputs": {"distance": [NaN]}}',
            headers={"content-type": "application/json"},
        )
        carrier = client.post(SCORE, json={"dataframe_records": [{**ROW, "carrier": "ZZ"}]})
        unknown = client.post("/v2/models/nobody/infer", json={})
        method = client.get(SCORE)
        good = client.post(SCORE, json=RECORDS)
    codes = [r.status_code for r in (big, nan, carrier, unknown, method, good)]
    assert codes == [413, 422, 422, 404, 405, 200]
    for response in (big, nan, carrier, unknown, method):
        assert set(response.json()["error"]) == {"type", "message", "param", "next"}
        assert len(response.headers.get_list("x-request-id")) == 1


def test_the_request_id_leads_to_the_record_and_takes_feedback(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
        given = client.post(SCORE, json=RECORDS, headers={"x-request-id": "trace-me"})
        made = client.post(SCORE, json={"dataframe_records": [{**ROW, "id": "UA1"}, ROW]})
        request_id = made.headers["x-request-id"]
        said = client.post("/feedback", json={"request_id": request_id, "label": "late"})
    assert given.headers.get_list("x-request-id") == ["trace-me"]
    assert said.status_code == 202
    until(lambda: len(find_predictions(served.workspace, request_id)) == 2)
    kept = find_predictions(served.workspace, request_id)
    assert [one.unit_id for one in kept] == ["UA1", None]
    assert {one.release_id for one in kept} == {made.headers["x-release"]}
    assert [one.scores[1] for one in kept] == pytest.approx(made.json()["predictions"])
    uri = served.workspace.table("feedback")
    until(lambda: read_feedback(uri, request_id=request_id).num_rows == 1)


async def test_replicas_follow_without_a_failed_request(served: Served) -> None:
    old, new = (one.release_id for one in served.releases)
    statuses: set[int] = set()
    answered_by: list[str] = []
    stop = asyncio.Event()

    async def ask(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            response = await client.post(SCORE, json=RECORDS)
            statuses.add(response.status_code)
            answered_by.append(response.headers["x-release"])

    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        await asyncio.to_thread(until, lambda: len(answered_by) >= 50)
        await asyncio.to_thread(served.promote, served.releases[1])
        await asyncio.to_thread(until, lambda: set(answered_by[-50:]) == {new})
        stop.set()
        await asyncio.gather(*asking)
    assert statuses == {200}
    assert set(answered_by) == {old, new}
    await asyncio.to_thread(served.promote, served.releases[0])
    await asyncio.to_thread(until, lambda: served.release() == old)


def test_a_tampered_manifest_is_never_served(served: Served) -> None:
    path = Path(manifest_uri(served.workspace, served.releases[1].release_id))
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b'"run_id":"run"', b'"run_id":"rum"'))
    try:
        served.promote(served.releases[1])
        until(lambda: bool(httpx.get(served.url).json()["problems"]))
        response = httpx.post(served.url + SCORE, json=RECORDS)
    finally:
        path.write_bytes(honest)
    assert response.status_code == 200
    assert response.headers["x-release"] == served.releases[0].release_id
    until(lambda: served.release() == served.releases[1].release_id)  # mended by itself


def test_at_shutdown_everything_is_committed(served: Served) -> None:
    answer = httpx.post(served.url + SCORE, json=RECORDS)
    serve.shutdown()
    assert find_predictions(served.workspace, answer.headers["x-request-id"])
    left = list((served.workspace.local / "spool").rglob("*.log"))
    assert left == []
