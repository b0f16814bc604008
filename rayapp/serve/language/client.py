"""An engine as a gateway sees it, behind the LlmClient port: replicas by Ray Serve's handle to
them, or one in the gateway's own process."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.exceptions import RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from rayapp.errors import RayappError, Unavailable, public_reason
from rayapp.schemas.language import Adapter, Answering, Open, Prefix
from rayapp.serve.handles import GONE, not_there

log = logging.getLogger("rayapp.serve.language.client")

FIND_S = 1.0
"""Longer than this nobody waits for an engine to be looked up."""
HEARD_S = 0.2
"""A handle that is new has heard of its replicas by then."""


class AdapterUnavailable(Unavailable):
    """An engine that is well has no place for an adapter, or does not take it."""


class ServeLlm:
    """name: of the engine, for messages. find: its handle; blocks for as long as Serve's controller
    is away, raises RayServeException where the engine is not deployed (yet), one of GONE where the
    controller is dead."""

    def __init__(self, name: str, find: "Callable[[], DeploymentHandle[Any]]") -> None:
        self._who = f"the replicas of engine {name!r}"
        self._find = find
        self._ask: Any = None
        self._looking: asyncio.Task[Exception | None] | None = None
        # of its own: long bodies share asyncio's, and this one may wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="find")

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        ask = self._ask
        if ask is None:
            ask = await self._found()
        if adapter is not None:  # to a replica that holds it
            ask = ask.options(multiplexed_model_id=adapter.release_id)
        return await _begun(self._who, self._parts(ask, (path, body, prefix, adapter)))

    async def is_there(self) -> bool:
        ask = self._ask
        if ask is None:
            try:
                ask = await self._found()
            except Unavailable:
                return False
            await asyncio.sleep(HEARD_S)
        return _has_replica(ask)

    async def _found(self) -> Any:
        """Who wait at the same time share one look-up. It goes on when nobody waits any more, so
        that there is one at most, and what it finds is there for the next. Raises Unavailable."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_up())
        looking = self._looking
        await asyncio.wait({looking}, timeout=FIND_S)
        error = looking.result() if looking.done() else TimeoutError(f"not found in {FIND_S:g} s")
        if error is None:
            return self._ask
        if not isinstance(error, (RayServeException, TimeoutError, *GONE)):
            raise error
        raise not_there(self._who, error) from error

    async def _look_up(self) -> Exception | None:
        """Why there is no handle yet; None once there is."""
        try:
            loop = asyncio.get_running_loop()
            handle: Any = await loop.run_in_executor(self._thread, self._find)
            # Not in the thread: here Serve makes the handle's router, for the loop that it is on.
            # By value: a token is a message, which would cost more through the object store.
            self._ask = handle.options(stream=True, _by_reference=False, method_name="open")
        except (RayServeException, *GONE) as error:
            return error
        except Exception as error:
            log.exception("engine_not_looked_up")  # who waited may be gone
            return error
        finally:
            self._looking = None
        return None

    async def _parts(self, ask: Any, asked: tuple[Any, ...]) -> AsyncGenerator[int | bytes, None]:
        response: Any = ask.remote(*asked)
        is_over = False
        try:
            async for part in response:
                yield part
            is_over = True
        except GONE as error:
            is_over = True
            raise not_there(self._who, error) from error
        except Exception as error:  # what a replica raised: by value it comes as it is
            is_over = True
            raise _failed(self._who, error) from error
        finally:
            if not is_over:  # nobody wants the rest: the engine stops working on it
                with suppress(RequestCancelledError):
                    response.cancel()


class InlineLlm:
    """An engine in this process: no message passes another one. open_: its own."""

    def __init__(self, name: str, open_: Open) -> None:
        self._who = f"engine {name!r}"
        self._open = open_

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Answering:
        return await _begun(self._who, self._parts(path, body, prefix, adapter))

    async def is_there(self) -> bool:
        return True

    async def _parts(self, *asked: Any) -> AsyncGenerator[int | bytes, None]:
        try:
            async with aclosing(self._open(*asked)) as parts:
                async for part in parts:
                    yield part
        except Exception as error:
            raise _failed(self._who, error) from error


def _has_replica(handle: Any) -> bool:
    # the public `running_replicas_populated` stays true once there was one
    router = handle._router._asyncio_router._request_router
    return router is not None and bool(router.curr_replicas)


async def _begun(who: str, parts: AsyncGenerator[int | bytes, None]) -> Answering:
    try:
        status = await anext(parts)
    except StopAsyncIteration:
        raise Unavailable(f"{who} ended a request without an answer", "try again") from None
    assert isinstance(status, int)
    return Answering(status, _body(parts))


async def _body(parts: AsyncGenerator[int | bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for part in parts:
            assert isinstance(part, bytes)
            yield part
    finally:
        await parts.aclose()


def _failed(who: str, error: Exception) -> Unavailable:
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RayappError):
        log.warning("adapter_not_held", extra={"engine": who, "reason": cause.what})
        return AdapterUnavailable(public_reason(cause), cause.next_step)
    log.error("engine_failed", extra={"engine": who}, exc_info=error)
    return Unavailable(f"{who} failed", "try again")
