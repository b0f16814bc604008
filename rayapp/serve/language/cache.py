"""Equal questions to the same release are answered once, where each time would give the same."""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import orjson

from rayapp.config.serving import CacheConfig
from rayapp.serve.endpoints.kept import Kept
from rayapp.serve.language.ask import TextAsk, TextEndpoint, TextReply, nothing
from rayapp.serve.wire.openai import Asked
from rayapp.serve.wire.sse import LAST_EVENT

_FAILED = b'data: {"error"'
Key = tuple[str | None, bytes]


class TextCache:
    """Exact: a tenant's own answers, by every field of the request that the model sees. Only what
    is not left to chance is kept: vectors, and text at temperature 0; and only whole answers, of
    the release itself. release_id: of what answers inside; another one has a cache of its own."""

    def __init__(
        self,
        inner: TextEndpoint,
        release_id: str,
        config: CacheConfig,
        on_lookup: Callable[[bool], None] = lambda is_hit: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._release_id = release_id
        self._on_lookup = on_lookup
        self._max_bytes = config.max_bytes
        self._kept: Kept[Key, bytes] = Kept(config, clock_s)

    async def predict(self, ask: TextAsk) -> TextReply:
        if not _is_certain(ask.asked):
            return await self._inner.predict(ask)
        key = _key(ask)
        found = self._kept.get(key)
        self._on_lookup(found is not None)
        if found is not None:
            return TextReply(self._release_id, found, nothing())
        reply = await self._inner.predict(ask)
        if reply.degraded is not None or reply.release_id != self._release_id:
            return reply
        body = self._keeping(reply, key, ask.asked.is_stream)
        await anext(body)  # one that has not begun would close nothing inside when it is closed
        return replace(reply, body=body)

    async def _keeping(
        self, reply: TextReply, key: Key, is_stream: bool
    ) -> AsyncGenerator[bytes, None]:
        """Nothing, then the rest of the answer, kept once all of it has been given."""
        parts, num_bytes = [reply.first], len(reply.first)
        async with aclosing(reply.body) as body:
            yield b""
            async for part in body:
                num_bytes += len(part)
                if num_bytes <= self._max_bytes:
                    parts.append(part)
                yield part
        if num_bytes <= self._max_bytes:
            told = b"".join(parts)
            if not is_stream or _is_whole_stream(told):
                self._kept.put(key, told, num_bytes)


def _is_certain(asked: Asked) -> bool:
    return asked.kind == "embedding" or asked.fields.get("temperature") == 0


def _key(ask: TextAsk) -> Key:
    seen = {name: value for name, value in ask.asked.fields.items() if name != "user"}
    question = hashlib.blake2b(f"{ask.path} {ask.max_tokens} ".encode(), digest_size=20)
    question.update(orjson.dumps(seen, option=orjson.OPT_SORT_KEYS))
    return ask.tenant, question.digest()


def _is_whole_stream(told: bytes) -> bool:
    return told.endswith(LAST_EVENT) and _FAILED not in told
