"""Language models as one ASGI application, by OpenAI's HTTP interface.

    read ─▶ parse ─▶ count tokens ─▶ rate, reserve ─▶ endpoint ─▶ engine's answer ─▶ caller
                                            ▲                          │ part by part
                                            └─── prompt log, settle ◀──┘

It knows neither Ray nor a model: engines are LlmClients, and what counts tokens is passed in.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from rayapp.config.language import LanguageConfig
from rayapp.errors import RequestError
from rayapp.families.inputs import shown
from rayapp.schemas.record import short
from rayapp.serve.aside import INLINE_BYTES, aside
from rayapp.serve.background import Background
from rayapp.serve.call import Answer, Call, Meter
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.callers.token_limits import TokenLimiter
from rayapp.serve.follow import ChampionFollower
from rayapp.serve.front import Front
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextAsk
from rayapp.serve.language.charges import NOBODY, Payers
from rayapp.serve.language.directory import NO_ADAPTERS, Engine, Models, Served
from rayapp.serve.language.flow import Flow
from rayapp.serve.language.log import AnswerLog, prompt_text
from rayapp.serve.language.presence import Presence
from rayapp.serve.language.relay import Relay
from rayapp.serve.language.tab import Tab
from rayapp.serve.paths import Handler, Routed
from rayapp.serve.predicting import RecordSink
from rayapp.serve.tracing.span import Tracer, step
from rayapp.serve.wire.http import (
    Response,
    Streamed,
    failed,
    json_response,
    read_body,
    require_content_type,
)
from rayapp.serve.wire.openai import (
    KINDS,
    MODELS,
    Asked,
    error_response,
    model_entry,
    model_list,
    parse,
)
from rayapp.serve.wire.sse import CONTENT_TYPE

ROOT = "/v1"
"""Where OpenAI's interface is. Behind Ray Serve's own wrapper the prefix of the application is gone
from paths."""


class LanguageGateway(Front):
    """engines: by name. prompts: where the answers of a model are recorded. follower: of the
    champions that are adapters; None where no engine takes any. token_limiter: None where nobody's
    tokens are limited."""

    def __init__(
        self,
        config: LanguageConfig,
        engines: Mapping[str, Engine],
        prompts: Callable[[str], RecordSink],
        meter: Meter,
        background: Background,
        now: Callable[[], datetime],
        keys: KeyRing,
        limiter: Limiter | None = None,
        payers: Payers = NOBODY,
        tracer: Tracer | None = None,
        follower: ChampionFollower[Adapted] | None = None,
        token_limiter: TokenLimiter | None = None,
    ) -> None:
        super().__init__(config, meter, background, keys, limiter, tracer)
        self._config = config
        self._prompts = prompts
        self._now = now
        self._payers = payers
        self._token_limiter = token_limiter
        self._follower = follower
        self._models = Models(config, engines, self._deadlines, meter, self._adapted)
        self._created_s = int(now().timestamp())
        ready = {"GET": self._ready}
        self.open_paths = {f"{ROOT}/ping": ready, "/ping": ready}
        self._routes: dict[str, Mapping[str, Handler]] = {
            f"{ROOT}/ping": ready,
            MODELS: {"GET": self._list},
            **{path: {"POST": self._ask} for path in KINDS},
        }

    def _adapted(self) -> Mapping[str, Adapted]:
        return NO_ADAPTERS if self._follower is None else self._follower.current

    def _routed(self, path: str) -> Routed:
        if not path.startswith(ROOT):
            path = ROOT + path
        route = self._routes.get(path)
        if route is not None:
            return Routed(route, None, None, path)
        name = path.removeprefix(f"{MODELS}/")
        if name != path:
            return Routed({"GET": self._entry}, name, None, f"{MODELS}/{{name}}")
        raise RequestError(
            f"there is nothing at {shown(path)}",
            f"paths are {', '.join(self._routes)}",
            404,
            "unknown_path",
        )

    def _failed(self, error: Exception, call: Call) -> Response:
        return self._shaped(failed(error, call.request, call.request_id))

    def _shaped(self, refused: Response) -> Response:
        return error_response(refused)

    def _blamed(self, call: Call) -> tuple[str | None, str | None]:
        if call.endpoint not in self._models.names():  # callers send what they like
            return None, None
        return call.endpoint, self._models.find(call.endpoint).release_id

    async def _drained(self) -> None:
        await self._payers.drain()

    async def _ready(self, call: Call) -> Answer:
        """A model that lacks its adapter keeps no other from being asked."""
        state: dict[str, Any] = {}
        if self._may_look(call) and self._follower is not None:
            state = {"models": self._models.names(), "problems": dict(self._follower.problems)}
        return Answer(json_response(200, {"ready": True, **state}))

    async def _list(self, call: Call) -> Answer:
        return Answer(json_response(200, model_list(self._models.names(), self._created_s)))

    async def _entry(self, call: Call) -> Answer:
        served = self._models.find(call.endpoint or "")
        told = model_entry(served.name, self._created_s)
        if served.adapted is not None and self._may_look(call):
            chat = served.adapted.language.chat
            told |= {"prompt": {"name": chat.name, "system": chat.system, "user": chat.user}}
        return Answer(json_response(200, told), served.name, served.release_id)

    async def _ask(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json",))
        with self._deadlines.within(call.deadline_s):
            with step("read"):
                body = await read_body(call.request, self._config.max_body_bytes)
                is_long = len(body) > INLINE_BYTES
                path = call.route or ""
                asked = await aside(partial(parse, path, body, self._config.max_choices), is_long)
                served = self._models.find(asked.model)
                call.endpoint = served.name
                served.require_task(asked)
                asked = served.prepared(asked)
                counting = partial(served.engine.count, asked.fields)
                counts = await aside(counting, is_long)
            max_tokens = served.room(asked, max(counts, default=0))
            keeping = partial(prompt_text, asked.fields, self._config.redacts)
            written = self._log(call, await aside(keeping, is_long), served)
            tab = self._tab(call, asked, served, written, max_tokens)
            await tab.begin(sum(counts))
            ask = TextAsk(
                call.request_id,
                path,
                asked,
                max_tokens,
                call.deadline_s,
                call.tenant,
                call.request.headers,
            )
            try:
                async with Presence(call.request.receive):
                    with step(f"model {served.name}", is_call=True):
                        reply = await served.endpoint.predict(ask)
            except BaseException:
                tab.drop()
                raise
            written.release_id, written.degraded = reply.release_id, reply.degraded
            relay = Relay(asked, served.name, f"fp_{short(reply.release_id)}")
            flow = Flow(call, reply, relay, tab, written, self._deadlines, self._meter)
            response: Response | Streamed
            if asked.is_stream:
                response = Streamed(flow.stream, CONTENT_TYPE)
            else:
                response = await flow.whole()
        return Answer(response, served.name, reply.release_id, degraded=reply.degraded)

    def _log(self, call: Call, prompt: str, served: Served) -> AnswerLog:
        sink = self._prompts(served.name)
        return AnswerLog(sink, call, prompt, served.name, self._config.redacts, self._now)

    def _tab(
        self, call: Call, asked: Asked, served: Served, written: AnswerLog, max_tokens: int
    ) -> Tab:
        """What is not streamed is one part: all of it is reserved, as nothing of it can be given
        for less."""
        most = max_tokens * asked.num_answers
        tokens = self._config.record_every_tokens * asked.num_answers if asked.is_stream else most
        paying = self._payers, call.tenant, served.prices
        return Tab(*paying, tokens, most, written.record, self._token_limiter)
