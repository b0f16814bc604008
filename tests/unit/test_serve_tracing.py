"""Traces: which requests are followed, what their spans say, and which trace the log names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from serving_case import ENDPOINT, ROW, Case, in_parallel, make_bundle

from rayapp.config.serving import EndpointConfig, ServingConfig
from rayapp.config.tracing import TracingConfig
from rayapp.schemas.features import FeatureFeed
from rayapp.serve.feeds import Feeds
from rayapp.serve.follow import release_key
from rayapp.serve.tracing import otlp
from rayapp.serve.tracing.otlp import OtlpTracer
from rayapp.serve.wire import oip_messages as messages
from rayapp.serve.wire.oip_grpc import respond
from serve_apps.predict import named_releases

SCORE = f"/endpoints/{ENDPOINT}/invocations"
BODY = {"dataframe_records": [ROW]}
TRACE, CALLER, OTHER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "b" * 64
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
URL = "http://collector:4318"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(("r1", OTHER)):
        make_bundle(folder / name, seed=seed)
    return {name: folder / name for name in ("r1", OTHER)}


class Site:
    """A traced gateway, and the spans that its collector gets."""

    def __init__(
        self,
        bundles: dict[str, Path],
        share: float = 1,
        store: Feeds | None = None,
        **endpoint: Any,
    ) -> None:
        self.memory = InMemorySpanExporter()
        tracing = TracingConfig(otlp_endpoint=URL, sample_share=share)
        self.numbers = iter([0.4, 0.6])
        self.tracer = OtlpTracer(
            tracing, "test", lambda service, n: None, self.memory, lambda: next(self.numbers, 0.5)
        )
        endpoints = {ENDPOINT: EndpointConfig.model_validate(endpoint)}
        config = ServingConfig(endpoints=endpoints, tracing=tracing)
        self.case = Case(config, releases=bundles, tracer=self.tracer, feeds=store)
        self.case.pointers.update(named_releases(config))
        self.case.promote("r1")
        self.case.follower.refresh()

    async def ask(
        self, path: str = SCORE, body: Any = BODY, method: str = "POST", **headers: str
    ) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.case.client() as client:
            response = await client.request(method, path, json=body, headers=sent)
        return response.status_code

    def spans(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        self.tracer.close()
        return sorted(self.memory.get_finished_spans(), key=lambda span: span.start_time or 0)


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_requests_parts_are_children_of_its_span(bundles: dict[str, Path]) -> None:
    site = Site(bundles)
    path = f"/v2/models/{ENDPOINT}/versions/r1/infer"
    assert await site.ask(x_request_id="mine") == 200
    lacking = {"name": "flight", "shape": [1], "datatype": "INT64", "data": [1]}
    assert await site.ask(path, {"inputs": [lacking]}) == 422
    root, *parts, refused, _, model = site.spans()
    assert names([root, *parts]) == [
        "POST /endpoints/{name}/invocations",
        "read",
        f"model {ENDPOINT}",
        "record",
    ]
    assert root.parent is None
    assert {part.parent.span_id for part in parts if part.parent} == {root.context.span_id}
    assert {part.context.trace_id for part in parts} == {root.context.trace_id}
    assert [span.kind for span in (root, *parts)] == [SpanKind.SERVER] + [SpanKind.INTERNAL] * 3
    assert facts(root) == {
        "http.request.method": "POST",
        "http.route": "/endpoints/{name}/invocations",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": SCORE,
        "rayapp.request_id": "mine",
        "rayapp.endpoint": ENDPOINT,
        "rayapp.release": "r1",
        "rayapp.rows": 1,
    }
    told = {"rayapp.endpoint": ENDPOINT, "rayapp.release": "r1", "rayapp.rows": 1}
    assert facts(parts[1]) == told
    assert root.resource.attributes["service.name"] == "test"
    # a caller's mistake is no failure of ours
    assert refused.name == "POST /v2/models/{name}/versions/{version}/infer"
    assert refused.status.status_code is StatusCode.UNSET
    assert "error.type" not in facts(refused)
    assert facts(model)["error.type"] == "missing_column"


@pytest.mark.parametrize(
    ("share", "traceparent", "is_followed"),
    [
        (0, SAMPLED, True),
        (0, f"01-{TRACE}-{CALLER}-03-later", True),
        (1, NOT_SAMPLED, False),
        (1, f"ff-{TRACE}-{CALLER}-01", True),  # not to be read: as if there were none
        (0, f"ff-{TRACE}-{CALLER}-01", False),
        (0, None, False),
        (1, None, True),
        (0.5, None, True),
    ],
)
async def test_a_callers_flag_decides_and_without_one_the_share(
    bundles: dict[str, Path], share: float, traceparent: str | None, is_followed: bool
) -> None:
    site = Site(bundles, share)
    assert await site.ask(**({"traceparent": traceparent} if traceparent else {})) == 200
    spans = site.spans()
    assert len(spans) == (4 if is_followed else 0)
    (record,) = site.case.predictions.records
    has_parent = traceparent is not None and not traceparent.startswith("ff")
    if is_followed:
        root = spans[0]
        assert record["trace_id"] == f"{root.context.trace_id:032x}"
        assert (root.parent is not None) == has_parent
    if has_parent:
        assert record["trace_id"] == TRACE
        assert all(f"{span.context.trace_id:032x}" == TRACE for span in spans)
        assert not spans or (spans[0].parent and f"{spans[0].parent.span_id:016x}" == CALLER)
    elif not is_followed:
        assert record["trace_id"] is None


async def test_the_share_is_of_requests(bundles: dict[str, Path]) -> None:
    site = Site(bundles, share=0.5)
    for _ in range(2):
        await site.ask()
    assert len(site.spans()) == 4
    assert [record["trace_id"] is None for record in site.case.predictions.records] == [False, True]


async def test_requests_at_the_same_time_keep_their_own_spans(bundles: dict[str, Path]) -> None:
    site = Site(bundles)
    await in_parallel(*(site.ask(x_request_id=str(n)) for n in range(8)))
    by_trace: dict[int, list[ReadableSpan]] = {}
    for span in site.spans():
        by_trace.setdefault(span.context.trace_id, []).append(span)
    assert [len(spans) for spans in by_trace.values()] == [4] * 8
    for record in site.case.predictions.records:
        root = by_trace[int(record["trace_id"], 16)][0]
        assert facts(root)["rayapp.request_id"] == record["request_id"]


async def test_a_failure_has_a_kind_and_tells_nothing_of_the_rows(
    bundles: dict[str, Path],
) -> None:
    site = Site(bundles)
    site.case.break_model()
    assert await site.ask() == 500
    spans = site.spans()
    root, _, model = spans
    assert (facts(root)["error.type"], facts(model)["error.type"]) == ("500", "ValueError")
    assert {s.status.status_code for s in (root, model)} == {StatusCode.ERROR}
    assert not any(span.events or span.status.description for span in spans)
    assert "of row" not in "".join(span.to_json() for span in spans)


async def test_stand_ins_are_more_models_and_the_request_says_so(
    bundles: dict[str, Path],
) -> None:
    site = Site(bundles, fallback=[{"release": OTHER}, {"scores": [0.8, 0.2]}])
    site.case.break_model()
    site.case.break_model(release_key(ENDPOINT, OTHER))
    assert await site.ask() == 200
    root, _, *models, _ = site.spans()
    assert [facts(model)["rayapp.release"] for model in models] == ["r1", OTHER, "static"]
    assert [model.status.status_code.name for model in models] == ["ERROR", "ERROR", "UNSET"]
    assert facts(root)["rayapp.degraded"] == "failed"
    assert root.status.status_code is StatusCode.UNSET


async def test_arms_and_shadows_show(bundles: dict[str, Path]) -> None:
    arms = {"new": {"release": OTHER, "share": 1}}
    site = Site(bundles, split={"salt": "s", "arms": arms}, shadow={"release": OTHER})
    assert await site.ask() == 200
    await site.case.app._drain()
    root, *parts = site.spans()
    assert facts(root)["rayapp.arm"] == "new"
    assert facts(root)["rayapp.release"] == OTHER
    assert sorted(names(parts)) == sorted(["read", *[f"model {ENDPOINT}", "record"] * 2])
    assert {record["trace_id"] for record in site.case.predictions.records} == {
        f"{root.context.trace_id:032x}"
    }


async def test_a_look_up_is_a_part_of_its_own(bundles: dict[str, Path]) -> None:
    def never_published(name: str) -> FeatureFeed | None:
        return None

    store = Feeds(("trips",), never_published, lambda table: None)
    store.refresh()
    site = Site(bundles, store=store, feeds=["trips"], fallback=[{"scores": [0.8, 0.2]}])
    lacking = {k: v for k, v in ROW.items() if k != "temp"}
    assert await site.ask(body={"dataframe_records": [lacking]}) == 200
    root, _, features, model, _ = site.spans()
    assert (features.name, facts(features)["error.type"]) == ("features", "StaleFeature")
    assert facts(model)["rayapp.release"] == "static"
    assert facts(root)["rayapp.degraded"] == "stale:temp"


async def test_paths_that_nobody_serves_make_no_names(bundles: dict[str, Path]) -> None:
    site = Site(bundles)
    await site.ask("/v2/models/x/nothing/" + "y" * 999, method="GET")
    await site.ask("/elsewhere", method="MADEUP")
    await site.ask("/health", method="GET")  # probes are not followed
    first, second = site.spans()
    assert names([first, second]) == ["GET", "HTTP"]
    assert "http.route" not in facts(first)
    assert len(facts(first)["url.path"]) == otlp.MAX_TEXT_CHARS
    assert facts(second)["http.request.method"] == "_OTHER"
    assert facts(second)["http.request.method_original"] == "MADEUP"


async def test_a_caller_that_goes_away_is_no_failure(bundles: dict[str, Path]) -> None:
    site = Site(bundles)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nobody listens")

    scope = {"type": "http", "method": "POST", "path": SCORE, "headers": []}
    await site.case.app(scope, receive, send)
    spans = site.spans()
    assert [facts(span)["error.type"] for span in spans] == ["client_gone"] * 2
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}


class GrpcCall:
    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("traceparent", SAMPLED)]

    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None: ...


async def test_a_grpc_calls_metadata_say_which_trace_it_is_in(bundles: dict[str, Path]) -> None:
    site = Site(bundles, share=0)
    asked = messages.ModelInferRequest(model_name=ENDPOINT)
    await respond(site.case.app, "ModelInfer", asked, GrpcCall())
    root = site.spans()[0]
    assert f"{root.context.trace_id:032x}" == TRACE
    assert root.name == "POST /v2/models/{name}/infer"
