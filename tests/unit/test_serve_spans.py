"""Spans beyond one process: pools, and a collector that may be away."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pydantic import ValidationError
from serving_case import ROW, until

from rayapp.config.tracing import TracingConfig
from rayapp.errors import Unavailable
from rayapp.serve.endpoints.again import Budget, Hedge, Retry
from rayapp.serve.endpoints.base import Ask, Reply
from rayapp.serve.endpoints.traced import Traced
from rayapp.serve.pool.scorer import Outcome, Part, PoolScorer, Traces
from rayapp.serve.tracing import otlp
from rayapp.serve.tracing.otlp import OtlpTracer
from rayapp.serve.tracing.span import Going, Together
from rayapp.serve.wire.protocols import Parsed

CALLER = "b7ad6b7169203331"
URL = "http://collector:4318"


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Steps:
    """An endpoint that goes through its steps: seconds until the answer, or an error."""

    def __init__(self, *steps: float | Exception) -> None:
        self._steps = iter(steps)

    async def predict(self, ask: Ask) -> Reply:
        step = next(self._steps)
        if isinstance(step, Exception):
            raise step
        await asyncio.sleep(step)
        return Reply("r", None, None, np.zeros((1, 1)))  # type: ignore[arg-type]


def made_tracer(share: float = 1) -> tuple[OtlpTracer, InMemorySpanExporter]:
    memory = InMemorySpanExporter()
    config = TracingConfig(otlp_endpoint=URL, sample_share=share)
    return OtlpTracer(config, "test", lambda service, n: None, memory), memory


async def test_second_asks_are_spans_beside_the_first() -> None:
    tracer, memory = made_tracer()
    ask = Ask("id", b"", Parsed([ROW], 1))
    retried = Traced(Steps(Unavailable("gone", "wait"), 0), "e", lambda: "r", is_call=True)
    hedged = Traced(Steps(9, 0), "e", lambda: "r", is_call=True)
    root = tracer.begin("root", {})
    assert root is not None
    with Going(root):
        await Retry(retried, Budget(1)).predict(ask)
        await Hedge(hedged, 0.001, Budget(1)).predict(ask)
    for _ in range(3):  # until the one that was given up knows
        await asyncio.sleep(0)
    tracer.close()
    models = [s for s in memory.get_finished_spans() if s.name == "model e"]
    assert {span.kind for span in models} == {SpanKind.CLIENT}
    kinds = sorted((s.status.status_code.name, facts(s).get("error.type", "")) for s in models)
    assert kinds == [("ERROR", "Unavailable"), ("UNSET", ""), ("UNSET", ""), ("UNSET", "cancelled")]


async def test_a_call_of_several_requests_carries_the_trace_of_each() -> None:
    tracer, memory = made_tracer(share=0)
    asked: list[Traces] = []

    async def call(parts: Sequence[Part], traces: Traces) -> list[Outcome]:
        asked.append(traces)
        if traces:  # as a pool's replica does
            with Together(tracer, "score", traces, [{"rayapp.rows": 1}] * len(parts)) as together:
                found: list[Outcome] = [ValueError("of row 733"), *[x for x, _ in parts[1:]]]
                together.outcomes = found
                return found
        return [x_NF for x_NF, _ in parts]

    scorer = PoolScorer(call, max_rows=100, max_calls=1)

    async def predict(header: str | None) -> Any:
        span = tracer.begin("call", {b"traceparent": header.encode()} if header else {})
        if span is None:
            return await scorer.predict(np.zeros((1, 1), np.float32))
        with Going(span):
            return await scorer.predict(np.zeros((1, 1), np.float32))

    headers = [f"00-{n:032x}-{CALLER}-01" for n in (1, 2)]
    await asyncio.gather(*(predict(h) for h in (*headers, None)), return_exceptions=True)
    await predict(None)
    tracer.close()
    assert [len(traces) for traces in asked] == [3, 0]
    spans = {s.context.span_id: s for s in memory.get_finished_spans()}
    scored = [s for s in spans.values() if s.name == "score"]
    assert len(scored) == 2
    for span in scored:
        assert span.parent
        assert span.kind is SpanKind.SERVER
        assert spans[span.parent.span_id].name == "call"
        assert spans[span.parent.span_id].context.trace_id == span.context.trace_id
    assert [facts(s).get("error.type") for s in scored] == ["ValueError", None]


# the collector


class Away(SpanExporter):
    def __init__(self) -> None:
        self.is_away = True
        self.num_tried = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.num_tried += 1
        return SpanExportResult.FAILURE if self.is_away else SpanExportResult.SUCCESS


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "SEND_EVERY_MS", 1)
    monkeypatch.setattr(otlp, "MAX_WAITING", 4)
    monkeypatch.setattr(otlp, "BATCH", 2)


@pytest.mark.usefixtures("quick")
async def test_what_is_not_taken_is_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rayapp.serve.tracing.otlp")
    away, dropped = Away(), list[int]()
    tracer = OtlpTracer(
        TracingConfig(otlp_endpoint=URL, sample_share=1),
        "test",
        lambda service, n: dropped.append(n),
        away,
    )

    def ended() -> None:
        span = tracer.begin("s", {})
        assert span is not None
        span.end()

    async def is_counted(number: int) -> None:
        ended()
        await until(lambda: sum(dropped) == number)

    for number in (1, 2, 3):
        await is_counted(number)
    away.is_away = False
    ended()
    await until(lambda: "spans_taken_again" in caplog.text)
    tracer.close()
    tracer.close()
    assert [record.message for record in caplog.records] == ["spans_not_taken", "spans_taken_again"]
    assert sum(dropped) == 3


@pytest.mark.usefixtures("quick")
async def test_no_more_spans_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "SEND_EVERY_MS", 60_000)
    monkeypatch.setattr(otlp, "BATCH", 4)
    away, dropped = Away(), list[int]()
    sender = otlp._Sender(away, dropped.append)
    bounded = otlp._Bounded(sender, dropped.append)
    assert [sender.take() for _ in range(5)] == [True] * 4 + [False]
    bounded.on_end(None)  # type: ignore[arg-type]
    assert dropped == [1]
    bounded.shutdown()


async def test_a_collector_that_is_away_is_not_tried_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "SEND_EVERY_MS", 3_600_000)  # nothing is sent before the end
    away = Away()
    tracer = OtlpTracer(
        TracingConfig(otlp_endpoint=URL, sample_share=1), "test", lambda service, n: None, away
    )
    for _ in range(otlp.BATCH - 1):
        span = tracer.begin("s", {})
        assert span is not None
        span.end()
    sender = tracer._sender
    sender._is_away = True
    tracer.close()
    assert away.num_tried == 0


@pytest.mark.parametrize(
    "given",
    [
        {"otlp_endpoint": "collector:4317"},
        {"otlp_endpoint": "http://key:secret@collector"},
        {"otlp_endpoint": URL, "sample_share": 1.1},
        {},
    ],
)
def test_a_config_that_cannot_work_is_refused(given: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TracingConfig.model_validate(given)
