"""Spans by OpenTelemetry's SDK, sent to a collector in the background.

A collector that is slow or away costs spans, never requests: what waits is bounded, and what does
not fit or does not arrive is dropped and counted.
"""

import asyncio
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer

from rayapp.config.tracing import TracingConfig
from rayapp.serve.tracing.span import ERROR_TYPE, Fact, Parent, parent_of

log = logging.getLogger("rayapp.serve.tracing.otlp")

MAX_WAITING = 2048
"""Spans that may wait to be sent."""
BATCH = 512
SEND_EVERY_MS = 1000
SEND_S = 2.0
"""So long a batch is tried before it is dropped."""
MAX_TEXT_CHARS = 256
"""Of what a span says; callers choose their paths."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtlpTracer:
    """Made on an event loop. service: what these spans are shown under. on_dropped: told the
    service and how many of its spans were dropped, on that loop. choose: gives a number in [0, 1)
    for each request without a parent."""

    def __init__(
        self,
        config: TracingConfig,
        service: str,
        on_dropped: Callable[[str, int], object],
        exporter: SpanExporter | None = None,
        choose: Callable[[], float] = random.random,
    ) -> None:
        self._share = config.sample_share
        self._choose = choose
        loop = asyncio.get_running_loop()

        def dropped(num_spans: int) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_dropped, service, num_spans)

        self._sender = _Sender(exporter or _exporter(config), dropped)
        self._provider = TracerProvider(
            ALWAYS_ON,  # what is not sampled never comes here
            Resource.create({"service.name": service, "process.pid": os.getpid()}),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=MAX_TEXT_CHARS),
        )
        self._provider.add_span_processor(_Bounded(self._sender, dropped))
        self._tracer = self._provider.get_tracer("rayapp")

    def begin(self, name: str, headers: Mapping[bytes, bytes]) -> "OtlpSpan | None":
        parent = parent_of(headers)
        is_sampled = self._choose() < self._share if parent is None else parent.is_sampled
        if not is_sampled:
            return None
        context = Context() if parent is None else _below(parent)
        made = self._tracer.start_span(name, context, SpanKind.SERVER)
        return OtlpSpan(self._tracer, made) if made.is_recording() else None

    def close(self) -> None:
        """Send what is still here, or give it up: where a batch does not arrive, no other is
        tried."""
        if not self._sender.is_closing:
            self._sender.is_closing = True
            self._provider.shutdown()


class OtlpSpan:
    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self._span.get_span_context().span_id:016x}-01"

    def child(self, name: str, is_call: bool) -> "OtlpSpan":
        kind = SpanKind.CLIENT if is_call else SpanKind.INTERNAL
        context = set_span_in_context(self._span, Context())
        return OtlpSpan(self._tracer, self._tracer.start_span(name, context, kind))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, facts: Mapping[str, Fact]) -> None:
        self._span.set_attributes(facts)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute(ERROR_TYPE, error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()


def _below(parent: Parent) -> Context:
    ids = int(parent.trace_id, 16), int(parent.span_id, 16)
    remote = SpanContext(*ids, is_remote=True, trace_flags=_SAMPLED)
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _exporter(config: TracingConfig) -> SpanExporter:
    # It would tell of each try that failed; _Sender tells once.
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
    url = config.otlp_endpoint.rstrip("/") + "/v1/traces"
    return OTLPSpanExporter(endpoint=url, timeout=SEND_S)


class _Bounded(SpanProcessor):
    """The SDK's own queue drops what is oldest without a count of it; so it is never filled."""

    def __init__(self, sender: "_Sender", on_dropped: Callable[[int], object]) -> None:
        self._sender = sender
        self._on_dropped = on_dropped
        self._batches = BatchSpanProcessor(sender, MAX_WAITING, SEND_EVERY_MS, BATCH)

    def on_end(self, span: ReadableSpan) -> None:
        if self._sender.take():
            self._batches.on_end(span)
        else:
            self._on_dropped(1)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _Sender(SpanExporter):
    """Sends batches, one at a time; tells once that they do not arrive, and once that they do
    again."""

    def __init__(self, exporter: SpanExporter, on_dropped: Callable[[int], object]) -> None:
        self._exporter = exporter
        self._on_dropped = on_dropped
        self._counting = threading.Lock()
        self._num_waiting = 0
        self._is_away = False
        self.is_closing = False

    def take(self) -> bool:
        """Whether there is room for one more span."""
        with self._counting:
            if self._num_waiting >= MAX_WAITING:
                return False
            self._num_waiting += 1
        return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            if not (self.is_closing and self._is_away):
                result = self._exporter.export(spans)
        finally:
            with self._counting:
                self._num_waiting -= len(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away:
            self._on_dropped(len(spans))
        if is_away != self._is_away:
            self._is_away = is_away
            if is_away:
                log.warning("spans_not_taken", extra={"next": "see tracing.otlp_endpoint"})
            else:
                log.info("spans_taken_again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
