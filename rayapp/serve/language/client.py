"""An engine as a gateway sees it: Ray Serve's handle to its replicas, behind the LlmClient port."""

import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.exceptions import RequestCancelledError
from ray.serve.handle import DeploymentHandle

from rayapp.errors import Unavailable
from rayapp.schemas.language import Answering, Prefix
from rayapp.serve.handles import GONE, not_there

log = logging.getLogger("rayapp.serve.language.client")


class ServeLlm:
    """name: of the engine, for messages."""

    def __init__(self, name: str, handle: "DeploymentHandle[Any]") -> None:
        self._who = f"the replicas of engine {name!r}"
        # by value: a token is a message, which would cost more through the object store
        self._ask = handle.options(stream=True, _by_reference=False, method_name="open")

    async def open(self, path: str, body: bytes, prefix: Prefix | None = None) -> Answering:
        asked = (path, body) if prefix is None else (path, body, prefix)
        parts = self._parts(asked)
        try:
            status = await anext(parts)
        except StopAsyncIteration:
            raise Unavailable(
                f"{self._who} ended a request without an answer", "try again"
            ) from None
        assert isinstance(status, int)
        return Answering(status, self._body(parts))

    async def _body(self, parts: AsyncGenerator[int | bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            async for part in parts:
                assert isinstance(part, bytes)
                yield part
        finally:
            await parts.aclose()

    async def _parts(self, asked: tuple[Any, ...]) -> AsyncGenerator[int | bytes, None]:
        response: Any = self._ask.remote(*asked)
        is_over = False
        try:
            async for part in response:
                yield part
            is_over = True
        except GONE as error:
            is_over = True
            raise not_there(self._who, error) from error
        except RayTaskError as error:
            is_over = True
            log.error("engine_failed", extra={"engine": self._who}, exc_info=error)
            raise Unavailable(f"{self._who} failed", "try again") from error
        finally:
            if not is_over:  # nobody wants the rest: the engine stops working on it
                with suppress(RequestCancelledError):
                    response.cancel()
