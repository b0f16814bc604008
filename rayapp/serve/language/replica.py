"""The gateway of language models as a Ray Serve deployment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from rayapp.config.language import LanguageConfig
from rayapp.config.routing import FlagConfig
from rayapp.schemas.language import LlmClient, Open, WeightsRef
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.background import Background
from rayapp.serve.callers.budgets import Bank
from rayapp.serve.callers.identity import KeyRing
from rayapp.serve.callers.limits import Keeper
from rayapp.serve.callers.token_limits import TokenLimiter
from rayapp.serve.cluster.shared import Owner, shared_actor
from rayapp.serve.flags import Flags
from rayapp.serve.follow import ChampionFollower, ReadPointers
from rayapp.serve.language.adapters import AdapterOpener
from rayapp.serve.language.charges import Payers
from rayapp.serve.language.client import InlineLlm, ServeLlm
from rayapp.serve.language.gateway import ROOT, LanguageGateway
from rayapp.serve.language.served import CountTokens, Engine
from rayapp.serve.loading import Store
from rayapp.serve.meter import ServeMeter
from rayapp.serve.predicting import RecordSink
from rayapp.serve.replica import (
    BehindServe,
    ServeHooks,
    deployment_options,
    lease_by,
    make_budgets,
    make_limiter,
    make_tracer,
)
from rayapp.telemetry import configure_logging


class PromptLog(Protocol):
    """Implemented by observe.node_log.NodeLog."""

    def prompts(self, endpoint: str) -> RecordSink: ...
    def commit(self) -> int: ...
    def flush(self) -> int: ...


@dataclass(frozen=True)
class LanguageParts:
    """What other rooms give a replica; made inside it, by a function that serve_apps passes.
    read_pointers: to champions that are language models. counter: of a model's tokens, by its
    weights. find: the handle of an engine, by its application; raises RayServeException where that
    is not deployed. bank, settle, read_flags: as serve.replica.Parts has them."""

    read_pointers: ReadPointers
    read_keys: Callable[[], Mapping[str, ApiKey]]
    store: Store
    log: PromptLog
    counter: Callable[[WeightsRef], CountTokens]
    find: "Callable[[str], DeploymentHandle[Any]]"
    bank: Bank | None = None
    settle: Callable[[], object] = lambda: None
    read_flags: Callable[[], Mapping[str, FlagConfig]] | None = None


@serve.ingress()
class LanguageReplica:
    def __init__(
        self,
        config: LanguageConfig,
        connect: Callable[[LanguageConfig], LanguageParts],
        weights: Mapping[str, WeightsRef],
    ) -> None:
        configure_logging()
        self._hooks = make_hooks(config, connect, weights)

    async def __serve_build_asgi_app__(self) -> BehindServe:
        return self._hooks.asgi_app()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve asks for these by this name."""
        return self._hooks.autoscaling_stats()


def make_hooks(
    config: LanguageConfig,
    connect: Callable[[LanguageConfig], LanguageParts],
    weights: Mapping[str, WeightsRef],
    inline: Open | None = None,
) -> ServeHooks:
    """A gateway for this process. weights: by engine. inline: opens an answer of the engine that is
    in this process, where the config has one there."""
    gateway = make_gateway(config, connect(config), weights, inline)
    return ServeHooks(gateway, (f"{ROOT}/",))


def make_gateway(
    config: LanguageConfig,
    parts: LanguageParts,
    weights: Mapping[str, WeightsRef],
    inline: Open | None,
) -> LanguageGateway:
    keys = KeyRing(parts.read_keys, config.requires_key)
    meter = ServeMeter()
    engines = _engines(config, parts, weights, inline)
    takes = [name for name, engine in config.engines.items() if engine.max_adapters]
    digests = {weights[name].digest for name in takes}
    opener = AdapterOpener(parts.store, digests, config.evaluated())
    follower = ChampionFollower(parts.read_pointers, opener) if takes else None
    flags = Flags(parts.read_flags) if parts.read_flags is not None else None

    def commit() -> None:
        parts.log.commit()
        parts.settle()

    def refresh(patience_s: float | None) -> None:
        keys.refresh()
        if flags is not None:
            flags.refresh()
        if follower is not None:
            follower.refresh(patience_s)

    owner = Owner.here(parts.store.workspace)
    follow_s, commit_s = config.follow_every_ms / 1000, config.commit_every_s
    return LanguageGateway(
        config,
        engines,
        parts.log.prompts,
        meter,
        Background(refresh, follow_s, commit, commit_s, parts.log.flush),
        now=lambda: datetime.now(UTC),
        keys=keys,
        limiter=make_limiter(config, owner),
        payers=Payers(
            make_budgets(config.budgets, parts.bank, config.deadline_ms),
            make_budgets(config.token_budgets, parts.bank, config.deadline_ms),
        ),
        tracer=make_tracer(config, meter),
        follower=follower,
        token_limiter=make_token_limiter(config, owner),
        flags=flags,
    )


def _engines(
    config: LanguageConfig,
    parts: LanguageParts,
    weights: Mapping[str, WeightsRef],
    inline: Open | None,
) -> dict[str, Engine]:
    def client(name: str) -> LlmClient:
        if inline is not None and name == config.inline:
            return InlineLlm(name, inline)
        return ServeLlm(name, partial(parts.find, name))

    return {
        name: Engine(
            name,
            client(name),
            weights[name],
            engine.context_of(weights[name]),
            parts.counter(weights[name]),
        )
        for name, engine in config.engines.items()
    }


def make_token_limiter(config: LanguageConfig, owner: Owner) -> TokenLimiter | None:
    """One that leases from the application's keeper of these limits, as serve.replica.make_limiter
    has it for requests."""
    if config.token_limits is None:
        return None
    keeper = shared_actor(owner, "token-limits", Keeper, config.token_limits, config.token_limits)

    def give_back(tenant: str, unused: float) -> None:
        keeper.actor.give_back.remote(tenant, unused)

    lease, share = lease_by(keeper, "lease_whole"), 1 / config.max_replicas
    return TokenLimiter(config.token_limits, lease, give_back, share)


def language_gateway(
    config: LanguageConfig,
    connect: Callable[[LanguageConfig], LanguageParts],
    weights: Mapping[str, WeightsRef],
) -> Application:
    """weights: by engine. connect must be importable in a replica."""
    deploy = serve.deployment(name="language-gateway", **deployment_options(config))
    bound: Application = deploy(LanguageReplica).bind(config, connect, weights)
    return bound
