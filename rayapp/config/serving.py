"""configs/serving/*.yaml: the `args` of serve_apps/predict.py, inside a Serve config file."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from rayapp.config.choosing import (
    CandidateConfig,
    CascadeConfig,
    ObjectiveConfig,
    Price,
    SplitConfig,
    row_nano_usd,
)
from rayapp.config.load import Config
from rayapp.config.replicas import PoolConfig, check_replicas
from rayapp.config.routing import EndpointName, RuleConfig, Share, Target, check_rules
from rayapp.config.tenants import BudgetsConfig, LimitsConfig, Tiers
from rayapp.config.tracing import TracingConfig

FeedName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ShadowSettings(Config):
    share: Share = 1
    """Of all units."""
    max_ongoing: int = Field(default=8, ge=1)
    """Requests that it may be busy with at a time; more are not sent to it."""


class ShadowConfig(Target, ShadowSettings):
    """A second model hears the same requests; its answers are only recorded."""


class BreakerConfig(Config):
    """A release that fails most of the time is not asked for a while. One that gives no answer to a
    short request, or begins no stream of a language model's, in all the time that there is has
    failed, too."""

    failure_share: float = Field(default=0.5, gt=0, le=1)
    """Of the requests in the window; from this on the breaker opens."""
    min_requests: int = Field(default=20, ge=1)
    """Fewer than these in the window never open it."""
    window_s: float = Field(default=10, gt=0)
    open_s: float = Field(default=5, gt=0)
    """How long it stays open before one request tries whether the release answers again."""


class CacheConfig(Config):
    """Equal requests to the same release are answered once."""

    max_bytes: int = Field(default=16 * 1024 * 1024, ge=4096)
    """Of each gateway replica and release."""
    ttl_s: float = Field(default=60, gt=0)


class FallbackConfig(Target):
    """Who answers when the intended release cannot; the last one may be a declared answer."""

    scores: tuple[float, ...] | None = None
    """The same answer for every row: a probability for each class in order, or one value. It is
    given in the champion's terms, so it cannot stand in for one that was never loaded."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if [self.endpoint, self.release, self.scores].count(None) != 2:
            raise ValueError("name one of `endpoint`, `release` and `scores`")
        scores = self.scores or ()
        is_shares = all(0 <= score <= 1 for score in scores) and abs(sum(scores) - 1) < 1e-6
        if len(scores) > 1 and not is_shares:
            raise ValueError("several `scores` are probabilities: each from 0 to 1, together 1")
        return self


INLINE = "inline"
FIRST = "first"
"""The name of the arm that the first model of a cascade is."""


class EndpointConfig(Config):
    """What stands between one endpoint's requests and its champion."""

    placement: str | None = None
    """Where the endpoint's releases answer: `inline`, in the gateway itself, or the name of one of
    `pools`. null: as `placement` of the whole says."""
    is_pinned: bool = False
    """The champion is loaded in its pool before the endpoint is ready, and never unloaded."""
    timeout_ms: float | None = Field(default=None, gt=0)
    """The champion, each arm, and each fallback but the last has this long before the next one is
    asked."""
    fallback: tuple[FallbackConfig, ...] = ()
    """Asked in order when the champion fails, takes too long, or cannot be loaded. Such answers
    carry x-degraded."""
    rules: tuple[RuleConfig, ...] = ()
    """Asked in order, before `split`, `objective` or `cascade`: the first whose condition holds
    says who answers."""
    split: SplitConfig | None = None
    objective: ObjectiveConfig | None = None
    """Instead of a split: the cheapest that is quick and good enough."""
    cascade: CascadeConfig | None = None
    """Instead of a split: a cheaper model first, the champion where that is not sure."""
    shadow: ShadowConfig | None = None
    breaker: BreakerConfig | None = BreakerConfig()
    """null: none."""
    cache: CacheConfig | None = None
    feeds: tuple[FeedName, ...] = ()
    """Feature feeds (jobs.publish_features) from which inputs are taken that a caller does not
    send. While one is staler than its source's contract allows, the champion cannot answer: see
    `fallback`."""
    usd_per_1000_rows: Price | None = None
    """null: as `usd_per_1000_rows` of the whole says."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.timeout_ms is not None and not self.fallback and self.cascade is None:
            raise ValueError("`timeout_ms` has no effect without `fallback` or `cascade`")
        choosing = [n for n in ("split", "objective", "cascade") if getattr(self, n) is not None]
        if len(choosing) > 1:
            raise ValueError(f"`{choosing[0]}` and `{choosing[1]}` both say who answers: keep one")
        if any(f.scores is not None for f in self.fallback[:-1]):
            raise ValueError("what follows a static answer in `fallback` is never asked")
        check_rules(self.rules, self.split.arms if self.split else self.priced())
        return self

    def arms(self) -> tuple[Target, ...]:
        """Everybody beside the champion who answers by intention."""
        return (*self.rules, *(self.split.arms.values() if self.split else ()))

    def targets(self) -> tuple[Target, ...]:
        """Everybody beside the champion who may have to answer."""
        shadows = (self.shadow,) if self.shadow else ()
        priced = self.priced().values()
        stand_ins = (f for f in self.fallback if f.scores is None)
        return (*self.arms(), *priced, *shadows, *stand_ins)

    def priced(self) -> dict[str, CandidateConfig]:
        """Those who have prices of their own, by the names of their arms."""
        if self.objective is not None:
            return self.objective.candidates
        return {} if self.cascade is None else {FIRST: self.cascade.first}


MOST_ONGOING = 256
"""The most that max_ongoing_requests can be."""


class GatewayConfig(Config):
    """What every gateway has, whatever it answers."""

    requires_key: bool = False
    """Whether every request, but for health checks, must carry an API key (rayapp keys create).
    Where it need not, one of ours that is sent must still be right."""
    tiers: Tiers = Field(default={})
    """By name. Of what a full replica has in hand each tenant that asks has a share by its tier's
    weight; a tenant in no tier has the weight 1, and so have all callers without a key together."""
    limits: LimitsConfig | None = None
    budgets: BudgetsConfig | None = None
    tracing: TracingConfig | None = None
    """null: requests are not traced."""
    workspace: str | None = None
    """URI of the workspace; None takes RAYAPP_WORKSPACE from the replica's environment."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=2, ge=1)
    target_busy_share: float = Field(default=0.6, gt=0, le=1)
    """Share of one core above which a replica should have company."""
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests in a replica's hands above which it should have company."""
    upscale_delay_s: float = Field(default=5, ge=0)
    """So long more replicas must have been wanted before there are more."""
    downscale_delay_s: float = Field(default=120, ge=0)
    """So long fewer must have been enough before there are fewer."""
    max_ongoing_requests: int = Field(default=128, ge=1, le=MOST_ONGOING)
    """A replica answers so many requests at a time and refuses more with 503, except those of
    tenants that have less than their share of them, an equal one where `tiers` do not say
    otherwise: up to twice as many in all. HAProxy gives no replica more than 512."""
    max_turn_ms: float = Field(default=20, gt=0)
    """The replica takes fewer requests at a time while its event loop is slow: while one turn of
    it, for which every request waits, takes 20 ms of CPU time more than this."""
    num_cpus: float = Field(default=0.5, ge=0)
    """Reserved for each replica, whether it uses them or not: jobs cannot have these."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    follow_every_ms: float = Field(default=250, ge=10, le=500)
    """How often a replica looks for a moved champion, and for revoked keys: both count within a
    second."""
    commit_every_s: float = Field(default=5, gt=0)
    """How often spooled predictions are committed to the table."""
    deadline_ms: float = Field(default=10_000, gt=0)
    """A request that is not answered by then gets 504; a caller's x-deadline-ms can only be
    shorter. What is past its deadline is not worked on."""

    @model_validator(mode="after")
    def _scaled(self) -> Self:
        check_replicas(self.min_replicas, self.max_replicas, self.model_fields_set)
        return self

    @property
    def needs_accounts(self) -> bool:
        """Whether anybody has a budget."""
        return self.budgets is not None


class ServingConfig(GatewayConfig):
    """One gateway answers for several endpoints: a new champion needs no new deployment."""

    endpoints: dict[EndpointName, EndpointConfig] = Field(default={})
    """Endpoints to answer for and how; empty means each one that has a champion in the ledger."""
    placement: str = INLINE
    """Of endpoints that do not say otherwise: `inline`, or the name of one of `pools`."""
    pools: dict[EndpointName, PoolConfig] = Field(default={})
    """By the name that `placement` calls them."""
    usd_per_1000_rows: Price | None = None
    """What answered rows cost at endpoints that do not say otherwise; null: nothing. The prediction
    log has the cost of each row."""
    num_gpus: float = Field(default=0, ge=0)
    max_batch_rows: int = Field(default=256, ge=1)
    """Rows of one model call; requests that arrive together share it."""
    batch_wait_ms: float = Field(default=0, ge=0)
    """How long an idle model waits for more rows; 0 takes what has arrived by then."""
    max_rows: int = Field(default=10_000, ge=1)
    """Rows of one request."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        for name, endpoint in self.endpoints.items():
            if endpoint.timeout_ms is not None and endpoint.timeout_ms >= self.deadline_ms:
                raise ValueError(
                    f"`endpoints.{name}.timeout_ms` {endpoint.timeout_ms:g} has no effect with "
                    f"deadline_ms {self.deadline_ms:g}"
                )
            if any(target.endpoint == name for target in endpoint.targets()):
                raise ValueError(f"`endpoints.{name}` names itself beside its own champion")
            self._check_priced(name, endpoint)
        own = [endpoint.usd_per_1000_rows for endpoint in self.endpoints.values()]
        if self.budgets is not None and not any((self.usd_per_1000_rows, *own)):
            raise ValueError("`budgets` has no effect without `usd_per_1000_rows`")
        if self.usd_per_1000_rows is not None and own and None not in own:
            raise ValueError(
                "`usd_per_1000_rows` has no effect, since each of `endpoints` has its own: leave "
                "it out"
            )
        return self

    def _check_priced(self, name: str, endpoint: EndpointConfig) -> None:
        objective = endpoint.objective
        if endpoint.priced() and not self.row_nano_usd(name):
            raise ValueError(
                f"`endpoints.{name}`: costs cannot be compared without the champion's: set its "
                "usd_per_1000_rows"
            )
        if objective is not None and objective.max_p95_ms >= self.deadline_ms:
            raise ValueError(
                f"`endpoints.{name}.objective.max_p95_ms` {objective.max_p95_ms:g} has no effect "
                f"with deadline_ms {self.deadline_ms:g}"
            )
        if endpoint.cascade is not None:
            first = row_nano_usd(endpoint.cascade.first.usd_per_1000_rows)
            if first >= self.row_nano_usd(name):
                raise ValueError(
                    f"`endpoints.{name}.cascade.first`: the first model must cost less than the "
                    "champion, or it saves nothing"
                )

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if INLINE in self.pools:
            raise ValueError(f"`pools.{INLINE}`: none can be named so: that is the gateway itself")
        places = {"placement": self.placement}
        for name, endpoint in self.endpoints.items():
            places[f"endpoints.{name}.placement"] = endpoint.placement or self.placement
        for at, place in places.items():
            if place != INLINE and place not in self.pools:
                known = f" ({', '.join(self.pools)})" if self.pools else ", of which there are none"
                raise ValueError(f"`{at}` {place!r} is neither inline nor one of `pools`{known}")
        named = set(places.values())
        if self.endpoints and self.placement != INLINE and self._is_overridden():
            raise ValueError(
                f"`placement` {self.placement!r} has no effect, since each of `endpoints` has its "
                "own: leave it out"
            )
        unused = sorted(self.pools.keys() - named)
        if unused:
            raise ValueError(f"`pools.{unused[0]}` has no effect, since nothing is placed there")
        for name, endpoint in self.endpoints.items():
            if endpoint.is_pinned and self.placement_of(name) == INLINE:
                raise ValueError(
                    f"`endpoints.{name}.is_pinned` has no effect on a model that is inline"
                )
        return self

    @model_validator(mode="after")
    def _batched(self) -> Self:
        places = {self.placement_of(name) for name in self.named()} or {self.placement}
        idle = sorted({"max_batch_rows", "batch_wait_ms"} & self.model_fields_set)
        if idle and INLINE not in places:
            raise ValueError(
                f"`{idle[0]}` has no effect, since nothing is placed inline: set that of `pools`"
            )
        return self

    def _is_overridden(self) -> bool:
        """Whether `placement` is nobody's, those included whose champions only stand in."""
        unsaid = EndpointConfig()
        return all(self.endpoints.get(name, unsaid).placement for name in self.named())

    def placement_of(self, endpoint: str) -> str:
        """`inline`, or the name of a pool."""
        config = self.endpoints.get(endpoint)
        return (config.placement if config is not None else None) or self.placement

    def row_nano_usd(self, endpoint: str) -> int:
        """What one answered row costs."""
        config = self.endpoints.get(endpoint)
        usd = (config.usd_per_1000_rows if config is not None else None) or self.usd_per_1000_rows
        return row_nano_usd(usd or 0)

    def named(self) -> set[str]:
        """Endpoints that it names: those to answer for, and others whose champions may answer."""
        targets = (t for endpoint in self.endpoints.values() for t in endpoint.targets())
        return {*self.endpoints, *(t.endpoint for t in targets if t.endpoint is not None)}

    def evaluated(self) -> set[str]:
        """Endpoints whose releases are chosen by what was measured when they were evaluated."""
        return {
            evaluated
            for name, endpoint in self.endpoints.items()
            for target in endpoint.priced().values()
            for evaluated in (*((name,) if endpoint.objective else ()), target.endpoint or name)
        }


class ServeFile(Config):
    """jobs.deploy: a Ray Serve config file. The keys and what is below them are Ray Serve's own
    (serve/cluster/config_file.py holds them against its schema); `args` of our applications are a
    ServingConfig, of language models a LanguageConfig and for each engine an EngineConfig."""

    applications: tuple[dict[str, Any], ...] = Field(min_length=1)
    http_options: dict[str, Any] = Field(default={})
    """RAYAPP_HTTP_PORT takes precedence over its `port`."""
    grpc_options: dict[str, Any] = Field(default={})
    """RAYAPP_GRPC_PORT takes precedence over its `port`."""
    proxy_location: str | None = None
    controller_options: dict[str, Any] | None = None
    logging_config: dict[str, Any] | None = None
    tracing_config: dict[str, Any] | None = None
    target_capacity: float | None = None

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.grpc_options and not self.grpc_options.get("grpc_servicer_functions"):
            raise ValueError("`grpc_options` have no effect without `grpc_servicer_functions`")
        return self
