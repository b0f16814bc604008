"""A pool as a Ray Serve deployment: replicas that hold many models, and answer encoded rows."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from rayapp.config.replicas import PoolConfig
from rayapp.config.serving import ServingConfig
from rayapp.errors import Unavailable
from rayapp.families.base import Floats
from rayapp.serve.cluster.scaling import Load, ScalingPolicy
from rayapp.serve.cluster.shared import Owner, SharedActor, shared_actor
from rayapp.serve.loading import Store
from rayapp.serve.meter import PoolMeter
from rayapp.serve.pool.model import Model, Opener
from rayapp.serve.pool.plan import PLANNER_WAIT_S, ModelLoad, Plan, Planner, Report
from rayapp.serve.pool.router import ModelRouter
from rayapp.serve.pool.scorer import Outcome, Part, Traces
from rayapp.serve.tracing.otlp import OtlpTracer
from rayapp.serve.tracing.span import Fact, Together, Tracer
from rayapp.shelf import HELD, Shelf
from rayapp.telemetry import configure_logging

log = logging.getLogger("rayapp.serve.pool.replica")

REPORT_EVERY_S = 1.0


def planner(owner: Owner, name: str, config: PoolConfig) -> SharedActor:
    """The actor that plans this pool. Another configuration has another planner, while replicas of
    both may answer side by side."""
    return shared_actor(owner, f"pool-{name}", Planner, config, config.target_busy_share)


class PoolReplica:
    _tracer: Tracer | None = None

    def __init__(
        self,
        name: str,
        config: ServingConfig,
        connect: Callable[[ServingConfig], Store],
    ) -> None:
        configure_logging()
        self._config = config.pools[name]
        self._meter = PoolMeter(name)
        store = connect(config)
        self._opener = Opener(store, self._config, self._meter)
        if config.tracing is not None:
            service = f"rayapp-pool-{name}"
            self._tracer = OtlpTracer(config.tracing, service, self._meter.dropped_spans)
        self._num_ongoing = 0
        self._load = Load(lambda: self._num_ongoing)
        self._shelf: Shelf[Model] = Shelf(
            self._opener.load,
            self._config.max_model_bytes,
            self._config.max_loads,
            self._meter.ask,
        )
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._planner = planner(Owner.here(store.workspace), name, self._config)
        self._reported_s = time.monotonic()
        self._preparing: set[asyncio.Task[None]] = set()
        self._stock()
        self._reporting = asyncio.get_running_loop().create_task(self._report_on())

    def __del__(self) -> None:
        """Ray Serve calls this by its name when the replica has drained."""
        if hasattr(self, "_meter"):  # else it could not even begin
            self._meter.flush()
        if self._tracer is not None:
            self._tracer.close()

    async def score(
        self, release_id: str, num_bytes: int, parts: Sequence[Part], traces: Traces = ()
    ) -> list[Outcome]:
        """Outcomes of the parts, by the release's model. Raises Unavailable where there is no room
        for it."""
        if not traces or self._tracer is None:
            return await self._scored(release_id, num_bytes, parts)
        facts: list[dict[str, Fact]] = [
            {"rayapp.release": release_id, "rayapp.rows": len(x_NF)} for x_NF, _ in parts
        ]
        with Together(self._tracer, "score", traces, facts) as together:
            together.outcomes = outcomes = await self._scored(release_id, num_bytes, parts)
            return outcomes

    async def _scored(
        self, release_id: str, num_bytes: int, parts: Sequence[Part]
    ) -> list[Outcome]:
        now_s = time.monotonic()
        self._num_ongoing += 1
        try:
            async with self._shelf.use(release_id, num_bytes) as model:
                asked = [model.batcher.predict(x_NF, now_s + left_s) for x_NF, left_s in parts]
                outcomes = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            self._num_ongoing -= 1
        return [_outcome(one) for one in outcomes]

    async def prepare(self, release_id: str, num_bytes: int, is_pinned: bool) -> None:
        """Have a release's model before it is asked. Raises Unavailable where there is no room."""
        await self._shelf.prepare(release_id, num_bytes, is_pinned=is_pinned)

    async def follow(self, release_id: str, num_bytes: int, like: str) -> None:
        """The same, where this replica holds the model that the release is to follow."""
        if like in self._shelf.held():
            await self._shelf.prepare(release_id, num_bytes, like)

    def record_routing_stats(self) -> dict[str, Any]:
        """Ray Serve asks for these by this name."""
        return {HELD: sorted(self._shelf.held())}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve asks for these by this name."""
        return self._load.figures()

    def _stock(self) -> None:
        """What others hold is here before the first request."""
        try:
            asked = self._planner.actor.first.remote(self._shelf.main_bytes)
            wanted: Mapping[str, int] = ray.get(asked, timeout=PLANNER_WAIT_S)
        except Exception:
            log.warning("pool_without_planner", exc_info=True)
            return
        for release_id, num_bytes in wanted.items():
            try:
                self._shelf.stock(release_id, num_bytes, self._opener.open(release_id))
            except Exception:
                log.exception("model_not_stocked", extra={"release_id": release_id})

    async def _report_on(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                await self._report()
            except Exception:  # the planner is away: what is held is kept
                log.warning("pool_without_planner", exc_info=True)

    async def _report(self) -> None:
        now_s = time.monotonic()
        passed_s, self._reported_s = now_s - self._reported_s, now_s
        models = {}
        for release_id, (num_bytes, model) in self._shelf.loaded().items():
            busy = (model.busy_s - model.reported_s) / passed_s
            model.reported_s = model.busy_s
            models[release_id] = ModelLoad(num_bytes, busy, self._shelf.heat(release_id))
        self._meter.held(len(models), self._shelf.used_bytes)
        async with asyncio.timeout(PLANNER_WAIT_S):
            plan: Plan = await self._planner.actor.report.remote(
                self._replica, Report(self._shelf.main_bytes, models)
            )
        self._shelf.pin(plan.pinned, plan.knows_all)
        for release_id, num_bytes in plan.wanted.items():
            task = asyncio.get_running_loop().create_task(
                self._prepared(release_id, num_bytes, release_id in plan.pinned)
            )
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    async def _prepared(self, release_id: str, num_bytes: int, is_pinned: bool) -> None:
        try:
            await self._shelf.prepare(release_id, num_bytes, is_pinned=is_pinned)
        except Unavailable as error:
            log.info("model_not_prepared", extra={"release_id": release_id, "why": error.what})
        except Exception:
            log.exception("model_not_prepared", extra={"release_id": release_id})


def _outcome(one: "Floats | BaseException") -> Outcome:
    if isinstance(one, np.ndarray | Exception):
        return one
    raise one


def pool(
    name: str, config: ServingConfig, connect: Callable[[ServingConfig], Store]
) -> Application:
    """connect runs in each replica and must be importable there."""
    own = config.pools[name]
    scaling = AutoscalingConfig(
        min_replicas=own.min_replicas,
        max_replicas=own.max_replicas,
        target_ongoing_requests=own.target_ongoing_requests,
        upscale_delay_s=own.upscale_delay_s,
        downscale_delay_s=own.downscale_delay_s,
        policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
            policy_function=ScalingPolicy,
            policy_kwargs={
                "target_busy_share": own.target_busy_share,
                "target_ongoing": own.target_ongoing_requests,
            },
        ),
    )
    deploy = serve.deployment(
        name=f"pool-{name}",
        autoscaling_config=scaling,
        max_surge_percent=100,
        max_ongoing_requests=own.max_ongoing_requests,
        request_router_config=RequestRouterConfig(
            request_router_class=ModelRouter,  # type: ignore[arg-type]
            request_routing_stats_period_s=REPORT_EVERY_S,  # type: ignore[arg-type]
        ),
        ray_actor_options={"num_cpus": own.num_cpus, "num_gpus": own.num_gpus},
    )
    bound: Application = deploy(PoolReplica).bind(name, config, connect)
    return bound
