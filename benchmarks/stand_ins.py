"""What stands around a gateway whose own cost is measured: no meter, no wire, no limit that binds.

No model library is imported: the gateway of language models needs none.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rayapp.serve.callers.limits import Grant
from rayapp.serve.endpoints.breaker import State
from rayapp.serve.endpoints.cascade import Counts

REPEATS, CALLS = 15, 200
LIMITS = {"default": {"requests_per_s": 1000, "burst": 1000}}
TRACING = {"otlp_endpoint": "http://localhost:4318"}


class NoMeter:
    def kept_out(self, tenant: str | None, num_requests: int) -> None: ...
    def request(self, endpoint: str, release: str, status: int, seconds: float) -> None: ...
    def rows(self, endpoint: str, release: str, num_rows: int) -> None: ...
    def degraded(self, endpoint: str, reason: str) -> None: ...
    def breaker(self, endpoint: str, target: str, state: State) -> None: ...
    def cache(self, endpoint: str, is_hit: bool) -> None: ...
    def second_ask(self, endpoint: str, reason: str) -> None: ...
    def feature_read(self, endpoint: str, is_fresh: bool) -> None: ...
    def choice(self, endpoint: str, arm: str, reason: str) -> None: ...
    def cascade(self, endpoint: str, counts: Counts) -> None: ...
    def cost(self, endpoint: str, release: str, tenant: str | None, nano_usd: int) -> None: ...
    def tokens(
        self, endpoint: str, release: str, tenant: str | None, counts: Mapping[str, int]
    ) -> None: ...
    def first_token(self, endpoint: str, seconds: float) -> None: ...
    def cut(self, endpoint: str, reason: str) -> None: ...
    def flush(self) -> None: ...


class Encoded(SpanExporter):
    """A collector without a wire: spans are written as OTLP has them, and are gone."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


async def always(tenant: str, wanted: float) -> Grant:
    return Grant(wanted, 0.0)


async def lowest_us(works: Mapping[str, Callable[[], Awaitable[Any]]]) -> dict[str, float]:
    """CPU-µs of one call of each: the lowest of REPEATS means, which other load disturbs least.
    They take turns, so that a slow moment is nobody's own."""
    means: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            before_s = time.process_time()
            for _ in range(CALLS):
                await work()
            means[name].append((time.process_time() - before_s) / CALLS)
    return {name: round(min(found) * 1e6, 1) for name, found in means.items()}
