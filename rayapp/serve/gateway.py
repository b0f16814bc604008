"""The endpoints as one ASGI application: which path does what, and what every answer carries.

    read ─▶ parse ─▶ endpoint (endpoints/build.py) ─▶ prediction log ─▶ render ─▶ receipt

It knows neither Ray nor a store: everything it needs is passed in, so the whole of it runs in a
unit test. Each answer carries the request's id and, where one answered, the release.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from rayapp.config.serving import ServingConfig
from rayapp.schemas.traffic import SHADOW
from rayapp.serve.aside import INLINE_BYTES, aside
from rayapp.serve.background import Background
from rayapp.serve.call import Answer, Call, Meter
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.directory import Directory
from rayapp.serve.endpoints.base import Ask, Reply
from rayapp.serve.feeds import Feeds
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower, Loaded
from rayapp.serve.front import VERSION, Front
from rayapp.serve.paths import Paths, Routed, asks_a_model, name_in
from rayapp.serve.predicting import RecordSink, keep, store
from rayapp.serve.tracing.span import Tracer, step
from rayapp.serve.wire.feedback import parse_feedback
from rayapp.serve.wire.http import (
    Response,
    failed,
    json_response,
    read_body,
    readiness,
    require_content_type,
)
from rayapp.serve.wire.oip import LENGTH_HEADER, model_metadata, parse_oip, render_oip
from rayapp.serve.wire.openapi import describe
from rayapp.serve.wire.page import render_page
from rayapp.serve.wire.protocols import Parsed, parse_mlflow, render_mlflow

log = logging.getLogger("rayapp.serve.gateway")


class Gateway(Front):
    """Answers rows."""

    def __init__(
        self,
        config: ServingConfig,
        follower: ChampionFollower[Loaded],
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
        super().__init__(config, meter, background, keys, limiter, tracer)
        self._config = config
        self._predictions = predictions
        self._feedback_sink = feedback
        self._now = now
        self._directory = Directory(
            config, follower, self._deadlines, meter, self._heard, budgets, feeds, flags
        )
        self.open_paths = {
            "/ping": {"GET": self._ready},
            "/health": {"GET": self._ready},
            "/version": {"GET": self._version},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
        }
        self._paths = Paths(
            {
                "/": {"GET": self._index},
                **self.open_paths,
                "/openapi.json": {"GET": self._openapi},
                "/docs": {"GET": self._docs},
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

    def _routed(self, path: str) -> Routed:
        return self._paths.routed(path)

    def _failed(self, error: Exception, call: Call) -> Response:
        return failed(error, call.request, call.request_id)

    def _blamed(self, call: Call) -> tuple[str | None, str | None]:
        return self._directory.blamed(name_in(call.request.path))

    def _asks_a_model(self, call: Call) -> bool:
        return asks_a_model(call.request.path)

    async def _drained(self) -> None:
        await self._directory.drain()

    # predictions

    async def _oip(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json", b"application/octet-stream"))
        length = call.request.headers.get(LENGTH_HEADER)
        parse = partial(parse_oip, header_length=length, max_rows=self._config.max_rows)
        name, ask, reply = await self._predict(call, parse, b"oip" + (length or b""))
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
        name, ask, reply = await self._predict(call, parse, b"mlflow")
        response = Response(200, render_mlflow(reply.scores_NK, reply.schema))
        return _answered(name, response, ask, reply)

    async def _predict(
        self, call: Call, parse: Callable[[bytes], Parsed], protocol: bytes
    ) -> tuple[str, Ask, Reply]:
        name, endpoint = self._directory.endpoint(call.endpoint, call.version)
        with self._deadlines.within(call.deadline_s):
            with step("read"):
                body = await read_body(call.request, self._config.max_body_bytes)
                is_long = len(body) > INLINE_BYTES
                parsed = await aside(partial(parse, body), is_long)
            headers = call.request.headers
            ask = Ask(call.request_id, body, parsed, is_long, call.deadline_s, headers, call.tenant)
            ask.protocol = protocol
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
        return Answer(await aside(lambda: json_response(200, self._described()), is_long=True))

    async def _docs(self, call: Call) -> Answer:
        return await self._page(call, lambda host: render_page(self._described(), host))

    def _described(self) -> dict[str, Any]:
        """Of many endpoints it takes as long as hundreds of answers: not on the event loop."""
        config, answering = self._config, self._directory.answering()
        looked_up = self._directory.looked_up(answering)
        return describe(answering, looked_up, VERSION, config.requires_key, config.max_rows)

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


def _answered(name: str, response: Response, ask: Ask, reply: Reply) -> Answer:
    return Answer(response, name, reply.release_id, ask.parsed.num_rows, reply.degraded)
