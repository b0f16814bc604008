"""An engine that listens on a port: bare vLLM, behind the port LlmClient."""

from collections.abc import AsyncGenerator

import httpx

from rayapp.errors import Unavailable
from rayapp.schemas.language import Adapter, Answering, Prefix
from rayapp.serve.language.client import AdapterUnavailable


class HttpLlm:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        if adapter is not None:
            raise AdapterUnavailable("a bare engine loads no adapters", "ask for its own weights")
        headers = {"content-type": "application/json"}
        request = self._client.build_request("POST", path, content=body, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise Unavailable(f"the engine is not there ({error})", "start it") from error
        started = _body(response)
        await anext(started)  # so that closing it closes the connection
        return Answering(response.status_code, started)

    async def is_there(self) -> bool:
        try:
            return (await self._client.get("/health")).is_success
        except httpx.TransportError:
            return False


async def _body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    try:
        yield b""
        async for piece in response.aiter_bytes():
            yield piece
    except httpx.TransportError as error:
        raise Unavailable(f"the engine's answer broke off ({error})", "ask again") from error
    finally:
        await response.aclose()
