"""How many requests a second a tenant may send, over all gateway replicas together.

    gateway ── lease: "I want 50 for acme" ──▶ Keeper (one actor of the cluster) ── token buckets
            ◀─ 50 of them, or fewer ─────────

One keeper has each tenant's bucket; a gateway leases a tenth of a second's worth at a time, or as
much as requests wait for, and counts it down itself, so most requests cost a subtraction. It leases
again before it has spent everything, so few requests wait; and while it knows that the bucket is
empty, it refuses by itself. What it has not used a second after its last lease is void. If a
gateway dies, what it had leased is lost, two tenths of a second's worth at most; if the keeper
dies, its successor starts with full buckets, so at most one burst more is let in. While there is no
keeper, each gateway admits its share of the rate by itself; once a lease has failed, no request
waits for one until one succeeds.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from rayapp.config.tenants import LimitsConfig, RateConfig
from rayapp.errors import OverRate
from rayapp.serve.callers.identity import ANONYMOUS, called
from rayapp.serve.wire.http import RATE_LIMITED

log = logging.getLogger("rayapp.serve.callers.limits")


class Rate(Protocol):
    """per_s: how many a second, of requests or of what else is counted; burst: how many at once
    after a pause."""

    @property
    def per_s(self) -> float: ...
    @property
    def burst(self) -> float: ...


class Rates(Protocol):
    """Implemented by LimitsConfig and TokenLimitsConfig."""

    def rate_of(self, tenant: str) -> Rate | None: ...


LEASE_S = 0.1
VOID_AFTER_S = 1.0
Lease = Callable[[str, float], Awaitable["Grant"]]
"""(tenant, tokens wanted) → what it gets."""


@dataclass(frozen=True, slots=True)
class Grant:
    """tokens: at most what was wanted. wait_s: until there is a whole one again, where fewer were
    given than wanted."""

    tokens: float
    wait_s: float


class Bucket:
    """A token bucket: `rate` tokens a second flow in, `burst` at most lie in it. It may owe
    some."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at_s = burst, now_s

    def take(self, wanted: float, now_s: float) -> Grant:
        self._fill(now_s)
        given = min(wanted, max(0, math.floor(self._tokens)))
        self._tokens -= given
        return Grant(given, 0.0 if given >= wanted else (1 - self._tokens) / self._rate)

    def take_whole(self, wanted: float, now_s: float) -> Grant:
        """All or nothing. More than the burst is given by a full bucket, which then owes the rest;
        wait_s: until there is enough."""
        self._fill(now_s)
        missing = min(wanted, self._burst) - self._tokens
        if missing > 0:
            return Grant(0, missing / self._rate)
        self._tokens -= wanted
        return Grant(wanted, 0.0)

    def put_back(self, unused: float, now_s: float) -> None:
        self._fill(now_s)
        self._tokens = min(self._burst, self._tokens + unused)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._tokens = min(self._burst, self._tokens + passed_s * self._rate)
        self._at_s = max(self._at_s, now_s)


class Keeper:
    """Every tenant's bucket, of requests or of tokens. One at a time asks it."""

    def __init__(self, config: Rates, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock_s = clock_s
        self._buckets: dict[str, Bucket] = {}

    def lease(self, tenant: str, wanted: float) -> Grant:
        bucket = self._bucket(tenant)
        return Grant(wanted, 0.0) if bucket is None else bucket.take(wanted, self._clock_s())

    def lease_whole(self, tenant: str, wanted: float) -> Grant:
        """All or nothing."""
        bucket = self._bucket(tenant)
        return Grant(wanted, 0.0) if bucket is None else bucket.take_whole(wanted, self._clock_s())

    def give_back(self, tenant: str, unused: float) -> None:
        bucket = self._bucket(tenant)
        if bucket is not None:
            bucket.put_back(unused, self._clock_s())

    def _bucket(self, tenant: str) -> Bucket | None:
        """None: as many as they like."""
        bucket = self._buckets.get(tenant)
        if bucket is None:
            rate = self._config.rate_of(tenant)
            if rate is None:
                return None
            bucket = self._buckets[tenant] = Bucket(rate.per_s, rate.burst, self._clock_s())
        return bucket


class Alone:
    """What one gateway admits by itself of the tenants whose last lease failed. share: of each
    rate. event: as the log tells it, once until a lease of the tenant's succeeds again."""

    def __init__(self, event: str, share: float, clock_s: Callable[[], float]) -> None:
        self._event = event
        self._share = share
        self._clock_s = clock_s
        self._buckets: dict[str, Bucket] = {}
        self._tenants: set[str] = set()

    def bucket(self, tenant: str, rate: Rate, error: Exception) -> Bucket:
        """error: why there is no lease."""
        if tenant not in self._tenants:
            log.warning(self._event, extra={"tenant": tenant}, exc_info=error)
            self._tenants.add(tenant)
        bucket = self._buckets.get(tenant)
        if bucket is None:  # not a full one for each call of many that fails
            own = rate.per_s * self._share, max(1.0, rate.burst * self._share)
            bucket = self._buckets[tenant] = Bucket(*own, self._clock_s())
        return bucket

    def kept(self, tenant: str) -> Bucket | None:
        """None unless the tenant's last lease failed."""
        return self._buckets[tenant] if tenant in self._tenants else None

    def end(self, tenant: str) -> None:
        self._tenants.discard(tenant)


@dataclass(slots=True)
class _Allowance:
    """One tenant's tokens here, which are void after until_s. The bucket is empty until
    empty_until_s, by what its keeper said; before refused_until_s it is not asked again."""

    tokens: float = 0.0
    until_s: float = 0.0
    empty_until_s: float = 0.0
    refused_until_s: float = 0.0
    num_waiting: int = 0
    leasing: "asyncio.Task[None] | None" = None


class Limiter:
    """One gateway's side. share: of a tenant's rate that this gateway may admit by itself while the
    keeper does not answer, one over the most replicas that there can be."""

    def __init__(
        self,
        config: LimitsConfig,
        lease: Lease,
        share: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._lease = lease
        self._clock_s = clock_s
        self._alone = Alone("limits_kept_alone", share, clock_s)
        self._allowances: dict[str, _Allowance] = {}

    async def admit(self, tenant: str | None) -> None:
        """Count one request. Raises OverRate when the tenant's rate is used up."""
        name = tenant or ANONYMOUS
        rate = self._config.rate_of(name)
        if rate is None:
            return
        allowance = self._allowances.get(name)
        if allowance is None:
            allowance = self._allowances[name] = _Allowance()
        if not self._spend(allowance):
            allowance.num_waiting += 1
            try:
                await self._wait(name, rate, allowance)
            finally:
                allowance.num_waiting -= 1
        ahead = rate.requests_per_s * LEASE_S
        if ahead >= 2 and allowance.tokens < ahead / 2 and not self._is_empty(allowance):
            self._ask(name, rate, allowance)

    async def _wait(self, name: str, rate: RateConfig, allowance: _Allowance) -> None:
        while not self._spend(allowance):
            if self._is_empty(allowance):
                raise _too_many(name, rate, allowance.empty_until_s - self._clock_s())
            asking = self._ask(name, rate, allowance)
            own = self._alone.kept(name)
            if own is None:
                await asyncio.shield(asking)
            else:
                self._take(own.take(1, self._clock_s()), rate, allowance)

    def _is_empty(self, allowance: _Allowance) -> bool:
        return self._clock_s() < allowance.refused_until_s

    def _ask(self, name: str, rate: RateConfig, allowance: _Allowance) -> "asyncio.Task[None]":
        if allowance.leasing is None:
            allowance.leasing = asyncio.create_task(self._leased(name, rate, allowance))
        return allowance.leasing

    def _spend(self, allowance: _Allowance) -> bool:
        if allowance.tokens < 1 or allowance.until_s < self._clock_s():
            return False
        allowance.tokens -= 1
        return True

    async def _leased(self, name: str, rate: RateConfig, allowance: _Allowance) -> None:
        wanted = max(1, math.floor(rate.requests_per_s * LEASE_S), allowance.num_waiting)
        try:
            grant = await self._lease(name, wanted)
            self._alone.end(name)
        except Exception as error:  # noqa: BLE001 - the log has it
            grant = self._alone.bucket(name, rate, error).take(wanted, self._clock_s())
        finally:
            allowance.leasing = None
        self._take(grant, rate, allowance)

    def _take(self, grant: Grant, rate: RateConfig, allowance: _Allowance) -> None:
        now_s = self._clock_s()
        left = allowance.tokens if now_s <= allowance.until_s else 0.0
        allowance.tokens, allowance.until_s = left + grant.tokens, now_s + VOID_AFTER_S
        # Not at every token, which a flood would make one call each, yet before the bucket is full
        # again; and no longer than a second without asking: a keeper may have died, its successor
        # have some.
        pause_s = min(LEASE_S / 2, rate.burst / rate.requests_per_s / 2)
        wait_s = max(grant.wait_s, pause_s) if grant.wait_s else 0.0
        allowance.refused_until_s = now_s + min(wait_s, VOID_AFTER_S)
        allowance.empty_until_s = now_s + grant.wait_s


def _too_many(name: str, rate: RateConfig, wait_s: float) -> OverRate:
    requests = "1 request" if rate.requests_per_s == 1 else f"{rate.requests_per_s:g} requests"
    return OverRate(
        f"{called(name)} may send {requests} a second, {rate.burst:g} at once",
        "try again after the seconds in retry-after",
        429,
        RATE_LIMITED,
        retry_after_s=max(1, math.ceil(wait_s)),
    )
