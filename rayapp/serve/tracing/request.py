"""The span of a whole request, by OpenTelemetry's conventions for HTTP servers."""

from contextlib import AbstractContextManager
from types import TracebackType

from rayapp.serve.call import Answer, Call
from rayapp.serve.tracing.span import NOTHING, Fact, Going, Span, Tracer

_METHODS = frozenset(
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"]
)
UNKNOWN = "HTTP"
"""What is done is called so where the method is one that a caller made up."""


def followed(tracer: Tracer, call: Call) -> AbstractContextManager[object]:
    """A context: its block is what is done for the call."""
    span = tracer.begin(UNKNOWN, call.request.headers)
    if span is None:
        return NOTHING
    call.span = span
    return _Followed(span, call)


class _Followed(Going):
    """Most that there is to say is known only at the end."""

    __slots__ = ("_call",)

    def __init__(self, span: Span, call: Call) -> None:
        super().__init__(span)
        self._call = call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        call = self._call
        method = call.request.method if call.request.method in _METHODS else UNKNOWN
        self._span.rename(method if call.route is None else f"{method} {call.route}")
        self._span.note(_facts(call))
        super().__exit__(kind, error, traceback)


def _facts(call: Call) -> dict[str, Fact]:
    ask, method = call.ask, call.request.method
    is_known = method in _METHODS
    found = {
        "http.request.method": method if is_known else "_OTHER",
        "http.request.method_original": None if is_known else method,
        "url.scheme": "http",  # that is what a replica speaks, whatever stands before it
        "url.path": call.request.path,
        "http.route": call.route,
        "rayapp.request_id": call.request_id,
        "rayapp.tenant": call.tenant,
        "rayapp.rows": None if ask is None else ask.parsed.num_rows,
        "rayapp.arm": ask.assignment.arm if ask is not None and ask.assignment else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def note_answer(span: Span, answer: Answer, endpoint: str | None, release_id: str | None) -> None:
    """endpoint and release_id: who answered or would have, where that can be said."""
    status = answer.response.status
    found = {
        "http.response.status_code": status,
        "rayapp.endpoint": endpoint,
        "rayapp.release": release_id,
        "rayapp.degraded": answer.degraded,
    }
    span.note({name: value for name, value in found.items() if value is not None})
    if status >= 500:  # less is the caller's to mend
        span.fail(str(status))
