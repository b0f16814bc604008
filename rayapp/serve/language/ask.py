"""What a language model is asked, and what it has begun to answer."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace

from rayapp.serve.endpoints.base import AnyEndpoint, Assignment, named_unit
from rayapp.serve.language.relay import Usage
from rayapp.serve.language.tab import Tab
from rayapp.serve.wire.openai import Asked


@dataclass(slots=True)
class TextAsk:
    """path: of OpenAI's interface. deadline_s: of time.monotonic. tenant: of the key it came with.
    headers: of the request, names in lower case. is_long: it is better looked at in a thread.
    max_tokens: of each answer, at most; 0 for embeddings, and until it is known who is asked.
    assignment: made on the way, whoever answers in the end."""

    request_id: str
    path: str
    asked: Asked
    deadline_s: float
    tenant: str | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    is_long: bool = False
    max_tokens: int = 0
    assignment: Assignment | None = None

    @property
    def unit(self) -> str:
        """The header's, else OpenAI's `user`, else the tenant, else the request itself."""
        given = named_unit(self.headers)
        if given is not None:
            return given
        user = self.asked.fields.get("user")
        return (user if isinstance(user, str) else None) or self.tenant or self.request_id

    def until(self, deadline_s: float) -> "TextAsk":
        return replace(self, deadline_s=deadline_s)


@dataclass(frozen=True, slots=True)
class Bill:
    """prompt: what was asked, as the log keeps it. prompt_digest: of the prompt that we have said
    before it; None where that was nothing."""

    tab: Tab
    prompt: str
    prompt_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """By what a cascade chose. confidence: how likely its first model finds this answer; None of
    another model's, and where it does not tell."""

    confidence: float | None
    max_error: float


@dataclass(frozen=True, slots=True)
class TextReply:
    """The beginning of an answer, and the rest of it as it comes; whoever has the reply closes
    `body`. degraded: why it is not the intended model's, or None when it is. bill: what has been
    reserved for it, which whoever has the reply ends too; None inside of who reserves.
    hides_logprobs: the caller did not ask for them. spent: on an answer before it; None where there
    was none. doubt: None where no cascade chose."""

    release_id: str
    first: bytes
    body: AsyncGenerator[bytes, None]
    degraded: str | None = None
    bill: Bill | None = None
    hides_logprobs: bool = False
    spent: "Spent | None" = None
    doubt: Doubt | None = None

    def instead(self, reason: str) -> "TextReply":
        return replace(self, degraded=reason)


@dataclass(frozen=True, slots=True)
class Spent:
    """An answer that its model was not sure of, so that another one was asked. It is paid for, and
    nobody gets it. assignment: of who gave it."""

    reply: TextReply
    usage: Usage
    assignment: Assignment


async def completed(reply: TextReply) -> TextReply:
    """With all of the answer in `first`."""
    try:
        parts = [reply.first, *[part async for part in reply.body]]
    finally:
        await reply.body.aclose()
    return replace(reply, first=b"".join(parts), body=nothing())


async def nothing() -> AsyncGenerator[bytes, None]:
    """The body of an answer that is all in `first`."""
    empty: tuple[bytes, ...] = ()
    for part in empty:
        yield part


TextEndpoint = AnyEndpoint[TextAsk, TextReply]
"""One that answers with text, or with vectors of texts."""
