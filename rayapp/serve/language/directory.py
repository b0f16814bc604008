"""The models that callers may name, and what stands before each one's engine.

Some are in the config; others are there as soon as an adapter is released, and gone with it.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from rayapp.config.language import LanguageConfig
from rayapp.config.models import ModelConfig
from rayapp.errors import RequestError, Unavailable
from rayapp.families.inputs import shown
from rayapp.schemas.record import short
from rayapp.serve.endpoints.again import Budget, Retry
from rayapp.serve.endpoints.breaker import Breaker, State
from rayapp.serve.endpoints.build import Hooks, not_chosen
from rayapp.serve.endpoints.deadline import Deadlines, Timeout
from rayapp.serve.flags import Flags
from rayapp.serve.follow import release_key
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextAsk, TextEndpoint
from rayapp.serve.language.billed import Desk
from rayapp.serve.language.cache import TextCache
from rayapp.serve.language.model import Model
from rayapp.serve.language.routes import Hearing, Routes
from rayapp.serve.language.served import KINDS_OF, Choice, Engine, Served
from rayapp.serve.wire.openai_described import Described

NO_ADAPTERS: Mapping[str, Adapted] = {}


class Models:
    """heard: takes what shadows answer. released: the champions that are adapters, by endpoint;
    asked at each request, and another object whenever one has moved."""

    def __init__(
        self,
        config: LanguageConfig,
        engines: Mapping[str, Engine],
        deadlines: Deadlines,
        hooks: Hooks,
        desk: Desk,
        heard: Hearing,
        released: Callable[[], Mapping[str, Adapted]] = lambda: NO_ADAPTERS,
        flags: Flags | None = None,
    ) -> None:
        self._config = config
        self._engines = engines
        self._deadlines = deadlines
        self._hooks = hooks
        self._released = released
        self._flags = flags
        self._routes = Routes(config.models, self.find, desk, deadlines, hooks, heard, flags)
        self._endpoints = {
            name: self._routes.endpoint(name, config.models[name]) for name in config.models
        }
        self._guards: dict[tuple[str, str], TextEndpoint] = {}
        self._seen: Mapping[str, Adapted] | None = None
        self._served: Mapping[str, Served] = {}

    @property
    def _now(self) -> Mapping[str, Served]:
        """Made anew when a champion has moved. What stands before an engine goes on, with what it
        has learned of it."""
        released = self._released()
        if released is not self._seen:
            chosen = self._chosen(released)
            keys = {name: (name, choice.release_id) for name, choice in chosen.items()}
            self._guards = {
                keys[name]: self._guards.get(keys[name]) or self._guarded(name, choice)
                for name, choice in chosen.items()
            }
            for one in self._served.values():
                if (one.name, one.release_id) not in self._guards and one.choice.config.breaker:
                    self._hooks.breaker(one.name, one.choice.engine.name, "closed")
            self._served = {
                name: Served(name, choice, self._guards[keys[name]])
                for name, choice in chosen.items()
            }
            self._seen = released
        return self._served

    def names(self) -> list[str]:
        return list(self._now)

    def endpoint(self, name: str) -> TextEndpoint:
        """Who answers under a name. Raises RequestError 404."""
        built = self._endpoints.get(name)
        if built is not None:
            return built
        return self._routes.endpoint(name, self.find(name).choice.config)

    def intended(self, name: str) -> str | None:
        """The release that answers under a name; None where it is one of several, or none."""
        return None if self._is_shared(name) else self.find(name).release_id

    def _is_shared(self, name: str) -> bool:
        """Whether one of several answers."""
        config = self._config.models.get(name)
        return config is not None and bool(config.targets())

    def described(self) -> list[Described]:
        """All that can be asked now, for those who want to."""
        return [
            Described(
                name,
                KINDS_OF[found.engine.weights.task],
                None if self._is_shared(name) else found.release_id,
                found.engine.max_context_tokens,
                found.choice.config.max_output_tokens,
            )
            for name, found in self._now.items()
        ]

    def problems(self) -> dict[str, str]:
        """Models of the config that nobody answers for: `name`; arms that nobody can answer for, or
        that cannot be chosen: `name/arm`, also of a shadow; rules that can take nothing:
        `name/rule`."""
        found = not_chosen(self._routes.choosing)
        for name, config in self._config.models.items():
            hears = [] if config.shadow is None else [("shadow", config.shadow.model)]
            named = {f"{name}/{arm}": model for arm, model in (*config.targets().items(), *hears)}
            for about, model in {name: name, **named}.items():
                try:
                    self.find(model)
                except Unavailable as error:
                    found[about] = error.what
        if self._flags is not None:
            rules = {name: config.rules for name, config in self._config.models.items()}
            found |= self._flags.problems(rules)
        return found

    async def drain(self) -> None:
        """Wait for what shadows are at."""
        await asyncio.gather(*(shadow.drain() for shadow in self._routes.shadows))

    def find(self, name: str) -> Served:
        """Raises RequestError 404, Unavailable where nothing answers for a model of the config."""
        found = self._now.get(name)
        if found is None and name in self._config.models:
            raise _not_there(name, self._config.models[name])
        if found is None:
            raise RequestError(
                f"there is no model {shown(name)}",
                f"models are {self.names()}",
                404,
                "model_not_found",
                "model",
            )
        return found

    def engines_of(self, name: str) -> list[str]:
        """Of those that answer under a name by intention, as far as somebody does."""
        config = self._config.models.get(name)
        found = []
        for one in (name, *(() if config is None else config.targets().values())):
            with suppress(RequestError, Unavailable):
                found.append(self.find(one).engine.name)
        return list(dict.fromkeys(found))

    def _chosen(self, released: Mapping[str, Adapted]) -> dict[str, Choice]:
        """By name; of the config's models, those for which there is somebody."""
        chosen = {}
        for name, config in self._config.models.items():
            engine = self._engines[config.engine]
            if config.endpoint is None:
                chosen[name] = Choice(config, engine)
                continue
            adapted = released.get(release_key(config.endpoint, config.release))
            if adapted is not None and _fits(adapted, engine):
                chosen[name] = Choice(config, engine, adapted)
        for config in self._config.models.values():
            if not config.adapters:
                continue
            engine = self._engines[config.engine]
            like = config.alone()
            for endpoint, adapted in released.items():
                is_champion = endpoint == adapted.endpoint
                is_free = endpoint not in self._config.models
                if is_champion and is_free and _fits(adapted, engine):
                    chosen.setdefault(endpoint, Choice(like, engine, adapted))
        return chosen

    def _guarded(self, name: str, choice: Choice) -> TextEndpoint:
        """An engine's answers, asked once more where a replica fails before one has begun."""
        config, engine, release_id = choice.config, choice.engine, choice.release_id
        settings = self._config.engines[engine.name]
        built: TextEndpoint = Model(
            engine.client,
            engine.weights.name,
            release_id,
            None if choice.adapted is None else choice.adapted.adapter,
            self._config.requires_key,
            settings.is_prefix_aware,
        )
        share = settings.retry_share
        if share and engine.name != self._config.inline:  # which has nobody else to ask
            on_again = partial(self._hooks.second_ask, name, "retry")
            built = Retry(built, Budget(share), on_again)
        if config.timeout_ms is not None:
            built = Timeout(built, config.timeout_ms, self._deadlines)
        if config.breaker is not None:
            on_state = partial(self._broken, (name, release_id), engine.name)
            limit_ms = min(self._config.deadline_ms, config.timeout_ms or math.inf)
            built = Breaker(
                built,
                lambda: release_id,
                config.breaker,
                on_state,
                may_be_long=_is_whole,
                enough_s=limit_ms / 1000,
            )
        if config.cache is not None:
            built = TextCache(built, release_id, config.cache, partial(self._hooks.cache, name))
        return built

    def _broken(self, guard: tuple[str, str], engine: str, state: State) -> None:
        """Requests of a release that is gone may still end, and say nothing of the one that is."""
        if guard in self._guards:
            self._hooks.breaker(guard[0], engine, state)


def _not_there(name: str, config: ModelConfig) -> Unavailable:
    endpoint, hint = config.endpoint, "GET /v1/ping with a key says what is wrong with"
    if config.release is None:
        return Unavailable(
            f"model {shown(name)}: no adapter of endpoint {endpoint!r} is champion for the weights "
            "of its engine",
            f"release one; {hint} one that there is",
        )
    return Unavailable(
        f"model {shown(name)}: release {short(config.release)} of endpoint {endpoint!r} is no "
        "adapter that its engine can take",
        f"name another one; {hint} it",
    )


def _is_whole(ask: TextAsk) -> bool:
    return not ask.asked.is_stream


def _fits(adapted: Adapted, engine: Engine) -> bool:
    return adapted.language.base_digest == engine.weights.digest
