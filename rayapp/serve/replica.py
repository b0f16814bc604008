"""The gateway as a Ray Serve deployment: one process that answers, follows and commits."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from rayapp.config.routing import FlagConfig
from rayapp.config.serving import GatewayConfig, ServingConfig
from rayapp.config.tenants import PeriodConfig
from rayapp.families.bundle import Bundle
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.background import Background
from rayapp.serve.batching import Batcher
from rayapp.serve.callers.budgets import Bank, Budgets
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Grant, Keeper, Lease, Limiter
from rayapp.serve.cluster import door
from rayapp.serve.cluster.grpc_ingress import GrpcMethods
from rayapp.serve.cluster.scaling import Load, ScalingPolicy
from rayapp.serve.cluster.shared import Owner, SharedActor, shared_actor
from rayapp.serve.feeds import Feeds
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower, Loaded, OpenRelease, ReadPointers, endpoint_of
from rayapp.serve.front import Front
from rayapp.serve.gateway import Gateway
from rayapp.serve.loading import Evaluated, Inline, Store
from rayapp.serve.meter import ServeMeter
from rayapp.serve.pool.client import Pool, Pooled, pinned_in
from rayapp.serve.pool.replica import planner, pool
from rayapp.serve.predicting import RecordSink
from rayapp.serve.tracing.otlp import OtlpTracer
from rayapp.serve.tracing.span import Tracer
from rayapp.serve.wire.http import Receive, Scope, Send
from rayapp.telemetry import configure_logging


class RequestLog(Protocol):
    """Where records go, and how they get from this node to their tables. Implemented by
    observe.node_log.NodeLog."""

    @property
    def feedback(self) -> RecordSink: ...
    def predictions(self, endpoint: str) -> RecordSink: ...
    def commit(self) -> int: ...
    def flush(self) -> int: ...


SWITCH_INTERVAL_S = 0.0005
KEEPER_WAIT_S = 0.25
"""Longer than this no request waits for the keeper of the limits."""


@dataclass(frozen=True)
class Parts:
    """What other rooms give a replica; made inside it, by a function that serve_apps passes."""

    read_pointers: ReadPointers
    read_keys: Callable[[], Mapping[str, ApiKey]]
    store: Store
    log: RequestLog
    bank: Bank | None = None
    """Where budgets are kept; None where none are configured."""
    settle: Callable[[], object] = lambda: None
    """Ends what dead gateways have borrowed from the bank; called after each commit."""
    feeds: Feeds | None = None
    """What endpoints look up; None where none do."""
    read_flags: Callable[[], Mapping[str, FlagConfig]] | None = None
    """None where no rule asks a feature flag."""


class ServeHooks:
    """What Ray Serve asks of a replica that is a gateway. paths: what its door opens to, as
    door.open_to has it."""

    def __init__(self, gateway: Front, paths: tuple[str, ...] = door.HOT_PATHS) -> None:
        # A thread that wants Python's lock gets it after so long; the default of 5 ms, twenty
        # times an answer, is what a request would wait for each look at the ledger.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._gateway = gateway
        self._paths = paths
        self._load = Load(lambda: gateway.num_ongoing)

    def asgi_app(self) -> "BehindServe":
        """To be called on the event loop of the replica's HTTP server."""
        door.open_to(self._gateway, self._paths)
        return BehindServe(self._gateway)

    def autoscaling_stats(self) -> dict[str, float]:
        return self._load.figures()


class BehindServe:
    """The gateway inside Ray Serve's wrapper, which sends the x-request-id header itself."""

    def __init__(self, gateway: Front) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.run(scope, receive, send, sends_request_id=False)


@serve.ingress()
class GatewayReplica(GrpcMethods):
    def __init__(
        self,
        config: ServingConfig,
        connect: Callable[[ServingConfig], Parts],
        pools: Mapping[str, "DeploymentHandle[Any]"],
    ) -> None:
        configure_logging()
        meter = ServeMeter()
        parts = connect(config)
        owner = Owner.here(parts.store.workspace)
        made = {
            name: Pool(name, config.pools[name], handle, planner(owner, name, config.pools[name]))
            for name, handle in pools.items()
        }
        opener = make_opener(config, parts.store, made, meter)
        follower = ChampionFollower(parts.read_pointers, opener)
        keys = KeyRing(parts.read_keys, config.requires_key)

        flags = Flags(parts.read_flags) if parts.read_flags is not None else None

        def commit() -> None:
            parts.log.commit()
            parts.settle()

        self.gateway = Gateway(
            config,
            follower,
            parts.log.predictions,
            parts.log.feedback,
            meter,
            Background(
                Lookout(config, keys, follower, made, flags, parts.feeds).look,
                config.follow_every_ms / 1000,
                commit,
                config.commit_every_s,
                parts.log.flush,
            ),
            now=lambda: datetime.now(UTC),
            keys=keys,
            limiter=make_limiter(config, owner),
            budgets=make_budgets(config.budgets, parts.bank, config.deadline_ms),
            feeds=parts.feeds,
            flags=flags,
            tracer=make_tracer(config, meter),
        )
        self._hooks = ServeHooks(self.gateway)

    async def __serve_build_asgi_app__(self) -> BehindServe:
        return self._hooks.asgi_app()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve asks for these by this name."""
        return self._hooks.autoscaling_stats()


@dataclass(frozen=True)
class Lookout:
    """Sees what has moved, and tells pools what follows from it. Only a start, which has all the
    patience, waits for feeds to be read: a table takes seconds, and revocations and rollbacks come
    by the next look."""

    config: ServingConfig
    keys: KeyRing
    follower: ChampionFollower[Loaded]
    pools: Mapping[str, Pool]
    flags: Flags | None
    feeds: Feeds | None

    def look(self, patience_s: float | None) -> None:
        self.keys.refresh()
        if self.flags is not None:
            self.flags.refresh()
        self.follower.refresh(patience_s)
        for name, one in self.pools.items():
            one.keep_pinned(pinned_in(name, self.config, self.follower.current))
        if self.feeds is not None:
            self.feeds.refresh(None if patience_s is None else 0)


def make_opener(
    config: ServingConfig,
    store: Store,
    pools: Mapping[str, Pool],
    meter: ServeMeter,
) -> OpenRelease:
    """Where each endpoint's releases answer, as its placement says."""

    def make_batcher(endpoint: str, bundle: Bundle) -> Batcher:
        return Batcher(
            bundle.score,
            config.max_batch_rows,
            config.batch_wait_ms,
            lambda num_rows: meter.batch(endpoint, num_rows),
        )

    inline: OpenRelease = Inline(store, make_batcher)
    evaluated = config.evaluated()
    pinned = {name for name, endpoint in config.endpoints.items() if endpoint.is_pinned}

    def open_release(key: str, release_id: str, previous: Loaded | None) -> Loaded:
        endpoint = endpoint_of(key)
        found = pools.get(config.placement_of(endpoint))
        opener = inline if found is None else Pooled(store, found, pinned)
        if endpoint in evaluated:
            opener = Evaluated(store, opener)
        return opener(key, release_id, previous)

    return open_release


def make_limiter(config: GatewayConfig, owner: Owner) -> Limiter | None:
    """One that leases from the application's keeper of these limits. Another configuration has
    another keeper, while replicas of both may answer side by side."""
    if config.limits is None:
        return None
    keeper = shared_actor(owner, "limits", Keeper, config.limits, config.limits)
    return Limiter(config.limits, lease_by(keeper, "lease"), share=1 / config.max_replicas)


def lease_by(keeper: SharedActor, method: str) -> Lease:
    """Asks a Keeper by one of its methods, and does not wait for it long."""

    async def lease(tenant: str, wanted: float) -> Grant:
        async with asyncio.timeout(KEEPER_WAIT_S):
            grant: Grant = await getattr(keeper.actor, method).remote(tenant, wanted)
        return grant

    return lease


def make_tracer(config: GatewayConfig, meter: ServeMeter) -> Tracer | None:
    if config.tracing is None:
        return None
    return OtlpTracer(config.tracing, "rayapp-gateway", meter.dropped_spans)


def make_budgets(
    config: PeriodConfig | None, bank: Bank | None, deadline_ms: float
) -> Budgets | None:
    if config is None or bank is None:
        return None
    return Budgets(config, bank, deadline_ms / 1000)


def deployment_options(config: GatewayConfig, num_gpus: float = 0) -> dict[str, Any]:
    """Of a gateway's deployment."""
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=config.min_replicas,
            max_replicas=config.max_replicas,
            target_ongoing_requests=config.target_ongoing_requests,
            upscale_delay_s=config.upscale_delay_s,
            downscale_delay_s=config.downscale_delay_s,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function=ScalingPolicy,
                policy_kwargs={
                    "target_busy_share": config.target_busy_share,
                    "target_ongoing": config.target_ongoing_requests,
                },
            ),
        ),
        # A new configuration's replicas answer before the old ones go: by default Serve would stop
        # the only replica there is, and start another.
        "max_surge_percent": 100,
        # Serve's default of 20 s would cut answers that may take longer.
        "graceful_shutdown_timeout_s": max(20.0, config.deadline_ms / 1000),
        "max_ongoing_requests": config.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": config.num_cpus, "num_gpus": num_gpus},
    }


def inline_options(config: GatewayConfig) -> dict[str, Any]:
    """Of a deployment whose replicas are gateways and hold a model that takes their hardware: no
    second one may be there for a moment, as with `max_surge_percent`."""
    options = deployment_options(config)
    names = ("autoscaling_config", "graceful_shutdown_timeout_s", "max_ongoing_requests")
    return {name: options[name] for name in names}


def gateway(
    config: ServingConfig,
    connect: Callable[[ServingConfig], Parts],
    connect_store: Callable[[ServingConfig], Store],
) -> Application:
    """The gateway and the pools behind it. connect runs in each of its replicas, connect_store in
    each of a pool's; they must be importable there."""
    pools = {name: pool(name, config, connect_store) for name in config.pools}
    deploy = serve.deployment(name="gateway", **deployment_options(config, config.num_gpus))
    bound: Application = deploy(GatewayReplica).bind(config, connect, pools)
    return bound
