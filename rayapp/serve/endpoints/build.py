"""An endpoint's configuration → the endpoints that make it up, from the inside out.

    Fallback( LookUp( Shadow( Rules( Split( Champion, … ), … ))), LookUp( Release ), …, Static )
    instead of Split: Objective( Champion, … ) or Cascade( First, Champion )
    Champion: Cache( Breaker( Timeout( Hedge( Retry( Release )))))

What is not configured is not there, and costs nothing.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from rayapp.config.choosing import CandidateConfig, row_nano_usd
from rayapp.config.replicas import PoolConfig
from rayapp.config.routing import CHAMPION, Target
from rayapp.config.serving import (
    FIRST,
    EndpointConfig,
    FallbackConfig,
    ShadowConfig,
)
from rayapp.errors import Unavailable
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.traffic import STATIC
from rayapp.serve.endpoints.again import Budget, Hedge, Retry
from rayapp.serve.endpoints.alike import RowTerms
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply
from rayapp.serve.endpoints.breaker import Breaker, State
from rayapp.serve.endpoints.cache import Cache
from rayapp.serve.endpoints.cascade import Cascade, Counts, RowCandidate
from rayapp.serve.endpoints.deadline import Deadlines, Timeout
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.endpoints.lookup import LookUp
from rayapp.serve.endpoints.objective import Candidate, Objective
from rayapp.serve.endpoints.release import Release, Static
from rayapp.serve.endpoints.rules import Rule, Rules
from rayapp.serve.endpoints.shadow import Shadow
from rayapp.serve.endpoints.split import Arm, Split
from rayapp.serve.endpoints.traced import Traced
from rayapp.serve.feeds import Feed
from rayapp.serve.flags import Flags
from rayapp.serve.follow import Loaded, endpoint_of, release_key


class Hooks(Protocol):
    """What happens inside, for those who count."""

    def breaker(self, endpoint: str, target: str, state: State) -> None: ...
    def cache(self, endpoint: str, is_hit: bool) -> None: ...
    def second_ask(self, endpoint: str, reason: str) -> None: ...
    def feature_read(self, endpoint: str, is_fresh: bool) -> None: ...
    def choice(self, endpoint: str, arm: str, reason: str) -> None: ...
    def cascade(self, endpoint: str, counts: Counts) -> None: ...


class Chooses(Protocol):
    """An endpoint that chooses who answers."""

    def problems(self) -> Mapping[str, str]:
        """Why an arm cannot be chosen, by its name."""
        ...


def not_chosen(choosing: Mapping[str, Chooses]) -> dict[str, str]:
    """Why arms cannot be chosen, by `endpoint/arm`."""
    return {
        f"{name}/{arm}": problem
        for name, chooses in choosing.items()
        for arm, problem in chooses.problems().items()
    }


@dataclass(frozen=True)
class Builder:
    """find: the release that a key stands for now (follow.release_key), or raises Unavailable.
    release_id: its id, or None. heard: takes an endpoint, an ask, a shadow's reply to it and
    the milliseconds that it took. pool_of: where an endpoint's releases answer, None for those
    that do in this process. feeds: the newest of each feature feed. flags: those that rules
    may ask. row_nano_usd: what an endpoint's rows cost. shadows, choosing: all that were built,
    the latter by endpoint. is_traced: models show in traces. deadline_ms: of a request whose
    caller says nothing of it."""

    find: Callable[[str], Loaded]
    release_id: Callable[[str], str | None]
    deadlines: Deadlines
    hooks: Hooks
    heard: Callable[[str, Ask, Reply, float], Awaitable[None]]
    pool_of: Callable[[str], PoolConfig | None] = lambda endpoint: None
    feeds: Callable[[], Mapping[str, Feed]] = lambda: {}
    flags: Flags | None = None
    row_nano_usd: Callable[[str], int] = lambda endpoint: 0
    shadows: list[Shadow[Ask, Reply]] = field(default_factory=list)
    choosing: dict[str, Chooses] = field(default_factory=dict)
    is_traced: bool = False
    deadline_ms: float = math.inf

    def endpoint(self, name: str, config: EndpointConfig) -> Endpoint:
        built = self._chosen(name, self._release(name, name, config), config)
        if config.rules:
            rules = [Rule.of(rule, self._target(name, rule, config)) for rule in config.rules]
            built = Rules(built, rules, self.flags)
        if config.shadow is not None:
            built = self._shadow(name, built, config.shadow, config)
        built = self.looked_up(name, built, config, partial(self._loaded, name))
        if config.fallback:
            last = len(config.fallback) - 1
            stand_ins = [
                self._fallback(name, fallback, config, is_last=number == last)
                for number, fallback in enumerate(config.fallback)
            ]
            is_declared = config.fallback[-1].scores is not None
            built = Fallback([built, *stand_ins], is_last_alike=is_declared)
        return built

    def _chosen(self, name: str, champion: Endpoint, config: EndpointConfig) -> Endpoint:
        """Of the champion and the others that may answer."""
        if config.split is not None:
            arms = [
                Arm(arm_name, arm.share, self._target(name, arm, config))
                for arm_name, arm in config.split.arms.items()
            ]
            return Split(champion, arms, config.split.salt)
        own = Candidate(CHAMPION, champion, self.row_nano_usd(name), partial(self._loaded, name))
        if config.objective is not None:
            others = [
                self._candidate(name, arm, one, config) for arm, one in config.priced().items()
            ]
            on_choice = partial(self.hooks.choice, name)
            limits = config.objective
            terms = RowTerms(limits.metric, limits.min_quality)
            objective = Objective([own, *others], limits, terms, f"objective/{name}", on_choice)
            self.choosing[name] = objective
            return objective
        if config.cascade is not None:
            # however long it takes, the champion must still be able to answer
            first = self._candidate(name, FIRST, config.cascade.first, config, share=0.5)
            on_rows = partial(self.hooks.cascade, name)
            cascade = Cascade(first, own, config.cascade, self.deadlines, on_rows)
            self.choosing[name] = cascade
            return cascade
        return champion

    def _candidate(
        self, name: str, arm: str, one: CandidateConfig, config: EndpointConfig, share: float = 1
    ) -> RowCandidate:
        """A model that may have fewer columns than the champion. share: as `_release` has it."""
        key = release_key(one.endpoint or name, one.release)
        endpoint = self._release(name, key, config, stands_in=True, share=share)
        price = row_nano_usd(one.usd_per_1000_rows)
        return Candidate(arm, endpoint, price, partial(self._loaded, key))

    def _loaded(self, key: str) -> Loaded | None:
        try:
            return self.find(key)
        except Unavailable:
            return None

    def looked_up(
        self,
        name: str,
        inner: Endpoint,
        config: EndpointConfig,
        loaded: Callable[[], Loaded | None],
        is_stand_in: bool = False,
    ) -> Endpoint:
        """What answers, with the feature values that the endpoint's feeds have for the columns of
        the release that is `loaded`. is_stand_in: it answers in the champion's place, whose own
        reads were counted."""
        if not config.feeds:
            return inner

        def schema() -> BundleSchema | None:
            found = loaded()
            return None if found is None else found.schema

        def feeds() -> list[Feed]:
            return [self.feeds()[feed] for feed in config.feeds]

        if is_stand_in:
            return LookUp(inner, feeds, schema)
        return LookUp(inner, feeds, schema, partial(self.hooks.feature_read, name))

    def _shadow(
        self, name: str, inner: Endpoint, shadow: ShadowConfig, config: EndpointConfig
    ) -> Endpoint:
        made = Shadow(
            inner,
            self._target(name, shadow, config, stands_in=True),
            shadow.share,
            f"shadow/{name}",
            shadow.max_ongoing,
            partial(self.heard, name),
        )
        self.shadows.append(made)
        return made

    def _fallback(
        self, name: str, fallback: FallbackConfig, config: EndpointConfig, is_last: bool
    ) -> Endpoint:
        """is_last: nobody comes after it, so it has what time there is."""
        if fallback.scores is not None:
            static = Static(lambda: self.find(name), fallback.scores, bool(config.feeds))
            return Traced(static, name, lambda: STATIC) if self.is_traced else static
        built = self._target(name, fallback, config, stands_in=True)
        if not is_last:
            built = self._in_time(built, config)
        key = release_key(fallback.endpoint or name, fallback.release)
        loaded = partial(self._loaded, key)
        return self.looked_up(name, built, config, loaded, is_stand_in=True)

    def _target(
        self, name: str, target: Target, config: EndpointConfig, stands_in: bool = False
    ) -> Endpoint:
        """stands_in: for another model, which limits its time. Another endpoint's model may have
        other columns than this one's, by which callers go."""
        key = release_key(target.endpoint or name, target.release)
        is_other = stands_in or target.endpoint is not None
        return self._release(name, key, config, is_other, None if stands_in else 1)

    def _release(
        self,
        name: str,
        key: str,
        config: EndpointConfig,
        stands_in: bool = False,
        share: float | None = 1,
    ) -> Endpoint:
        """stands_in: a model of other columns; those that it has not are passed over. share: of the
        time that is left, it gets no more; None where somebody else limits it."""
        built = self._at_hand(name, key, stands_in)
        release_id = partial(self.release_id, key)
        if share is not None:  # inside the breaker, which counts who is too slow
            built = self._in_time(built, config, share)
        if config.breaker is not None:
            on_state = partial(self.hooks.breaker, name, key)
            limit_ms = min(self.deadline_ms, config.timeout_ms or math.inf)
            built = Breaker(
                built,
                release_id,
                config.breaker,
                on_state,
                may_be_long=_is_long,  # its own rows may take all the time there is
                enough_s=limit_ms / 1000,
            )
        if config.cache is not None:
            built = Cache(built, release_id, config.cache, partial(self.hooks.cache, name))
        return built

    def _at_hand(self, name: str, key: str, stands_in: bool) -> Endpoint:
        """The release, asked again where it is in a pool and a replica of it fails."""
        endpoint = endpoint_of(key)
        release_id = partial(self.release_id, key)
        built = self.release(endpoint, lambda: self.find(key), release_id, stands_in)
        pool = self.pool_of(endpoint)
        if pool is None:
            return built
        if pool.retry_share:
            on_again = partial(self.hooks.second_ask, name, "retry")
            built = Retry(built, Budget(pool.retry_share), on_again)
        if pool.hedge_after_ms is not None:
            on_again = partial(self.hooks.second_ask, name, "hedge")
            built = Hedge(built, pool.hedge_after_ms / 1000, Budget(pool.hedge_share), on_again)
        return built

    def release(
        self,
        endpoint: str,
        find: Callable[[], Loaded],
        release_id: Callable[[], str | None],
        stands_in: bool = False,
    ) -> Endpoint:
        """The release that `find` gives, with nothing around it that could help it."""
        made = Release(find, stands_in)
        if not self.is_traced:
            return made
        return Traced(made, endpoint, release_id, self.pool_of(endpoint) is not None)

    def _in_time(self, inner: Endpoint, config: EndpointConfig, share: float = 1) -> Endpoint:
        if config.timeout_ms is None and share == 1:
            return inner
        return Timeout(inner, config.timeout_ms, self.deadlines, share=share)


def _is_long(ask: Ask) -> bool:
    return ask.is_long
