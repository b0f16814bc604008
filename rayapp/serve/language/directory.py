"""The models that callers may name, and what stands before each one's engine.

Some are in the config; others are there as soon as an adapter is released, and gone with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rayapp.config.language import LanguageConfig, ModelConfig, token_cost
from rayapp.errors import RequestError, Unavailable
from rayapp.families.inputs import shown
from rayapp.schemas.language import LlmClient, WeightsRef
from rayapp.serve.endpoints.again import Budget, Retry
from rayapp.serve.endpoints.breaker import Breaker
from rayapp.serve.endpoints.build import Hooks
from rayapp.serve.endpoints.deadline import Deadlines, Timeout
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextEndpoint
from rayapp.serve.language.cache import TextCache
from rayapp.serve.language.charges import Prices
from rayapp.serve.language.model import Model
from rayapp.serve.wire.openai import CONTENT, Asked

SYSTEM_ROLES = ("system", "developer")
NO_ADAPTERS: Mapping[str, Adapted] = {}
CountTokens = Callable[[Mapping[str, Any]], Sequence[int]]
"""The tokens of each prompt of a request, or of each input. Raises RequestError where the model
cannot take it."""


@dataclass(frozen=True)
class Engine:
    """What answers for a model. max_context_tokens: prompt and answer together."""

    name: str
    client: LlmClient
    weights: WeightsRef
    max_context_tokens: int
    count: CountTokens


@dataclass(frozen=True)
class Choice:
    """Who answers for a name, and by which settings. adapted: None where the engine's weights
    answer as they are."""

    config: ModelConfig
    engine: Engine
    adapted: Adapted | None = None

    @property
    def release_id(self) -> str:
        """The weights' digest stands for a release where they answer."""
        return self.engine.weights.digest if self.adapted is None else self.adapted.release_id


@dataclass(frozen=True)
class Served:
    """A model as callers name it."""

    name: str
    choice: Choice
    endpoint: TextEndpoint
    prices: Prices

    @property
    def release_id(self) -> str:
        return self.choice.release_id

    @property
    def engine(self) -> Engine:
        return self.choice.engine

    @property
    def adapted(self) -> Adapted | None:
        return self.choice.adapted

    def prepared(self, asked: Asked) -> Asked:
        """An adapter is told what it was trained and judged with, where the caller says nothing of
        that kind."""
        system = None if self.adapted is None else self.adapted.language.system
        if system is None or asked.kind != "chat":
            return asked
        messages = asked.fields["messages"]
        if any(message["role"] in SYSTEM_ROLES for message in messages):
            return asked
        told = [{"role": "system", "content": system}, *messages]
        return replace(asked, fields={**asked.fields, "messages": told})

    def require_task(self, asked: Asked) -> None:
        """Raises RequestError 400 where the model does something else."""
        task = self.engine.weights.task
        if (task == "embed") != (asked.kind == "embedding"):
            does = {"embed": "makes vectors of texts", "generate": "writes text"}[task]
            path = "/v1/embeddings" if task == "embed" else "/v1/chat/completions"
            raise RequestError(
                f"the model {self.name!r} {does}",
                f"ask it at {path}, or ask another model",
                400,
                "wrong_task",
                "model",
            )

    def room(self, asked: Asked, num_prompt: int) -> int:
        """Tokens that each answer may have. num_prompt: of the longest prompt. Raises RequestError
        400 where the prompt, or the prompt and what the caller wants, is more than the model can
        take."""
        most = self.engine.max_context_tokens
        left = most - num_prompt
        if asked.kind == "embedding":
            if left < 0:
                raise _too_long(f"the input has {num_prompt} tokens", most, asked)
            return 0
        if left < 1:
            raise _too_long(f"the prompt has {num_prompt} tokens", most, asked)
        if asked.max_tokens is None:
            return min(left, self.choice.config.max_output_tokens)
        if asked.max_tokens > left:
            wanted = f"the prompt has {num_prompt} tokens and max_tokens is {asked.max_tokens}"
            raise _too_long(wanted, most, asked)
        return asked.max_tokens


class Models:
    """released: the champions that are adapters, by endpoint; asked at each request, and another
    object whenever one has moved."""

    def __init__(
        self,
        config: LanguageConfig,
        engines: Mapping[str, Engine],
        deadlines: Deadlines,
        hooks: Hooks,
        released: Callable[[], Mapping[str, Adapted]] = lambda: NO_ADAPTERS,
    ) -> None:
        self._config = config
        self._engines = engines
        self._deadlines = deadlines
        self._hooks = hooks
        self._released = released
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
            guarded = {name: self._guards[key] for name, key in keys.items()}
            self._served = {name: _made(name, choice, guarded) for name, choice in chosen.items()}
            self._seen = released
        return self._served

    def names(self) -> list[str]:
        return list(self._now)

    def find(self, name: str) -> Served:
        """Raises RequestError 404, Unavailable where nothing answers for a model of the config."""
        found = self._now.get(name)
        if found is None and name in self._config.models:
            endpoint = self._config.models[name].endpoint
            raise Unavailable(
                f"model {shown(name)}: no adapter of endpoint {endpoint!r} is champion for the "
                "weights of its engine",
                "release one; GET /v1/ping with a key says what is wrong with one that there is",
            )
        if found is None:
            raise RequestError(
                f"there is no model {shown(name)}",
                f"models are {self.names()}",
                404,
                "model_not_found",
                "model",
            )
        return found

    def _chosen(self, released: Mapping[str, Adapted]) -> dict[str, Choice]:
        """By name; of the config's models, those for which there is somebody."""
        chosen = {}
        for name, config in self._config.models.items():
            engine = self._engines[config.engine]
            if config.endpoint is None:
                chosen[name] = Choice(config, engine)
                continue
            adapted = released.get(config.endpoint)
            if adapted is not None and _fits(adapted, engine):
                chosen[name] = Choice(config, engine, adapted)
        named = {config.endpoint for config in self._config.models.values()}
        for config in self._config.models.values():
            if not config.adapters:
                continue
            engine = self._engines[config.engine]
            like = config.model_copy(update={"adapters": False, "fallback": (), "timeout_ms": None})
            for endpoint, adapted in released.items():
                is_free = endpoint not in named and endpoint not in self._config.models
                if is_free and _fits(adapted, engine):
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
            on_state = partial(self._hooks.breaker, name, engine.name)
            built = Breaker(built, lambda: release_id, config.breaker, on_state)
        if config.cache is not None:
            built = TextCache(built, release_id, config.cache, partial(self._hooks.cache, name))
        return built


def _fits(adapted: Adapted, engine: Engine) -> bool:
    return adapted.language.base_digest == engine.weights.digest


def _made(name: str, choice: Choice, guarded: Mapping[str, TextEndpoint]) -> Served:
    """guarded: by name, also those that answer instead of it."""
    config, endpoint = choice.config, guarded[name]
    others = [guarded[f.model] for f in config.fallback if f.model in guarded]
    if others:
        endpoint = Fallback([endpoint, *others])
    prices = Prices(
        token_cost(config.usd_per_million_input_tokens),
        token_cost(config.usd_per_million_output_tokens),
    )
    return Served(name, choice, endpoint, prices)


def _too_long(what: str, most: int, asked: Asked) -> RequestError:
    content = CONTENT[asked.kind]
    return RequestError(
        f"{what}, the model takes at most {most} together",
        f"shorten `{content}` or lower `max_tokens`"
        if asked.kind != "embedding"
        else f"shorten `{content}`",
        400,
        "context_length_exceeded",
        content,
    )
