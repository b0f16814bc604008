"""How many tokens a second a tenant may ask language models for, over all gateway replicas
together.

    gateway ── "2,000 for acme, or none" ──▶ Keeper (callers/limits.py), one of tokens alone
            ◀─ 2,000, or how long to wait ──
            ── "1,700 of them back" ───────▶ once the answer is over

A request asks for what it may come to: its prompt, and max_tokens of each answer. That is far more
than a tenant's tokens of a tenth of a second, so nothing is leased ahead: each request asks the
keeper for its own. What a gateway had when it died, or was given too late, is not given back; the
bucket fills again by itself. While there is no keeper, each gateway admits its share of the rate by
itself.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rayapp.config.tenants import TokenLimitsConfig, TokenRateConfig
from rayapp.errors import RequestError
from rayapp.serve.callers.identity import ANONYMOUS, called
from rayapp.serve.callers.limits import Alone, Grant, Lease
from rayapp.serve.wire.http import RATE_LIMITED

log = logging.getLogger("rayapp.serve.callers.token_limits")

GiveBack = Callable[[str, float], object]
"""(tenant, tokens) to the keeper, without waiting for it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one request was admitted with. give_back: where to; None where nobody counts."""

    num_tokens: int
    give_back: Callable[[float], object] | None = None

    def end(self, num_used: int) -> None:
        """Once. The rest goes back."""
        if self.give_back is not None and num_used < self.num_tokens:
            self.give_back(self.num_tokens - num_used)


class TokenLimiter:
    """One gateway's side. lease: all that is wanted, or nothing. share: of a tenant's rate that
    this gateway may admit by itself while the keeper does not answer, one over the most replicas
    that there can be."""

    def __init__(
        self,
        config: TokenLimitsConfig,
        lease: Lease,
        give_back: GiveBack,
        share: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._lease = lease
        self._give_back = give_back
        self._clock_s = clock_s
        self._alone = Alone("token_limits_kept_alone", share, clock_s)
        self._unwanted: set[asyncio.Future[Grant]] = set()
        """Leases under way whose callers are gone."""

    async def take(self, tenant: str | None, num_tokens: int) -> Taken:
        """Raises RequestError 429 when the tenant's rate does not leave so many."""
        name = tenant or ANONYMOUS
        rate = self._config.rate_of(name)
        if rate is None:
            return Taken(num_tokens)
        if num_tokens > rate.burst:
            raise _never(name, rate, num_tokens)
        try:
            grant = await self._leased(name, num_tokens)
        except Exception as error:  # noqa: BLE001 - the log has it
            return self._taken_alone(name, rate, num_tokens, error)
        self._alone.end(name)
        if grant.wait_s:
            raise _too_many(name, rate, num_tokens, grant.wait_s)
        return Taken(num_tokens, lambda unused: self._returned(name, unused))

    async def _leased(self, name: str, num_tokens: int) -> Grant:
        """A caller that goes away meanwhile keeps nothing of what it is given."""
        leasing = asyncio.ensure_future(self._lease(name, num_tokens))
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            self._unwanted.add(leasing)
            leasing.add_done_callback(partial(self._given_to_nobody, name))
            raise

    def _given_to_nobody(self, name: str, leasing: "asyncio.Future[Grant]") -> None:
        self._unwanted.discard(leasing)
        if leasing.cancelled() or leasing.exception() is not None:
            return
        if num_given := leasing.result().tokens:
            self._returned(name, num_given)

    def _taken_alone(
        self, name: str, rate: TokenRateConfig, num_tokens: int, error: Exception
    ) -> Taken:
        bucket = self._alone.bucket(name, rate, error)
        grant = bucket.take_whole(num_tokens, self._clock_s())
        if grant.wait_s:
            raise _too_many(name, rate, num_tokens, grant.wait_s)
        return Taken(num_tokens, lambda unused: bucket.put_back(unused, self._clock_s()))

    def _returned(self, name: str, unused: float) -> None:
        try:
            self._give_back(name, unused)
        except Exception:  # the bucket fills again by itself
            log.warning("tokens_not_given_back", extra={"tenant": name}, exc_info=True)


def _what(name: str, rate: TokenRateConfig, num_tokens: int) -> str:
    return (
        f"{called(name)} may ask for {rate.tokens_per_s:g} tokens a second, {rate.burst:g} at "
        f"once, prompts and answers together; this request asks for {num_tokens}"
    )


def _never(name: str, rate: TokenRateConfig, num_tokens: int) -> RequestError:
    return RequestError(
        f"{_what(name, rate, num_tokens)}, so it would be refused at any time",
        "lower `max_tokens` or `n`, shorten the prompt, or have the burst raised",
        429,
        RATE_LIMITED,
        "max_tokens",
    )


def _too_many(name: str, rate: TokenRateConfig, num_tokens: int, wait_s: float) -> RequestError:
    return RequestError(
        _what(name, rate, num_tokens),
        "try again after the seconds in retry-after, or lower `max_tokens`",
        429,
        RATE_LIMITED,
        retry_after_s=max(1, math.ceil(wait_s)),
    )
