"""A model as callers name it: its engine, the adapter beside that, and what it can be asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayapp.config.models import ModelConfig
from rayapp.errors import RequestError
from rayapp.schemas.language import LlmClient, WeightsRef
from rayapp.schemas.model import LanguageSchema
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextEndpoint
from rayapp.serve.wire.openai import CONTENT, Asked

SYSTEM_ROLES = ("system", "developer")
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
    """A model as callers name it. endpoint: its engine, with what stands before that alone."""

    name: str
    choice: Choice
    endpoint: TextEndpoint

    @property
    def release_id(self) -> str:
        return self.choice.release_id

    @property
    def engine(self) -> Engine:
        return self.choice.engine

    @property
    def adapted(self) -> Adapted | None:
        return self.choice.adapted

    def prepared(self, asked: Asked, first: LanguageSchema | None = None) -> Asked:
        """An adapter is told what it was trained and judged with, where the caller says nothing of
        that kind. first: of whose system prompt counts more than its own."""
        own = None if self.adapted is None else self.adapted.language
        system = (first.system if first else None) or (own.system if own else None)
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

    def room(self, asked: Asked, num_prompt: int, max_output_tokens: int) -> int:
        """Tokens that each answer may have. num_prompt: of the longest prompt. max_output_tokens:
        where the caller does not say. Raises RequestError 400 where the prompt, or the prompt and
        what the caller wants, is more than the model can take."""
        most = self.engine.max_context_tokens
        left = most - num_prompt
        if asked.kind == "embedding":
            if left < 0:
                raise _too_long(f"the input has {num_prompt} tokens", most, asked)
            return 0
        if left < 1:
            raise _too_long(f"the prompt has {num_prompt} tokens", most, asked)
        if asked.max_tokens is None:
            return min(left, max_output_tokens)
        if asked.max_tokens > left:
            wanted = f"the prompt has {num_prompt} tokens and max_tokens is {asked.max_tokens}"
            raise _too_long(wanted, most, asked)
        return asked.max_tokens


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
