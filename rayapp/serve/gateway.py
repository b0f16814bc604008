"""The endpoints as one ASGI application: which path does what, and what every answer carries.

    read ─▶ parse ─▶ endpoint (endpoints/build.py) ─▶ prediction log ─▶ render ─▶ receipt

It knows neither Ray nor a store: everything it needs is passed in, so the whole of it runs in a
unit test. Each answer carries the request's id and, where one answered, the release.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from rayapp.config.serving import ServingConfig
from rayapp.schemas.traffic import KEPT_OUT, SHADOW
from rayapp.serve.aside import INLINE_BYTES, aside
from rayapp.serve.background import Background
from rayapp.serve.call import Answer, Call, Meter
from rayapp.serve.callers.admission import Admission
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.identity import KeyRing, require_caller
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.directory import Directory
from rayapp.serve.endpoints.base import Ask, Reply
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.feeds import Feeds
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower
from rayapp.serve.paths import Paths, Route, name_in
from rayapp.serve.predicting import RecordSink, keep, store
from rayapp.serve.tracing.request import followed, note_answer
from rayapp.serve.tracing.span import Tracer, blame, step
from rayapp.serve.wire.feedback import parse_feedback
from rayapp.serve.wire.http import (
    ClientGone,
    Header,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
    failed,
    json_response,
    milliseconds,
    read_body,
    readiness,
    request_id_of,
    require_content_type,
    require_request_id,
    respond,
)
from rayapp.serve.wire.oip import LENGTH_HEADER, model_metadata, parse_oip, render_oip
from rayapp.serve.wire.openapi import describe
from rayapp.serve.wire.protocols import Parsed, parse_mlflow, render_mlflow

log = logging.getLogger("rayapp.serve.gateway")

VERSION = "1"  # of this HTTP interface, as /version and /v2 tell it
_KEPT_OUT = KEPT_OUT.encode()
_COUNT = re.compile(rb"[1-9][0-9]{0,8}")


class Gateway:
    """More requests at a time than it keeps pace with are refused with 503, before anything of
    their bodies is read."""

    def __init__(
        self,
        config: ServingConfig,
        follower: ChampionFollower,
        predictions: Callable[[str], RecordSink],
        feedback: RecordSink,
        meter: Meter,
        background: Background,
        now: Callable[[], datetime],
        keys: KeyRing,
        limiter: Limiter | None = None,
        budgets: Budgets | None = None,
        feeds: Feeds | None = None,
        flags: Flags | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._config = config
        self._tracer = tracer
        self._keys = keys
        self._limiter = limiter
        self._predictions = predictions
        self._feedback_sink = feedback
        self._meter = meter
        self._background = background
        self._now = now
        self._admission = Admission(config.max_ongoing_requests, config.max_turn_ms / 1000)
        self._deadlines = Deadlines()
        self._directory = Directory(
            config, follower, self._deadlines, meter, self._heard, budgets, feeds, flags
        )
        # What a health check asks needs no key, and is answered also where nothing else is.
        self._open: dict[str, Route] = {
            "/ping": {"GET": self._ready},
            "/health": {"GET": self._ready},
            "/version": {"GET": self._version},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
        }
        self._paths = Paths(
            {
                "/": {"GET": self._index},
                **self._open,
                "/openapi.json": {"GET": self._openapi},
                "/v2": {"GET": self._server},
                "/invocations": {"POST": self._mlflow},
                "/feedback": {"POST": self._feedback},
            },
            of_model={
                "": {"GET": self._metadata},
                "/ready": {"GET": self._model_ready},
                "/infer": {"POST": self._oip},
            },
            of_endpoint={"/invocations": {"POST": self._mlflow}},
        )

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
        call = Call(request, request_id, start_s, start_s + self._config.deadline_ms / 1000)
        if self._tracer is None or request.path in self._open:
            await self._serve(call, send, sends_request_id)
        else:
            with followed(self._tracer, call):
                await self._serve(call, send, sends_request_id)

    async def _drain(self) -> None:
        await self._directory.drain()
        self._meter.flush()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def _serve(self, call: Call, send: Send, sends_request_id: bool) -> None:
        try:
            self._admit(call)
            answer = await self._answer(call)
        except ClientGone as gone:
            log.info("client_gone", extra={"request_id": call.request_id})
            if call.span is not None:
                blame(call.span, gone)
            return
        except Exception as error:  # noqa: BLE001 - sorted by kind in `failed`
            answer = Answer(failed(error, call.request, call.request_id))
        finally:
            if call.is_admitted:
                self._admission.leave(call.tenant)
        await self._finish(send, call, answer, sends_request_id)

    def _admit(self, call: Call) -> None:
        """Who asks, and for how long; before anything of the body is read. Raises RequestError, or
        Unavailable where this replica is full."""
        headers = call.request.headers
        require_request_id(call.request, call.request_id)
        credential = headers.get(b"authorization")
        if call.request.path in self._open:
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
            endpoint, release_id = self._directory.blamed(name_in(call.request.path))
        if call.span is not None:
            note_answer(call.span, answer, endpoint, release_id)
        shown_id = release_id if self._may_look(call) else None
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
        return call.principal is not None or not self._config.requires_key

    async def _answer(self, call: Call) -> Answer:
        path, method = call.request.path, call.request.method
        route, call.endpoint, call.version, call.route = self._paths.routed(path)
        handler = route.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(route)
            what = f"{method} is not possible on {path}, only {allowed}"
            headers = ((b"allow", allowed.encode()),)
            return Answer(
                error_response(405, "method_not_allowed", what, f"use {allowed}", None, headers)
            )
        if method == "POST":
            require_caller(call.principal)
            if self._limiter is not None:
                await self._limiter.admit(call.tenant)
        return await handler(call)

    # predictions

    async def _oip(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json", b"application/octet-stream"))
        length = call.request.headers.get(LENGTH_HEADER)
        parse = partial(parse_oip, header_length=length, max_rows=self._config.max_rows)
        name, ask, reply = await self._predict(call, parse)
        body, json_length = render_oip(
            name,
            ask.parsed,
            reply.scores_NK,
            reply.schema,
            reply.release_id,
            call.request_id,
        )
        response = Response(200, body)
        if json_length is not None:
            headers = ((LENGTH_HEADER, str(json_length).encode()),)
            response = Response(200, body, b"application/octet-stream", headers)
        return _answered(name, response, ask, reply)

    async def _mlflow(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json",))
        parse = partial(parse_mlflow, max_rows=self._config.max_rows)
        name, ask, reply = await self._predict(call, parse)
        response = Response(200, render_mlflow(reply.scores_NK, reply.schema))
        return _answered(name, response, ask, reply)

    async def _predict(
        self, call: Call, parse: Callable[[bytes], Parsed]
    ) -> tuple[str, Ask, Reply]:
        name, endpoint = self._directory.endpoint(call.endpoint, call.version)
        with self._deadlines.within(call.deadline_s):
            with step("read"):
                body = await read_body(call.request, self._config.max_body_bytes)
                is_long = len(body) > INLINE_BYTES
                parsed = await aside(partial(parse, body), is_long)
            headers = call.request.headers
            ask = Ask(call.request_id, body, parsed, is_long, call.deadline_s, headers, call.tenant)
            call.ask = ask
            reply = await endpoint.predict(ask)
        # from here on there is an answer: what is recorded is also sent
        latency_ms = (time.monotonic() - call.start_s) * 1000
        await self._recorded(name, ask, reply, latency_ms)
        return name, ask, reply

    async def _recorded(self, name: str, ask: Ask, reply: Reply, latency_ms: float) -> None:
        sink, at = self._predictions(name), self._now()
        with step("record"):
            costs = await aside(partial(keep, sink, name, ask, reply, at, latency_ms), ask.is_long)
        for release_id, cost in costs.items():
            self._meter.cost(name, release_id, ask.tenant, cost)

    async def _heard(self, name: str, ask: Ask, reply: Reply, latency_ms: float) -> None:
        """A shadow's answers lie beside those that somebody got, under a name of their own."""
        await self._recorded(name + SHADOW, ask, reply, latency_ms)

    # everything else

    async def _feedback(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json",))
        with self._deadlines.within(call.deadline_s):
            body = await read_body(call.request, self._config.max_body_bytes)
        known, at = self._directory.names(), self._now()
        common = {"endpoint": known[0] if len(known) == 1 else None, "tenant": call.tenant}

        def kept() -> str:
            record = parse_feedback(body, at)
            store(self._feedback_sink, [record | common])
            return str(record["request_id"])

        request_id = await aside(kept, len(body) > INLINE_BYTES)
        return Answer(json_response(202, {"accepted": 1, "request_id": request_id}))

    async def _index(self, call: Call) -> Answer:
        return Answer(
            json_response(200, {"service": "rayapp", **self._state(), "paths": list(self._paths)})
        )

    async def _openapi(self, call: Call) -> Answer:
        config, directory = self._config, self._directory
        asked = VERSION, config.requires_key, config.max_rows
        found = describe(directory.schemas(), directory.looked_up(), *asked)
        return Answer(json_response(200, found))

    async def _live(self, call: Call) -> Answer:
        return Answer(json_response(200, {"live": True}))

    async def _ready(self, call: Call) -> Answer:
        """Ready once every endpoint that it answers for has its champion and its arms."""
        is_ready = self._directory.is_ready()
        state = self._state() if self._may_look(call) else {}
        return Answer(readiness(is_ready, {"ready": is_ready, **state}))

    async def _model_ready(self, call: Call) -> Answer:
        loaded = self._directory.loaded(call.endpoint, call.version)
        ready = readiness(True, {"name": loaded.endpoint, "ready": True})
        return Answer(ready, loaded.endpoint, loaded.release_id)

    def _state(self) -> dict[str, Any]:
        directory = self._directory
        return {"endpoints": directory.releases(), "problems": directory.problems()}

    async def _version(self, call: Call) -> Answer:
        return Answer(Response(200, VERSION.encode(), b"text/plain"))

    async def _server(self, call: Call) -> Answer:
        server = {"name": "rayapp", "version": VERSION, "extensions": ["binary_tensor_data"]}
        return Answer(json_response(200, server))

    async def _metadata(self, call: Call) -> Answer:
        loaded = self._directory.loaded(call.endpoint, call.version)
        versions = [loaded.release_id]
        if call.version is None:
            versions = self._directory.versions(loaded.endpoint)
        found = model_metadata(loaded.endpoint, loaded.schema, versions)
        return Answer(json_response(200, found), loaded.endpoint, loaded.release_id)


def _receipt(
    call: Call, answer: Answer, release_id: str | None, sends_request_id: bool
) -> list[Header]:
    """What every answer carries. release_id: None where nobody may be told."""
    headers: list[Header] = []
    if release_id is not None:
        headers.append((b"x-release", release_id.encode()))
    if sends_request_id:
        headers.append((b"x-request-id", call.request_id.encode()))
    if answer.degraded is not None:
        headers.append((b"x-degraded", answer.degraded.encode()))
    return headers


def _answered(name: str, response: Response, ask: Ask, reply: Reply) -> Answer:
    return Answer(response, name, reply.release_id, ask.parsed.num_rows, reply.degraded)
