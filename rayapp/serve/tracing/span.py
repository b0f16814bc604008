"""The span of the work that is going on, for those who do a part of it.

A request that is not sampled has none, and nobody here knows who makes them (otlp.py does): where
nothing is traced, all that is left of this is one look at a context variable.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rayapp.errors import RequestError
from rayapp.serve.endpoints.base import is_callers_fault
from rayapp.serve.wire.http import ClientGone

ERROR_TYPE = "error.type"
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_VERSION_0_BYTES = 55
"""Only a later version's header may be longer."""
Fact = str | int | float


class Span(Protocol):
    """One piece of work in a trace, from when it is made until `end`."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        ...

    @property
    def traceparent(self) -> str:
        """By which work in another process becomes a part of this (W3C Trace Context)."""
        ...

    def child(self, name: str, is_call: bool) -> "Span":
        """A part of this work. is_call: another process does it."""
        ...

    def rename(self, name: str) -> None: ...
    def note(self, facts: Mapping[str, Fact]) -> None: ...
    def fail(self, error_type: str) -> None: ...
    def end(self) -> None: ...


class Tracer(Protocol):
    """Implemented by otlp.OtlpTracer."""

    def begin(self, name: str, headers: Mapping[bytes, bytes]) -> Span | None:
        """What is done for a caller with these headers; None where it is not sampled."""
        ...

    def close(self) -> None:
        """Send what is still here, or give it up. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Parent:
    """What the caller says of the trace that it is in."""

    trace_id: str
    span_id: str
    is_sampled: bool


def parent_of(headers: Mapping[bytes, bytes]) -> Parent | None:
    """By the header `traceparent` (W3C Trace Context); None where there is none, or one that the
    specification says to leave aside."""
    given = headers.get(b"traceparent")
    if given is None or (given.startswith(b"00") and len(given) != _VERSION_0_BYTES):
        return None
    found = _TRACEPARENT.fullmatch(given)
    if found is None:
        return None
    return Parent(found[1].decode(), found[2].decode(), bool(int(found[3], 16) & 1))


CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)
"""Tasks and threads that are begun meanwhile have it too."""


class _Nothing:
    """A context that does nothing, and can be used by everybody at once."""

    def __enter__(self) -> None: ...
    def __exit__(self, *raised: object) -> None: ...


NOTHING = _Nothing()


class Going:
    """A context: `span` is the work that is going on in its block, and ends with it."""

    __slots__ = ("_before", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._before: Token[Span | None] | None = None

    def __enter__(self) -> Span:
        self._before = CURRENT.set(self._span)
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            CURRENT.reset(self._before)
        if error is not None:
            blame(self._span, error)
        self._span.end()


def step(name: str, is_call: bool = False) -> AbstractContextManager[Span | None]:
    """A context whose block is a part of the work that is going on; its span, where there is one.
    is_call: another process does it."""
    span = CURRENT.get()
    return NOTHING if span is None else Going(span.child(name, is_call))


def blame(span: Span, error: BaseException) -> None:
    """Of an error a span has the kind and never the text, in which a caller's values may be. What
    was given up has not failed: for a deadline, or since somebody else answered first, or the
    caller went away. Nor has what the caller can mend."""
    if isinstance(error, asyncio.CancelledError):
        span.note({ERROR_TYPE: "cancelled"})
    elif isinstance(error, ClientGone):
        span.note({ERROR_TYPE: "client_gone"})
    elif is_callers_fault(error):
        kind = error.kind if isinstance(error, RequestError) else type(error).__name__
        span.note({ERROR_TYPE: kind})
    else:
        span.fail(type(error).__name__)


class Together:
    """A context: its block is work for several callers, each in a trace of its own. outcomes: what
    each of them gets, to be told in the block. traces: their traceparents; facts: about each."""

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        traces: Sequence[str | None],
        facts: Sequence[Mapping[str, Fact]],
    ) -> None:
        self.outcomes: Sequence[object] = [None] * len(traces)
        self._spans = [
            None if trace is None else tracer.begin(name, {b"traceparent": trace.encode()})
            for trace in traces
        ]
        for span, known in zip(self._spans, facts, strict=True):
            if span is not None:
                span.note(known)

    def __enter__(self) -> "Together":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for span, outcome in zip(self._spans, self.outcomes, strict=True):
            if span is None:
                continue
            found = error or outcome
            if isinstance(found, BaseException):
                blame(span, found)
            span.end()
