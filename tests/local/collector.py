"""A collector of OpenTelemetry: takes spans by OTLP over HTTP, as protobuf, and keeps them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Taken(NamedTuple):
    """One span, and the service that sent it."""

    service: str
    span: Any

    @property
    def facts(self) -> dict[str, Any]:
        return {
            fact.key: getattr(fact.value, fact.value.WhichOneof("value"))
            for fact in self.span.attributes
        }


class Collector(ThreadingHTTPServer):
    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.taken: list[Taken] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of_trace(self, trace_id: str) -> list[Taken]:
        return [taken for taken in self.taken if taken.span.trace_id.hex() == trace_id]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        is_ours = self.path == "/v1/traces"
        if is_ours:
            for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {fact.key: fact.value for fact in of_service.resource.attributes}
                service = named["service.name"].string_value
                spans = [span for scope in of_service.scope_spans for span in scope.spans]
                self.server.taken += [Taken(service, span) for span in spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200 if is_ours else 404)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def collector(port: int = 0) -> Iterator[Collector]:
    """port: 0 for any that is free."""
    made = Collector(port)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
