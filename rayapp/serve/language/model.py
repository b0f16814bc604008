"""The innermost endpoint of a language model: an engine, asked for the beginning of an answer."""

import orjson

from rayapp.errors import Unavailable
from rayapp.schemas.language import Adapter, LlmClient, Prefix
from rayapp.serve.language.ask import TextAsk, TextReply
from rayapp.serve.language.refusals import refusal
from rayapp.serve.wire.openai import Asked, for_engine

MAX_PREFIX_CHARS = 8192
_STATUSES = {400: "invalid_request", 422: "invalid_request"}


class Model:
    """weights: the name that the engine knows its own by. release_id: of what answers there.
    adapter: None for the weights as they are."""

    def __init__(
        self,
        client: LlmClient,
        weights: str,
        release_id: str,
        adapter: Adapter | None,
        keeps_tenants_apart: bool,
        is_prefix_aware: bool = False,
    ) -> None:
        self._client = client
        self._name = weights if adapter is None else adapter.release_id
        self._adapter = adapter
        self._release_id = release_id
        self._keeps_tenants_apart = keeps_tenants_apart
        self._is_prefix_aware = is_prefix_aware

    async def predict(self, ask: TextAsk) -> TextReply:
        """Returns once the answer has begun. Raises RequestError for what the engine says is the
        caller's to mend."""
        salt = ask.tenant if self._keeps_tenants_apart else None
        body = for_engine(ask.asked, self._name, ask.max_tokens, salt)
        prefix = beginning(ask.asked) if self._is_prefix_aware else None
        answering = await self._client.open(ask.path, body, prefix, self._adapter)
        try:
            first = await anext(answering.body, b"")
            if not first and answering.status == 200:
                raise Unavailable("the engine ended a request without an answer", "try again")
            if answering.status != 200:
                told = first + b"".join([part async for part in answering.body])
                raise _refused(answering.status, told)
        except BaseException:
            await answering.body.aclose()
            raise
        return TextReply(self._release_id, first, answering.body)


def beginning(asked: Asked) -> Prefix:
    """Of the prompt, as one text; two that begin alike have beginnings that do."""
    content = asked.fields.get("messages") or asked.fields.get("prompt") or ""
    text = content if isinstance(content, str) else orjson.dumps(content).decode()
    return Prefix(text[:MAX_PREFIX_CHARS])


def _refused(status: int, body: bytes) -> Exception:
    """What an engine says of a mistake is for the caller; what it says of itself is not."""
    kind = _STATUSES.get(status)
    if kind is None:
        return Unavailable(f"the engine answered with status {status}", "try again")
    return refusal(status, kind, body)
