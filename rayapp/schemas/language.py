"""Nouns of language models: weights, one answer as it is logged, and the port to an engine."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from rayapp.schemas.model import FileDigest
from rayapp.schemas.record import Record

Task = Literal["generate", "embed"]


class WeightsRef(Record):
    """A model's weights, tokenizer and configuration by content, in the form that vLLM and
    transformers read. digest is over the sorted file list; it stands for the release where a base
    model answers.

    source: where they came from, as the config names it; source_sha256: of the one file that they
    were converted from, None where nothing was. max_context_tokens: prompt and answer together.
    """

    name: str
    uri: str
    digest: str
    files: tuple[FileDigest, ...]
    task: Task
    source: str
    source_sha256: str | None
    license: str
    architecture: str
    num_parameters: int
    max_context_tokens: int


class PromptRecord(Record):
    """Part of one answer of a language model. A long answer is recorded as it grows, so that what a
    gateway was paid for before it died is known: the parts of a request, in order of `part`, are
    the whole.

    endpoint: the model as callers name it. num_prompt_tokens, num_output_tokens: paid for with
    this part; num_cached_tokens: of all prompt tokens, known with the last part. prompt and output:
    JSON texts, redacted as the serving config says, None where there is none; prompt in the first
    part only. What may be half of a number or an address is in the next part. finish_reason: why
    the answer ended, in the last part only. cost_nano_usd, loan_id, arm, propensity, unit,
    tenant, trace_id, degraded: as in PredictionRecord. token_loan_id: what of the tenant's budget
    in tokens paid for this part, where there is one. prompt_digest: of the prompt that we have said
    before the caller's, None where there was none. first_token_ms: from the request's first byte;
    latency_ms: until this part was complete. max_error: of the cascade that chose who answers, None
    where none did; confidence: how likely its first model found its whole answer, in the parts of
    that answer, where its engine told.
    """

    request_id: str
    part: int
    endpoint: str
    release_id: str
    at: datetime
    route: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    latency_ms: float
    first_token_ms: float | None = None
    finish_reason: str | None = None
    prompt: str | None = None
    output: str | None = None
    degraded: str | None = None
    arm: str | None = None
    propensity: float | None = None
    unit: str | None = None
    tenant: str | None = None
    trace_id: str | None = None
    cost_nano_usd: int | None = None
    loan_id: str | None = None
    token_loan_id: str | None = None
    prompt_digest: str | None = None
    confidence: float | None = None
    max_error: float | None = None


@dataclass(frozen=True, slots=True)
class Answering:
    """What an engine has begun to answer. body: the bytes of an HTTP body as they come, of one JSON
    document or of server-sent events; to close it stops the engine's work on the request."""

    status: int
    body: AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Prefix:
    """How a prompt begins, for a router that sends it where such a beginning was read before."""

    prompt: str
    """By this name Ray Serve LLM's router finds it among a call's arguments."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A released adapter, as an engine gets it: a folder's URI and its files, as path and sha256.
    In a request's body `model` is its release id."""

    release_id: str
    uri: str
    files: tuple[tuple[str, str], ...]


def prompts_of(given: Any) -> Sequence[Any]:
    """Of a request's `prompt` or `input`: a text, a list of token ids, or a list of such."""
    if isinstance(given, list) and not all(type(one) is int for one in given):
        return given
    return (given,)


Open = Callable[[str, bytes, Prefix | None, Adapter | None], AsyncGenerator[int | bytes, None]]
"""How an engine in this process answers: (path, body, prefix, adapter) → the status, then the parts
of the body. Whoever stops listening ends it."""


class LlmClient(Protocol):
    """One engine, by OpenAI's HTTP interface. Implemented by serve.language.client and by a fake of
    the tests, which answer alike (tests/contract/test_llm_client.py)."""

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        """path: as OpenAI has it, "/v1/chat/completions" for one. body: a JSON document. prefix:
        where the engine's replicas are chosen by it. adapter: what is to answer, which is loaded
        where it is not held; None: the engine's weights. Returns once the answer has begun. Raises
        Unavailable where no replica of the engine can be asked, or the adapter cannot be loaded; so
        may going through the answer's body."""
        ...

    async def is_there(self) -> bool:
        """Whether the engine has a replica, however busy; none has loaded yet where it has not. No
        replica is asked."""
        ...
