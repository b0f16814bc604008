"""A pool as a gateway replica sees it: calls through Ray Serve's handle, and whose trouble is
whose."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from rayapp.config.replicas import PoolConfig
from rayapp.config.serving import ServingConfig
from rayapp.errors import RayappError, Unavailable
from rayapp.schemas.model import BundleRef
from rayapp.schemas.record import short
from rayapp.serve.cluster.shared import SharedActor
from rayapp.serve.follow import Loaded, endpoint_of
from rayapp.serve.handles import GONE, not_there
from rayapp.serve.loading import RowsOnly, Store, sealed_for
from rayapp.serve.pool.plan import PLANNER_WAIT_S
from rayapp.serve.pool.scorer import Outcome, Part, PoolScorer, Traces
from rayapp.serve.wire.rows import row_encoder

log = logging.getLogger("rayapp.serve.pool.client")

PIN_EVERY_S = 1.0
PREPARE_S = 120
"""Longer than this no new release is waited for; it is tried again."""


class Pool:
    """Made on the event loop of the replica."""

    def __init__(
        self, name: str, config: PoolConfig, handle: "DeploymentHandle[Any]", planner: SharedActor
    ) -> None:
        self._name = name
        self._who = f"the replicas of pool {name!r}"
        self._config = config
        # by value: half the price of a hop through the object store's references
        self._handle = handle.options(_by_reference=False)
        self._planner = planner
        self._loop = asyncio.get_running_loop()
        self._pinning: Future[None] | None = None

    def scorer(self, release_id: str, num_bytes: int) -> PoolScorer:
        ask = self._handle.options(method_name="score", multiplexed_model_id=release_id)

        async def call(parts: Sequence[Part], traces: Traces) -> list[Outcome]:
            asked = (parts, traces) if traces else (parts,)
            try:
                outcomes: list[Outcome] = await ask.remote(release_id, num_bytes, *asked)
            except GONE as error:
                raise not_there(self._who, error) from error
            except RayTaskError as error:
                raise _cause(error) from None
            return outcomes

        return PoolScorer(call, self._config.max_batch_rows, self._config.max_calls)

    def prepare(self, release_id: str, num_bytes: int, like: str | None, is_pinned: bool) -> None:
        """Blocks until a replica holds the release, and all that hold `like` do. Called off the
        event loop. Raises Unavailable, or what loading it raises."""
        prepared = asyncio.run_coroutine_threadsafe(
            self._prepared(release_id, num_bytes, like, is_pinned), self._loop
        )
        try:
            prepared.result(PREPARE_S)
        except TimeoutError:
            prepared.cancel()  # else each try would leave one that waits for the same load
            raise Unavailable(
                f"pool {self._name!r} did not load release {short(release_id)} in {PREPARE_S} s",
                "see the pool's replicas in the dashboard",
            ) from None

    def keep_pinned(self, models: Mapping[str, int]) -> None:
        """Say that these are never to be unloaded, as must be said again and again (plan.py). Does
        not block, nor raise. Called off the event loop, by one thread at a time."""
        if self._pinning is None or self._pinning.done():
            pinning = self._pinned_a_while(models)
            self._pinning = asyncio.run_coroutine_threadsafe(pinning, self._loop)

    async def _pinned_a_while(self, models: Mapping[str, int]) -> None:
        await self._pin(models)
        await asyncio.sleep(PIN_EVERY_S)

    async def _pin(self, models: Mapping[str, int]) -> None:
        try:
            async with asyncio.timeout(PLANNER_WAIT_S):
                await self._planner.actor.pin.remote(dict(models))
        except Exception:  # it is away: what is held is kept meanwhile
            log.warning("pool_without_planner", exc_info=True)

    async def _prepared(
        self, release_id: str, num_bytes: int, like: str | None, is_pinned: bool
    ) -> None:
        try:
            if like is not None:
                followed = self._handle.broadcast("follow", release_id, num_bytes, like)
                await followed.results_async()
            at_home = self._handle.options(method_name="prepare", multiplexed_model_id=release_id)
            await at_home.remote(release_id, num_bytes, is_pinned)
            if is_pinned:  # now that it is there; the one before it stays so until it has gone
                await self._pin({release_id: num_bytes})
        except GONE as error:
            raise not_there(self._who, error) from error
        except RayTaskError as error:
            raise _cause(error) from None


class Pooled:
    """OpenRelease for models that answer in a pool. One that takes another's place is loaded there
    before it does; one that is pinned, before it is asked at all. pinned: endpoints whose champions
    are, though not their other releases."""

    def __init__(self, store: Store, pool: Pool, pinned: AbstractSet[str]) -> None:
        self._store = store
        self._pool = pool
        self._pinned = pinned

    def __call__(self, key: str, release_id: str, previous: Loaded | None) -> Loaded:
        endpoint, is_pinned = endpoint_of(key), key in self._pinned
        manifest = sealed_for(self._store, endpoint, release_id)
        num_bytes = size_of(manifest.bundle)
        if previous is not None or is_pinned:
            like = previous.release_id if previous is not None else None
            self._pool.prepare(release_id, num_bytes, like, is_pinned)
        schema = manifest.bundle.bundle_schema
        scorer = self._pool.scorer(release_id, num_bytes)
        encoder = row_encoder(schema)
        return Loaded(endpoint, release_id, manifest, RowsOnly(schema), scorer, encoder)


def pinned_in(pool: str, config: ServingConfig, current: Mapping[str, Loaded]) -> dict[str, int]:
    """The champions that a pool has to keep, with their bytes."""
    champions = [
        current[name]
        for name, endpoint in config.endpoints.items()
        if endpoint.is_pinned and config.placement_of(name) == pool and name in current
    ]
    return {one.release_id: size_of(one.manifest.bundle) for one in champions}


def size_of(bundle: BundleRef) -> int:
    """What a model is taken to need in memory: as much as its files on disk."""
    return sum(file.num_bytes for file in bundle.files)


def _cause(error: RayTaskError) -> Exception:
    """What was raised over there, where it is one of ours, which knows what to tell a caller."""
    cause = error.cause
    return cause if isinstance(cause, RayappError) else error
