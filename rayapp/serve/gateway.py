"""The endpoints as one ASGI application: which path does what, and what every answer carries.

    read ─▶ parse ─▶ validate ─▶ model (shared batches) ─▶ prediction log ─▶ render ─▶ receipt

It knows neither Ray nor a store: everything it needs is passed in, so the whole of it runs in a
unit test. Each answer carries the request's id and, where one answered, the release.
"""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from rayapp.config.serving import ServingConfig
from rayapp.errors import DataError, RequestError, Unavailable
from rayapp.families.base import Floats
from rayapp.families.inputs import shown
from rayapp.serve.background import Background
from rayapp.serve.feedback import parse_feedback
from rayapp.serve.follow import LEDGER, ChampionFollower, Loaded
from rayapp.serve.http import (
    ClientGone,
    Header,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
    json_response,
    read_body,
    refusal,
    require_content_type,
    respond,
    unavailable,
)
from rayapp.serve.oip import LENGTH_HEADER, check_outputs, model_metadata, parse_oip, render_oip
from rayapp.serve.predicting import RecordSink, predict, store
from rayapp.serve.protocols import Parsed, parse_mlflow, render_mlflow

log = logging.getLogger("rayapp.serve.gateway")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
VERSION = "1"  # of this HTTP interface, as /version and /v2 tell it
_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<rest>/.*)?")
_SCORING = re.compile(r"/endpoints/(?P<name>[^/]+)(?P<rest>/.*)")


class Meter(Protocol):
    """Counts under the names of telemetry.METRICS."""

    def request(self, endpoint: str, release: str, status: int, seconds: float) -> None: ...
    def rows(self, endpoint: str, release: str, num_rows: int) -> None: ...


@dataclass(frozen=True)
class Call:
    """One request on its way. start_s is of time.perf_counter. endpoint: the one that its path
    names; version: the release that it names, if any."""

    request: Request
    request_id: str
    start_s: float
    endpoint: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Answer:
    response: Response
    loaded: Loaded | None = None
    num_rows: int = 0


Handler = Callable[[Call], Awaitable[Answer]]
Route = dict[str, Handler]


class Gateway:
    """num_ongoing: requests that are being answered now; more than the configuration's
    max_ongoing_requests are refused with 503 before anything of them is read."""

    def __init__(
        self,
        config: ServingConfig,
        follower: ChampionFollower,
        predictions: Callable[[str], RecordSink],
        feedback: RecordSink,
        meter: Meter,
        background: Background,
        now: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._follower = follower
        self._predictions = predictions
        self._feedback_sink = feedback
        self._meter = meter
        self._background = background
        self._now = now
        self.num_ongoing = 0
        self._fixed: dict[str, Route] = {
            "/": {"GET": self._index},
            "/ping": {"GET": self._ready},
            "/health": {"GET": self._ready},
            "/version": {"GET": self._version},
            "/v2": {"GET": self._server},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
            "/invocations": {"POST": self._mlflow},
            "/feedback": {"POST": self._feedback},
        }
        self._of_model: dict[str, Route] = {
            "": {"GET": self._metadata},
            "/ready": {"GET": self._model_ready},
            "/infer": {"POST": self._oip},
        }
        self._of_endpoint: dict[str, Route] = {"/invocations": {"POST": self._mlflow}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.run(scope, receive, send, sends_request_id=True)

    async def run(self, scope: Scope, receive: Receive, send: Send, sends_request_id: bool) -> None:
        """As an ASGI application. sends_request_id: False where the server around it sends the
        x-request-id header itself."""
        if scope["type"] == "lifespan":
            await self._background.lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request.of(scope, receive)
        given = request.headers.get(b"x-request-id")
        is_valid = given is not None and REQUEST_ID.fullmatch(given) is not None
        request_id = given.decode() if given is not None and is_valid else uuid.uuid4().hex
        call = Call(request, request_id, time.perf_counter())
        self.num_ongoing += 1
        try:
            if given is not None and not is_valid:
                raise RequestError(
                    "x-request-id must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
                    "send another id, or none to be given one",
                    400,
                    "bad_request_id",
                    "x-request-id",
                )
            if self.num_ongoing > self._config.max_ongoing_requests:
                raise Unavailable(
                    f"this replica answers {self._config.max_ongoing_requests} requests already",
                    "try again after the seconds in retry-after",
                )
            answer = await self._answer(call)
        except ClientGone:
            log.info("client_gone", extra={"request_id": request_id})
            return
        except Exception as error:  # noqa: BLE001 - sorted by kind in _failure
            answer = Answer(_failure(error, request_id))
        finally:
            self.num_ongoing -= 1
        await self._finish(send, call, answer, sends_request_id)

    async def _finish(self, send: Send, call: Call, answer: Answer, sends_request_id: bool) -> None:
        loaded = answer.loaded or self._named(call.request.path)
        headers: list[Header] = []
        if loaded is not None:
            headers.append((b"x-release", loaded.release_id.encode()))
        if sends_request_id:
            headers.append((b"x-request-id", call.request_id.encode()))
        await respond(send, answer.response, headers)
        endpoint, release = ("none", "none")
        if loaded is not None:
            endpoint, release = loaded.endpoint, loaded.release_id
        taken_s = time.perf_counter() - call.start_s
        self._meter.request(endpoint, release, answer.response.status, taken_s)
        if answer.num_rows:
            self._meter.rows(endpoint, release, answer.num_rows)

    def _named(self, path: str) -> Loaded | None:
        """The release that would have answered: of the endpoint in the path, else of the only
        one."""
        found = _MODEL.fullmatch(path) or _SCORING.fullmatch(path)
        current = self._follower.current
        if found is not None:
            return current.get(found["name"])
        return next(iter(current.values())) if len(current) == 1 else None

    async def _answer(self, call: Call) -> Answer:
        path, method = call.request.path, call.request.method
        route, call = self._route(call)
        handler = route.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(route)
            what = f"{method} is not possible on {path}, only {allowed}"
            headers = ((b"allow", allowed.encode()),)
            return Answer(
                error_response(405, "method_not_allowed", what, f"use {allowed}", None, headers)
            )
        return await handler(call)

    def _route(self, call: Call) -> tuple[Route, Call]:
        """Raises RequestError 404."""
        path = call.request.path
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, call
        for pattern, routes in ((_MODEL, self._of_model), (_SCORING, self._of_endpoint)):
            found = pattern.fullmatch(path)
            route = routes.get(found["rest"] or "") if found else None
            if found and route is not None:
                version = found.groupdict().get("version")
                return route, Call(
                    call.request, call.request_id, call.start_s, found["name"], version
                )
        paths = "GET / lists the paths"
        raise RequestError(f"there is nothing at {shown(path)}", paths, 404, "unknown_path")

    def _loaded(self, call: Call) -> Loaded:
        """The release that answers this call. Raises RequestError 404, or Unavailable."""
        current = self._follower.current
        known = self._known()
        name = call.endpoint
        if name is None:
            if len(known) > 1:
                raise RequestError(
                    f"this server answers for {len(known)} endpoints",
                    f"name one: /endpoints/NAME/invocations of {known}",
                    404,
                    "unknown_endpoint",
                )
            name = known[0] if known else ""
        loaded = current.get(name)
        if loaded is None:
            if known and name not in known:
                raise RequestError(
                    f"there is no endpoint {shown(name)}",
                    f"endpoints are {known}",
                    404,
                    "unknown_endpoint",
                    name,
                )
            problems = self._follower.problems
            reason = problems.get(name) or problems.get(LEDGER) or "none was released yet"
            raise Unavailable(
                f"endpoint {name!r} has no release to answer with: {reason}",
                "release one: python -m jobs.release …; this server then answers by itself",
            )
        if call.version is not None and call.version != loaded.release_id:
            raise RequestError(
                f"release {call.version!r} does not answer at {name!r}",
                f"the champion is {loaded.release_id}",
                404,
                "unknown_version",
                call.version,
            )
        return loaded

    def _known(self) -> list[str]:
        return sorted(self._follower.endpoints | set(self._config.endpoints))

    # predictions

    async def _oip(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json", b"application/octet-stream"))
        length = call.request.headers.get(LENGTH_HEADER)
        loaded = self._loaded(call)

        def parse(body: bytes) -> Parsed:
            parsed = parse_oip(body, length, self._config.max_rows)
            check_outputs(parsed, loaded.schema)
            return parsed

        parsed, scores_NK = await self._predict(call, loaded, parse)
        body, json_length = render_oip(
            loaded.endpoint,
            parsed,
            scores_NK,
            loaded.schema,
            loaded.release_id,
            call.request_id,
        )
        response = Response(200, body)
        if json_length is not None:
            headers = ((LENGTH_HEADER, str(json_length).encode()),)
            response = Response(200, body, b"application/octet-stream", headers)
        return Answer(response, loaded, parsed.num_rows)

    async def _mlflow(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json",))
        loaded = self._loaded(call)
        parse = partial(parse_mlflow, max_rows=self._config.max_rows)
        parsed, scores_NK = await self._predict(call, loaded, parse)
        response = Response(200, render_mlflow(scores_NK, loaded.schema))
        return Answer(response, loaded, parsed.num_rows)

    async def _predict(
        self, call: Call, loaded: Loaded, parse: Callable[[bytes], Parsed]
    ) -> tuple[Parsed, Floats]:
        body = await read_body(call.request, self._config.max_body_bytes)
        sink = self._predictions(loaded.endpoint)
        return await predict(loaded, body, parse, sink, call.request_id, call.start_s, self._now)

    # everything else

    async def _feedback(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json",))
        body = await read_body(call.request, self._config.max_body_bytes)
        record = parse_feedback(body, self._now())
        known = self._known()
        store(self._feedback_sink, [record | {"endpoint": known[0] if len(known) == 1 else None}])
        return Answer(json_response(202, {"accepted": 1, "request_id": record["request_id"]}))

    async def _index(self, call: Call) -> Answer:
        prefixes = (
            ("", self._fixed),
            ("/v2/models/NAME", self._of_model),
            ("/endpoints/NAME", self._of_endpoint),
        )
        paths = [
            f"{method} {prefix}{path}"
            for prefix, routes in prefixes
            for path, route in routes.items()
            for method in route
        ]
        return Answer(json_response(200, {"service": "rayapp", **self._state(), "paths": paths}))

    async def _live(self, call: Call) -> Answer:
        return Answer(json_response(200, {"live": True}))

    async def _ready(self, call: Call) -> Answer:
        """Ready once every endpoint that it answers for has a release."""
        current = self._follower.current
        is_ready = bool(current) and all(name in current for name in self._known())
        return Answer(_readiness(is_ready, {"ready": is_ready, **self._state()}))

    async def _model_ready(self, call: Call) -> Answer:
        loaded = self._loaded(call)
        return Answer(_readiness(True, {"name": loaded.endpoint, "ready": True}), loaded)

    def _state(self) -> dict[str, Any]:
        current = self._follower.current
        releases = {n: current[n].release_id if n in current else None for n in self._known()}
        return {"endpoints": releases, "problems": dict(self._follower.problems)}

    async def _version(self, call: Call) -> Answer:
        return Answer(Response(200, VERSION.encode(), b"text/plain"))

    async def _server(self, call: Call) -> Answer:
        server = {"name": "rayapp", "version": VERSION, "extensions": ["binary_tensor_data"]}
        return Answer(json_response(200, server))

    async def _metadata(self, call: Call) -> Answer:
        loaded = self._loaded(call)
        found = model_metadata(loaded.endpoint, loaded.schema, loaded.release_id)
        return Answer(json_response(200, found), loaded)


class BehindServe:
    """The gateway inside Ray Serve's wrapper, which sends the x-request-id header itself."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.run(scope, receive, send, sends_request_id=False)


def _readiness(is_ready: bool, state: dict[str, Any]) -> Response:
    headers = () if is_ready else ((b"retry-after", b"1"),)
    return json_response(200 if is_ready else 503, state, headers)


def _failure(error: Exception, request_id: str) -> Response:
    """What the client is told: everything about its own mistake, nothing about our inside."""
    if isinstance(error, RequestError):
        return refusal(error)
    if isinstance(error, DataError):  # the rows keep the schema, yet a feature cannot be computed
        return error_response(422, "unusable_rows", error.what, error.next_step)
    if isinstance(error, Unavailable):
        return unavailable(error)
    log.error("request_failed", extra={"request_id": request_id}, exc_info=error)
    what = "the server failed on this request"
    return error_response(500, "internal", what, f"report request {request_id}")
