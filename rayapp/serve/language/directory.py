"""The models that callers may name, and what stands before each one's engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rayapp.config.language import LanguageConfig, ModelConfig, token_cost
from rayapp.errors import RequestError
from rayapp.families.inputs import shown
from rayapp.schemas.language import LlmClient, WeightsRef
from rayapp.serve.endpoints.again import Budget, Retry
from rayapp.serve.endpoints.breaker import Breaker
from rayapp.serve.endpoints.build import Hooks
from rayapp.serve.endpoints.deadline import Deadlines, Timeout
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.language.ask import TextEndpoint
from rayapp.serve.language.model import Model
from rayapp.serve.language.tab import Prices
from rayapp.serve.wire.openai import CONTENT, Asked

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
class Served:
    """A model as callers name it."""

    name: str
    config: ModelConfig
    engine: Engine
    endpoint: TextEndpoint
    prices: Prices

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
            return min(left, self.config.max_output_tokens)
        if asked.max_tokens > left:
            wanted = f"the prompt has {num_prompt} tokens and max_tokens is {asked.max_tokens}"
            raise _too_long(wanted, most, asked)
        return asked.max_tokens


class Models:
    def __init__(
        self,
        config: LanguageConfig,
        engines: Mapping[str, Engine],
        deadlines: Deadlines,
        hooks: Hooks,
    ) -> None:
        self._config = config
        self._engines = engines
        self._deadlines = deadlines
        self._hooks = hooks
        built = {name: self._guarded(name) for name in config.models}
        self._served = {name: self._made(name, built) for name in config.models}

    def names(self) -> list[str]:
        return list(self._served)

    def find(self, name: str) -> Served:
        """Raises RequestError 404."""
        found = self._served.get(name)
        if found is None:
            raise RequestError(
                f"there is no model {shown(name)}",
                f"models are {self.names()}",
                404,
                "model_not_found",
                "model",
            )
        return found

    def _guarded(self, name: str) -> TextEndpoint:
        """An engine's answers, asked once more where a replica fails before one has begun."""
        config = self._config.models[name]
        engine = self._engines[config.engine]
        release_id = engine.weights.digest
        settings = self._config.engines[engine.name]
        built: TextEndpoint = Model(
            engine.client,
            engine.name,
            release_id,
            self._config.requires_key,
            settings.is_prefix_aware,
        )
        share = settings.retry_share
        if share:
            on_again = partial(self._hooks.second_ask, name, "retry")
            built = Retry(built, Budget(share), on_again)
        if config.timeout_ms is not None:
            built = Timeout(built, config.timeout_ms, self._deadlines)
        if config.breaker is not None:
            on_state = partial(self._hooks.breaker, name, engine.name)
            built = Breaker(built, lambda: release_id, config.breaker, on_state)
        return built

    def _made(self, name: str, built: Mapping[str, TextEndpoint]) -> Served:
        config = self._config.models[name]
        endpoint = built[name]
        if config.fallback:
            endpoint = Fallback([endpoint, *(built[f.model] for f in config.fallback)])
        prices = Prices(
            token_cost(config.usd_per_million_input_tokens),
            token_cost(config.usd_per_million_output_tokens),
        )
        return Served(name, config, self._engines[config.engine], endpoint, prices)


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
