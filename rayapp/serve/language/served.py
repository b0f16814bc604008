"""A model as callers name it: its engine, the adapter beside that, and what it can be asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from rayapp.config.models import ModelConfig
from rayapp.errors import RequestError
from rayapp.schemas.language import LlmClient, Task, WeightsRef
from rayapp.schemas.prompt import Prompt
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextEndpoint
from rayapp.serve.wire.openai import CONTENT, Asked, Kind

SYSTEM_ROLES = ("system", "developer")
KINDS_OF: dict[Task, tuple[Kind, ...]] = {
    "generate": ("chat", "completion"),
    "embed": ("embedding",),
}
"""What weights can be asked for, by what they were made for."""
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

    @cached_property
    def prompt(self) -> Prompt | None:
        """An adapter is told what it was trained and judged with, weights what the config says."""
        if self.adapted is not None:
            return self.adapted.language.chat
        named = self.choice.config.prompt
        return named if isinstance(named, Prompt) else None

    def said_to(self, asked: Asked, first: Prompt | None = None) -> Prompt | None:
        """What is said before; None where the caller says something of that kind. first: counts
        more than its own prompt."""
        if asked.kind != "chat":
            return None
        if any(message["role"] in SYSTEM_ROLES for message in asked.fields["messages"]):
            return None
        known = [one for one in (first, self.prompt) if one is not None and one.system is not None]
        return known[0] if known else None

    def require_task(self, asked: Asked) -> None:
        """Raises RequestError 400 where the model does something else."""
        task = self.engine.weights.task
        if asked.kind not in KINDS_OF[task]:
            does = {"embed": "makes vectors of texts", "generate": "writes text"}[task]
            path = "/v1/embeddings" if task == "embed" else "/v1/chat/completions"
            raise RequestError(
                f"the model {self.name!r} {does}",
                f"ask it at {path}, or ask another model",
                400,
                "wrong_task",
                "model",
            )

    def room(self, asked: Asked, num_tokens: Sequence[int], max_output_tokens: int) -> int:
        """Tokens that each answer may have. num_tokens: of each prompt. max_output_tokens: where
        the caller does not say. Raises RequestError 400 where a prompt, or a prompt and what the
        caller wants, is more than the model can take."""
        most = self.engine.max_context_tokens
        longest = max(num_tokens, default=0)
        content = CONTENT[asked.kind]
        at = content if len(num_tokens) < 2 else f"{content}[{num_tokens.index(longest)}]"
        left = most - longest
        if left < (0 if asked.kind == "embedding" else 1):
            last = "" if asked.kind == "embedding" else ", the answer included"
            what = f"`{at}` has {longest} tokens, the model takes at most {most}{last}"
            raise _too_long(what, f"shorten `{content}`", at)
        if asked.kind == "embedding":
            return 0
        if asked.max_tokens is None:
            return min(left, max_output_tokens)
        if asked.max_tokens > left:
            what = f"`{at}` has {longest} tokens and max_tokens is {asked.max_tokens}, the model "
            next_step = f"shorten `{content}` or ask for at most {left} tokens"
            raise _too_long(what + f"takes at most {most} together", next_step, at)
        return asked.max_tokens


@lru_cache(maxsize=256)
def version_of(prompt: Prompt) -> str:
    """Its digest, which requests must not wait for each time."""
    return prompt.content_digest()


def told(asked: Asked, prompt: Prompt) -> Asked:
    """A chat, with this said before."""
    messages = [{"role": "system", "content": prompt.system}, *asked.fields["messages"]]
    return replace(asked, fields={**asked.fields, "messages": messages})


def _too_long(what: str, next_step: str, param: str) -> RequestError:
    return RequestError(what, next_step, 400, "context_length_exceeded", param)
