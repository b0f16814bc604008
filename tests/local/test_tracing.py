"""Spans as a collector gets them: from a gateway in this process, and from one on Ray Serve whose
models answer in a pool. A collector that is away changes no answer."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from collector import Collector, collector
from local_cluster import until
from ray import serve
from served import RECORDS, SCORE, Served
from serving_case import ENDPOINT, Case, make_bundle

from rayapp.config.serving import ServingConfig
from rayapp.observe.predictions import find_predictions
from rayapp.serve.tracing.otlp import OtlpTracer
from serve_apps.predict import build

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FOLLOWED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
SERVER, CLIENT = 2, 3


async def answers(folder: Path, url: str, num_requests: int) -> tuple[list[httpx.Response], int]:
    """And how many spans were dropped."""
    tracing = {"otlp_endpoint": url, "sample_share": 1}
    config = ServingConfig.model_validate({"tracing": tracing})
    dropped: list[int] = []
    assert config.tracing is not None
    tracer = OtlpTracer(config.tracing, "here", lambda service, n: dropped.append(n))
    case = Case(config, releases={"r1": folder}, tracer=tracer)
    case.promote("r1")
    case.follower.refresh()
    async with case.client() as client:
        found = [
            await client.post(SCORE, json=RECORDS, headers={"x-request-id": str(n)})
            for n in range(num_requests)
        ]
    await case.app._drain()
    await asyncio.sleep(0)
    return found, sum(dropped)


async def test_a_collector_that_is_away_changes_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path / "bundle")
    with collector() as there:
        expected, num_dropped = await answers(tmp_path / "bundle", there.url, 3)
    assert num_dropped == 0
    roots = [taken for taken in there.taken if taken.span.kind == SERVER]
    assert sorted(root.facts["rayapp.request_id"] for root in roots) == ["0", "1", "2"]
    assert len(there.taken) == 12
    caplog.clear()
    begun_s = time.monotonic()
    found, num_dropped = await answers(tmp_path / "bundle", there.url, 3)  # nobody listens there
    assert time.monotonic() - begun_s < 10
    assert [(f.status_code, f.text) for f in found] == [(f.status_code, f.text) for f in expected]
    assert [f.headers for f in found] == [f.headers for f in expected]
    assert num_dropped == 12
    loud = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert loud == ["spans_not_taken"]


async def test_a_collector_that_never_answers_holds_nobody(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        begun_s = time.monotonic()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        found, num_dropped = await answers(tmp_path / "bundle", url, 3)
    assert {one.status_code for one in found} == {200}
    assert num_dropped == 12
    assert time.monotonic() - begun_s < 15


@pytest.fixture(scope="module")
def there() -> Iterator[Collector]:
    with collector() as made:
        yield made


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, ray_local: None, there: Collector
) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("traced"))
    config = ServingConfig.model_validate(
        {
            "workspace": made.workspace.uri,
            "num_cpus": 0.1,
            "follow_every_ms": 100,
            "commit_every_s": 0.2,
            "placement": "small",
            "endpoints": {ENDPOINT: {"is_pinned": True}},
            "pools": {"small": {"min_replicas": 1, "max_replicas": 1, "num_cpus": 0.1}},
            "tracing": {"otlp_endpoint": there.url, "sample_share": 0},
        }
    )
    serve.start(http_options={"host": "127.0.0.1", "port": made.port})
    serve.run(build(config), name="gateway", route_prefix="/")
    made.promote(made.releases[0])
    until(lambda: made.release() == made.releases[0].release_id)
    yield made
    serve.shutdown()


def test_a_pools_span_is_a_child_of_the_gateways_call(served: Served, there: Collector) -> None:
    assert httpx.post(served.url + SCORE, json=RECORDS, timeout=30).status_code == 200
    answer = httpx.post(served.url + SCORE, json=RECORDS, headers=FOLLOWED, timeout=30)
    assert answer.status_code == 200, answer.text
    until(lambda: len(there.of_trace(TRACE)) == 5)
    found = {taken.span.name: taken for taken in there.of_trace(TRACE)}
    assert len(there.taken) == 5  # the other request was not sampled
    root = found["POST /endpoints/{name}/invocations"]
    call, score = found[f"model {ENDPOINT}"], found["score"]
    assert (root.service, score.service) == ("rayapp-gateway", "rayapp-pool-small")
    assert root.span.parent_span_id.hex() == CALLER
    assert call.span.parent_span_id == root.span.span_id
    assert score.span.parent_span_id == call.span.span_id
    assert (root.span.kind, call.span.kind, score.span.kind) == (SERVER, CLIENT, SERVER)
    request_id = answer.headers["x-request-id"]
    until(lambda: bool(find_predictions(served.workspace, request_id)))
    assert root.facts["rayapp.request_id"] == request_id
    assert [r.trace_id for r in find_predictions(served.workspace, request_id)] == [TRACE]
    release_id = served.releases[0].release_id
    assert {one.facts["rayapp.release"] for one in (root, call, score)} == {release_id}
    assert call.span.start_time_unix_nano <= score.span.start_time_unix_nano
    assert score.span.end_time_unix_nano <= call.span.end_time_unix_nano


def test_what_was_not_sent_yet_is_sent_when_replicas_go(served: Served, there: Collector) -> None:
    other = "1" * 32
    headers = {"traceparent": f"00-{other}-{CALLER}-01"}
    assert httpx.post(served.url + SCORE, json=RECORDS, headers=headers, timeout=30).is_success
    serve.delete("gateway")
    assert len(there.of_trace(other)) == 5
