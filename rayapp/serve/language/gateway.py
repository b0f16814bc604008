"""Language models as one ASGI application, by OpenAI's HTTP interface.

    read ─▶ parse ─▶ count tokens ─▶ rate, reserve ─▶ endpoint ─▶ engine's answer ─▶ caller
                                            ▲                          │ part by part
                                            └─── prompt log, settle ◀──┘

It knows neither Ray nor a model: engines are LlmClients, and what counts tokens is passed in.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from rayapp.config.language import LanguageConfig
from rayapp.errors import DeadlineExceeded, RequestError
from rayapp.families.inputs import shown
from rayapp.schemas.record import short
from rayapp.serve.aside import INLINE_BYTES, aside
from rayapp.serve.background import Background
from rayapp.serve.call import Answer, Call, Meter
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Limiter
from rayapp.serve.callers.token_limits import TokenLimiter
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower
from rayapp.serve.front import VERSION, Front
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextAsk, TextReply
from rayapp.serve.language.billed import Desk
from rayapp.serve.language.charges import NOBODY, Payers
from rayapp.serve.language.directory import NO_ADAPTERS, Models
from rayapp.serve.language.flow import Flow
from rayapp.serve.language.log import AnswerLog
from rayapp.serve.language.presence import Presence
from rayapp.serve.language.reached import Reached
from rayapp.serve.language.relay import Relay
from rayapp.serve.language.served import Engine, version_of
from rayapp.serve.language.shadow import Overheard
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
    Most,
    error_response,
    model_entry,
    model_list,
    parse,
)
from rayapp.serve.wire.openai_described import describe_models
from rayapp.serve.wire.page import render_models
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
        flags: Flags | None = None,
    ) -> None:
        super().__init__(config, meter, background, keys, limiter, tracer)
        self._config = config
        self._most = Most(config.max_choices, config.max_prompts, config.max_inputs)
        self._prompts = prompts
        self._now = now
        self._payers = payers
        self._follower = follower
        desk = Desk(config.record_every_tokens, config.redacts, payers, token_limiter)
        heard = Overheard(prompts, config.redacts, now, meter)
        self._reached = {name: Reached(engine.client) for name, engine in engines.items()}
        asked = {name: replace(engines[name], client=one) for name, one in self._reached.items()}
        self._models = Models(
            config, asked, self._deadlines, meter, desk, heard, self._adapted, flags
        )
        self._created_s = int(now().timestamp())
        ready = {"GET": self._ready}
        self.open_paths = {f"{ROOT}/ping": ready, "/ping": ready}
        self._routes: dict[str, Mapping[str, Handler]] = {
            f"{ROOT}/ping": ready,
            MODELS: {"GET": self._list},
            f"{ROOT}/openapi.json": {"GET": self._openapi},
            f"{ROOT}/docs": {"GET": self._docs},
            **{path: {"POST": self._ask} for path in KINDS},
        }

    def _adapted(self) -> Mapping[str, Adapted]:
        return NO_ADAPTERS if self._follower is None else self._follower.current

    def _routed(self, path: str) -> Routed:
        if not path.startswith(ROOT):
            path = ROOT if path == "/" else ROOT + path
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
        name = call.endpoint
        if name is None or name not in self._models.names():  # callers send what they like
            return None, None
        return name, self._models.intended(name)

    def _asks_a_model(self, call: Call) -> bool:
        return call.route in KINDS

    async def _drained(self) -> None:
        await self._models.drain()
        await self._payers.drain()

    async def _ready(self, call: Call) -> Answer:
        """A model that lacks its adapter keeps no other from being asked, and an engine that is
        away none from the gateway, which says so better than nobody would."""
        state: dict[str, Any] = {}
        if self._may_look(call):
            followed = {} if self._follower is None else self._follower.problems
            away = await asyncio.gather(*(one.problem() for one in self._reached.values()))
            engines = zip(self._reached, away, strict=True)
            told = {f"engines/{name}": problem for name, problem in engines if problem is not None}
            # a follower says why its release is none, where a model only lacks it
            problems = {**self._models.problems(), **followed, **told}
            state = {"models": self._models.names(), "problems": problems}
        return Answer(json_response(200, {"ready": True, **state}))

    async def _list(self, call: Call) -> Answer:
        return Answer(json_response(200, model_list(self._models.names(), self._created_s)))

    async def _entry(self, call: Call) -> Answer:
        served = self._models.find(call.endpoint or "")
        told = model_entry(served.name, self._created_s)
        chat = served.prompt
        if chat is not None and self._may_look(call):
            text = {"name": chat.name, "system": chat.system, "user": chat.user}
            told |= {"prompt": {**text, "digest": version_of(chat)}}
        return Answer(json_response(200, told), served.name, served.release_id)

    async def _openapi(self, call: Call) -> Answer:
        describe = self._describing()
        return Answer(await aside(lambda: json_response(200, describe()), is_long=True))

    async def _docs(self, call: Call) -> Answer:
        describe = self._describing()
        return await self._page(call, lambda host: render_models(describe(), host))

    def _describing(self) -> Callable[[], dict[str, Any]]:
        """What is slow of a description, for any thread; models are told on the event loop only,
        which makes them anew when a champion has moved."""
        asked = VERSION, self._config.requires_key, self._most
        return partial(describe_models, self._models.described(), *asked)

    async def _ask(self, call: Call) -> Answer:
        try:
            return await self._asked(call)
        except DeadlineExceeded as error:
            raise await self._late(error, call.endpoint) from None

    async def _late(self, error: DeadlineExceeded, name: str | None) -> DeadlineExceeded:
        """More time is no help where nobody is there yet. name: of the model that was asked."""
        engines = () if name is None else self._models.engines_of(name)
        there = await asyncio.gather(*(self._reached[engine].is_there() for engine in engines))
        loading = [engine for engine, is_there in zip(engines, there, strict=True) if not is_there]
        if not loading:
            return error
        named = " and ".join(f"engines/{engine}" for engine in loading)
        return DeadlineExceeded(
            f"{error.what}: {named} may still be loading",
            f"ask again once `problems` of GET {ROOT}/ping, with a key, does not name it any more",
        )

    async def _asked(self, call: Call) -> Answer:
        require_content_type(call.request, (b"application/json",))
        with self._deadlines.within(call.deadline_s):
            with step("read"):
                body = await read_body(call.request, self._config.max_body_bytes)
                is_long = len(body) > INLINE_BYTES
                path = call.route or ""
                asked = await aside(partial(parse, path, body, self._most), is_long)
            endpoint = self._models.endpoint(asked.model)
            call.endpoint = asked.model
            ask = TextAsk(
                call.request_id,
                path,
                asked,
                call.deadline_s,
                call.tenant,
                call.request.headers,
                is_long,
            )
            sink = self._prompts(asked.model)
            async with Presence(call.request.receive):
                reply = await endpoint.predict(ask)
            flow = self._flow(call, ask, reply, sink)
            response: Response | Streamed
            if asked.is_stream:
                response = Streamed(flow.stream, CONTENT_TYPE)
            else:
                response = await flow.whole()
        said = None if reply.bill is None else reply.bill.prompt_digest
        return Answer(response, asked.model, reply.release_id, 0, reply.degraded, said)

    def _flow(self, call: Call, ask: TextAsk, reply: TextReply, sink: RecordSink) -> Flow:
        name = ask.asked.model
        written = AnswerLog(
            sink, ask, call.start_s, name, self._config.redacts, self._now, reply, ask.assignment
        )
        spent = None if reply.spent is None else reply.spent.usage
        fingerprint = f"fp_{short(reply.release_id)}"
        relay = Relay(ask.asked, name, fingerprint, reply.hides_logprobs, spent)
        return Flow(call, reply, relay, written, self._deadlines, self._meter)
