"""The released adapters that one replica of an engine holds.

vLLM has places for so many; who gets one, and who has to go, is decided as for whole models
(shelf.py): one that is answering is never unloaded, and one that many ask for not for one that few
do, unless the place for those is at a long answer. Files are checked before vLLM reads them.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rayapp.errors import DataError
from rayapp.schemas.language import Adapter
from rayapp.schemas.model import FileDigest
from rayapp.schemas.record import short
from rayapp.shelf import Shelf
from rayapp.storage import Workspace, present_files

log = logging.getLogger("rayapp.llm.adapters")

NEWCOMERS = 1
"""Places where those that nobody asked for yet push out one another."""
Load = Callable[[str, Path], Awaitable[None]]
Unload = Callable[[str], Coroutine[Any, Any, None]]


def rank_of(folder: Path) -> int:
    """The largest of its layers."""
    config = json.loads((folder / "adapter_config.json").read_bytes())
    return max(int(rank) for rank in (config["r"], *config.get("rank_pattern", {}).values()))


def local_adapter(adapter: Adapter, workspace: Workspace) -> Path:
    """Have it on this node. Raises TamperedError unless every file is what was released."""
    listed = [FileDigest(path=p, sha256=sha, num_bytes=0) for p, sha in adapter.files]
    cache = workspace.local / "adapters" / adapter.release_id
    # merged weights may lie in a folder of their own beside the adapter: no engine reads them
    return present_files(adapter.uri, listed, cache, lambda path: "/" not in path)


class Adapters:
    """load: into the engine, by release id, from a folder; unload: out of it again. max_adapters:
    held at a time, at least 1. Used on one event loop."""

    def __init__(
        self, load: Load, unload: Unload, max_adapters: int, max_rank: int, workspace: Workspace
    ) -> None:
        self._load = load
        self._unload = unload
        self._max_rank = max_rank
        self._workspace = workspace
        self._wanted: dict[str, Adapter] = {}
        self._going: set[asyncio.Task[None]] = set()
        self._shelf: Shelf[None] = Shelf(
            self._loaded,
            max_adapters,
            num_loads=1,  # the engine takes one at a time
            on_unload=self._unloaded,
            newcomers_bytes=NEWCOMERS,
            unit="places",
            yields_idle=True,
        )

    def held(self) -> list[str]:
        """Release ids."""
        return sorted(self._shelf.loaded())

    @asynccontextmanager
    async def use(self, adapter: Adapter) -> AsyncIterator[None]:
        """It is in the engine until the block ends. Raises TamperedError where its files are not
        what was released, DataError where the engine does not take it, and Unavailable where all
        places are in use."""
        self._wanted[adapter.release_id] = adapter
        async with self._shelf.use(adapter.release_id, 1):
            self._wanted.pop(adapter.release_id, None)
            yield

    async def _loaded(self, release_id: str) -> None:
        adapter = self._wanted[release_id]
        folder = await asyncio.to_thread(local_adapter, adapter, self._workspace)
        await asyncio.gather(*self._going)  # their places are free before another takes one
        rank = await asyncio.to_thread(rank_of, folder)
        if rank > self._max_rank:
            raise DataError(
                f"adapter {short(release_id)} has rank {rank}, `max_adapter_rank` of the engine is "
                f"{self._max_rank}",
                "raise it, or train again with a smaller rank",
            )
        try:
            await self._load(release_id, folder)
        except ValueError as error:
            log.error("adapter_not_loaded", extra={"release_id": release_id}, exc_info=error)
            raise DataError(
                f"the engine does not take adapter {short(release_id)}",
                "the engine's log says why; train again for the weights that it serves",
            ) from error
        log.info("adapter_loaded", extra={"release_id": release_id})

    def _unloaded(self, release_id: str, _: None) -> None:
        going = asyncio.get_running_loop().create_task(self._gone(release_id))
        self._going.add(going)
        going.add_done_callback(self._going.discard)

    async def _gone(self, release_id: str) -> None:
        try:
            await self._unload(release_id)
        except Exception:  # whoever takes its place finds out whether there is room
            log.exception("adapter_not_unloaded", extra={"release_id": release_id})
