"""What every gateway does around its answers: who asks and how much is taken at a time before
anything of a body is read; afterwards the receipt that each answer carries, and what is counted.

It knows neither Ray nor a store: everything it needs is passed in, so the whole of a gateway runs
in a unit test. A gateway says which paths it has, and how its errors look.
"""

import asyncio
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

from rayapp.config.serving import GatewayConfig
from rayapp.config.tenants import weights_in
from rayapp.schemas.traffic import KEPT_OUT
from rayapp.serve.aside import aside
from rayapp.serve.background import Background
from rayapp.serve.call import Answer, Call, Meter
from rayapp.serve.callers.admission import Admission
from rayapp.serve.callers.identity import KeyRing, require_caller
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.paths import Route, Routed
from rayapp.serve.tracing.request import followed, note_answer
from rayapp.serve.tracing.span import Tracer, blame
from rayapp.serve.wire.http import (
    ClientGone,
    Header,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
    milliseconds,
    request_id_of,
    require_request_id,
    respond,
)

log = logging.getLogger("rayapp.serve.front")

VERSION = "1"
"""Of our HTTP interfaces, as they tell it."""
_KEPT_OUT = KEPT_OUT.encode()
_COUNT = re.compile(rb"[1-9][0-9]{0,8}")


class Front(ABC):
    """More requests at a time than it keeps pace with are refused with 503, before anything of
    their bodies is read."""

    open_paths: Mapping[str, Route]
    """What a health check asks needs no key, and is answered also where nothing else is."""

    def __init__(
        self,
        config: GatewayConfig,
        meter: Meter,
        background: Background,
        keys: KeyRing,
        limiter: Limiter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._requires_key = config.requires_key
        self._deadline_s = config.deadline_ms / 1000
        self._tracer = tracer
        self._keys = keys
        self._limiter = limiter
        self._meter = meter
        self._background = background
        self._admission = Admission(
            config.max_ongoing_requests, config.max_turn_ms / 1000, weights_in(config.tiers)
        )
        self._deadlines = Deadlines()

    @abstractmethod
    def _routed(self, path: str) -> Routed:
        """Raises RequestError 404."""

    @abstractmethod
    def _failed(self, error: Exception, call: Call) -> Response:
        """What the client is told of it."""

    def _shaped(self, refused: Response) -> Response:
        """An error of ours as the gateway's callers expect it."""
        return refused

    @abstractmethod
    def _blamed(self, call: Call) -> tuple[str | None, str | None]:
        """Of a request that was refused: the endpoint and the release that would have answered,
        as far as anybody can say."""

    @abstractmethod
    def _asks_a_model(self, call: Call) -> bool:
        """Whether it counts as an endpoint's request, whatever comes of it."""

    @abstractmethod
    async def _drained(self) -> None:
        """Once no request is being answered any more, and none will come."""

    async def _page(self, call: Call, render: Callable[[str], str]) -> Answer:
        """render: the name by which this server was asked → HTML."""
        host = call.request.headers.get(b"host", b"").decode("latin-1")
        page = await aside(partial(render, host), is_long=True)
        return Answer(Response(200, page.encode(), b"text/html; charset=utf-8"))

    @property
    def num_ongoing(self) -> int:
        """Requests that are being answered now."""
        return self._admission.num_ongoing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.run(scope, receive, send, sends_request_id=True)

    async def run(self, scope: Scope, receive: Receive, send: Send, sends_request_id: bool) -> None:
        """As an ASGI application. sends_request_id: False where the server around it sends the
        x-request-id header itself."""
        if scope["type"] == "lifespan":
            await self._background.lifespan(receive, send, self._drain)
            return
        if scope["type"] != "http":
            return
        request = Request.of(scope, receive)
        request_id = request_id_of(request)
        start_s = time.monotonic()
        call = Call(request, request_id, start_s, start_s + self._deadline_s)
        if self._tracer is None or request.path in self.open_paths:
            await self._serve(call, send, sends_request_id)
        else:
            with followed(self._tracer, call):
                await self._serve(call, send, sends_request_id)

    async def _serve(self, call: Call, send: Send, sends_request_id: bool) -> None:
        """An answer that grows takes its place among the ongoing ones until it is sent."""
        try:
            await self._answered(call, send, sends_request_id)
        finally:
            if call.is_admitted:
                self._admission.leave(call.tenant)

    async def _drain(self) -> None:
        await self._drained()
        self._meter.flush()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def _answered(self, call: Call, send: Send, sends_request_id: bool) -> None:
        try:
            self._admit(call)
            answer = await self._answer(call)
        except ClientGone as gone:
            log.info("client_gone", extra={"request_id": call.request_id})
            if call.span is not None:
                blame(call.span, gone)
            return
        except Exception as error:  # noqa: BLE001 - sorted by kind in `_failed`
            answer = Answer(self._failed(error, call))
        await self._finish(send, call, answer, sends_request_id)

    def _admit(self, call: Call) -> None:
        """Who asks, and for how long; before anything of the body is read. Raises RequestError, or
        Unavailable where this replica is full."""
        headers = call.request.headers
        require_request_id(call.request, call.request_id)
        credential = headers.get(b"authorization")
        if call.request.path in self.open_paths:
            call.principal = self._keys.known(credential)
        else:
            call.principal = self._keys.identify(credential)
            self._admission.enter(call.tenant)
            call.is_admitted = True
        own = headers.get(b"x-deadline-ms")
        if own is not None:
            call.deadline_s = min(call.deadline_s, call.start_s + milliseconds(own) / 1000)

    async def _finish(self, send: Send, call: Call, answer: Answer, sends_request_id: bool) -> None:
        endpoint, release_id = answer.endpoint, answer.release_id
        if release_id is None:
            endpoint, release_id = self._blamed(call)
        shown_id = release_id if self._may_look(call) else None
        if not self._asks_a_model(call):
            endpoint = release_id = None
        if call.span is not None:
            note_answer(call.span, answer, endpoint, release_id)
        await respond(send, answer.response, _receipt(call, answer, shown_id, sends_request_id))
        self._count(call, answer, endpoint or "none", release_id or "none")

    def _count(self, call: Call, answer: Answer, endpoint: str, release: str) -> None:
        taken_s = time.monotonic() - call.start_s
        self._meter.request(endpoint, release, answer.response.status, taken_s)
        kept_out = call.request.headers.get(_KEPT_OUT)
        if kept_out is not None and _COUNT.fullmatch(kept_out):
            self._meter.kept_out(call.tenant, int(kept_out))
        if answer.num_rows:
            self._meter.rows(endpoint, release, answer.num_rows)
        if answer.degraded is not None:
            self._meter.degraded(endpoint, answer.degraded)

    def _may_look(self, call: Call) -> bool:
        """Whether who asks may know which releases there are, and how they are."""
        return call.principal is not None or not self._requires_key

    async def _answer(self, call: Call) -> Answer:
        path, method = call.request.path, call.request.method
        route, call.endpoint, call.version, call.route = self._routed(path)
        handler = route.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(route)
            what = f"{method} is not possible on {path}, only {allowed}"
            headers = ((b"allow", allowed.encode()),)
            refused = error_response(
                405, "method_not_allowed", what, f"use {allowed}", None, headers
            )
            return Answer(self._shaped(refused))
        if method == "POST":
            require_caller(call.principal)
            if self._limiter is not None:
                await self._limiter.admit(call.tenant)
        return await handler(call)


def _receipt(
    call: Call, answer: Answer, release_id: str | None, sends_request_id: bool
) -> list[Header]:
    """What every answer carries. release_id: None where nobody may be told."""
    headers: list[Header] = []
    if release_id is not None:
        headers.append((b"x-release", release_id.encode()))
    if sends_request_id:
        headers.append((b"x-request-id", call.request_id.encode()))
    if answer.prompt_digest is not None and release_id is not None:
        headers.append((b"x-prompt", answer.prompt_digest.encode()))
    if answer.degraded is not None:
        headers.append((b"x-degraded", answer.degraded.encode()))
    return headers
