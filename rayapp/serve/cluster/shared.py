"""Actors that the replicas of an application share, one of each kind.

    replica ── tend: "I am here" ──▶ actor
            ── start it ──▶          (where it has ended)

They are detached: the replica that happened to start one may be the first to go. So Ray never ends
them, and each new configuration starts others, while replicas of the one before still drain. None
of them can say when the last has gone, least of all where the application is deleted; so an actor
ends itself, once no replica has tended it for a while.

That is safe even where one lives that could not: who uses such an actor copes with its death, which
may come at any time. A gateway admits its share of the rate by itself, a pool's replicas keep what
they hold, and the next tend starts another.
"""

import asyncio
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError

from rayapp.config.load import Config
from rayapp.schemas.record import canonical_json
from rayapp.storage import sha256

log = logging.getLogger("rayapp.serve.cluster.shared")

NAMESPACE = "rayapp"
TEND_EVERY_S = 10.0
ENDS_AFTER_S = 60.0
"""Untended: some tends may be late, or lost."""


@dataclass(frozen=True)
class Owner:
    """Whose replicas share it. workspace: a URI. Of another one, models and callers are others."""

    application: str
    workspace: str

    @classmethod
    def here(cls, workspace: str) -> "Owner":
        """Inside a replica."""
        return cls(serve.get_replica_context().app_name, workspace)

    def name(self, role: str, kind: type, config: Config) -> str:
        """Of an actor of this kind and configuration."""
        settings = config.model_dump(mode="json")
        code = inspect.getsource(sys.modules[kind.__module__])  # may answer otherwise when mended
        made_of = [role, self.application, self.workspace, settings, code]
        return f"{role}-{self.application}-{sha256(canonical_json(made_of))[:12]}"


class Tended:
    """The first base of such an actor's class."""

    def __init__(self, ends_after_s: float, *args: Any) -> None:
        super().__init__(*args)
        self._ends_after_s = ends_after_s
        self._tended_s = time.monotonic()
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._end_untended, args=(me,), daemon=True).start()

    def tend(self) -> None:
        self._tended_s = time.monotonic()

    def _end_untended(self, me: Any) -> None:
        while (left_s := self._tended_s + self._ends_after_s - time.monotonic()) > 0:
            time.sleep(left_s)
        ray.kill(me, no_restart=True)


class SharedActor:
    """One replica's hold on it. start: gives the one that there is, else a new one; may block.
    Made on the event loop."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self.actor = start()
        self._start = start
        self._tending = asyncio.get_running_loop().create_task(self._tend_on())

    async def _tend_on(self) -> None:
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            try:
                await self._tend()
            except Exception:
                log.warning("shared_actor_away", exc_info=True)

    async def _tend(self) -> None:
        try:
            async with asyncio.timeout(TEND_EVERY_S):
                await self.actor.tend.remote()
        except ActorDiedError:  # for good: what Ray restarts by itself is only unavailable
            self.actor = await asyncio.to_thread(self._start)


def shared_actor(owner: Owner, role: str, kind: type, config: Config, *args: Any) -> SharedActor:
    """kind: its class, which knows nothing of Ray; args: what it is made with."""
    name = owner.name(role, kind, config)
    tended = type(kind.__name__, (Tended, kind), {})  # the process shows by this name

    def start() -> Any:
        remote: Any = ray.remote(num_cpus=0, max_restarts=-1)(tended)
        options = {"namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        return remote.options(name=name, **options).remote(ENDS_AFTER_S, *args)

    return SharedActor(start)
