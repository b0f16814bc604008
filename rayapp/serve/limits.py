"""How many requests a second a tenant may send, over all gateway replicas together.

    gateway ── lease: "I want 50 for acme" ──▶ Keeper (one actor of the cluster) ── token buckets
            ◀─ 50 of them, or fewer ─────────

One keeper has each tenant's bucket; a gateway leases a tenth of a second's worth at a time and
counts it down itself, so most requests cost a subtraction. What a gateway does not use within a
second is void. If a gateway dies, what it had leased is lost, a tenth of a second's worth at most;
if the keeper dies, its successor starts with full buckets, so at most one burst more is let in.
While there is no keeper, each gateway admits its share of the rate by itself.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rayapp.config.serving import LimitsConfig, RateConfig
from rayapp.errors import RequestError

log = logging.getLogger("rayapp.serve.limits")

LEASE_S = 0.1
VOID_AFTER_S = 1.0
ANONYMOUS = ""
"""The tenant of everybody without a key."""
Lease = Callable[[str, float], Awaitable["Grant"]]
"""(tenant, tokens wanted) → what it gets."""


@dataclass(frozen=True, slots=True)
class Grant:
    """tokens: at most what was wanted. wait_s: until there is a whole one again, where none was
    given."""

    tokens: float
    wait_s: float


class Bucket:
    """A token bucket: `rate` tokens a second flow in, `burst` at most lie in it."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at_s = burst, now_s

    def take(self, wanted: float, now_s: float) -> Grant:
        passed_s = max(0.0, now_s - self._at_s)
        self._tokens = min(self._burst, self._tokens + passed_s * self._rate)
        self._at_s = max(self._at_s, now_s)
        given = min(wanted, math.floor(self._tokens))
        self._tokens -= given
        return Grant(given, 0.0 if given else (1 - self._tokens) / self._rate)


class Keeper:
    """Every tenant's bucket. One at a time asks it."""

    def __init__(self, config: LimitsConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock_s = clock_s
        self._buckets: dict[str, Bucket] = {}

    def lease(self, tenant: str, wanted: float) -> Grant:
        now_s = self._clock_s()
        bucket = self._buckets.get(tenant)
        if bucket is None:
            rate = self._config.rate_of(tenant)
            if rate is None:
                return Grant(wanted, 0.0)
            bucket = self._buckets[tenant] = Bucket(rate.requests_per_s, rate.burst, now_s)
        return bucket.take(wanted, now_s)


@dataclass(slots=True)
class _Allowance:
    tokens: float = 0.0
    until_s: float = 0.0
    leasing: "asyncio.Task[Grant] | None" = None
    alone: Bucket | None = None


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
        self._share = share
        self._clock_s = clock_s
        self._allowances: dict[str, _Allowance] = {}

    async def admit(self, tenant: str | None) -> None:
        """Count one request. Raises RequestError 429 when the tenant's rate is used up."""
        name = tenant or ANONYMOUS
        rate = self._config.rate_of(name)
        if rate is None:
            return
        allowance = self._allowances.get(name)
        if allowance is None:
            allowance = self._allowances[name] = _Allowance()
        while not self._spend(allowance):
            if allowance.leasing is None:
                allowance.leasing = asyncio.create_task(self._leased(name, rate, allowance))
            grant = await asyncio.shield(allowance.leasing)
            if not grant.tokens:
                raise _too_many(tenant, rate, grant.wait_s)

    def _spend(self, allowance: _Allowance) -> bool:
        if allowance.tokens < 1 or allowance.until_s < self._clock_s():
            return False
        allowance.tokens -= 1
        return True

    async def _leased(self, name: str, rate: RateConfig, allowance: _Allowance) -> Grant:
        wanted = max(1, math.floor(rate.requests_per_s * LEASE_S))
        try:
            grant = await self._lease(name, wanted)
            allowance.alone = None
        except Exception as error:
            if allowance.alone is None:
                log.warning("limits_kept_alone", extra={"tenant": name}, exc_info=error)
                alone = rate.requests_per_s * self._share, max(1.0, rate.burst * self._share)
                allowance.alone = Bucket(*alone, self._clock_s())
            grant = allowance.alone.take(wanted, self._clock_s())
        allowance.leasing = None
        allowance.tokens, allowance.until_s = grant.tokens, self._clock_s() + VOID_AFTER_S
        return grant


def _too_many(tenant: str | None, rate: RateConfig, wait_s: float) -> RequestError:
    who = f"tenant {tenant!r}" if tenant else "callers without a key"
    return RequestError(
        f"{who} may send {rate.requests_per_s:g} requests a second, {rate.burst:g} at once",
        "try again after the seconds in retry-after",
        429,
        "rate_limited",
        retry_after_s=max(1, math.ceil(wait_s)),
    )
