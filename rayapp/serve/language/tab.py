"""What one answer costs while it grows: reserved before it is given, recorded once it was.

    begin ── prompt and the first part ──▶ grow ── another part ──▶ … ──▶ end
             reserved                       recorded and settled; the next reserved

A part is some tokens long. So a budget that is used up ends an answer instead of being overspent,
and a gateway that dies leaves at most one part of each answer unrecorded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayapp.serve.callers.token_limits import Taken, TokenLimiter
from rayapp.serve.language.charges import Charges, Cost, Payers, Prices
from rayapp.serve.language.relay import Usage


@dataclass(frozen=True, slots=True)
class Part:
    """number: from 0. usage: of this part alone. said: what it says, by choice. finish_reason: in
    the last part only. charges: what it costs; settled or refunded by whoever records the part."""

    number: int
    usage: Usage
    said: list[dict[str, Any]]
    finish_reason: str | None
    charges: Charges


class Tab:
    """tokens_at_a_time: of one part. max_output_tokens: of all answers; more do not come. limiter:
    None where nobody's tokens are limited."""

    record: Callable[[Part], None]
    """Writes a part down and ends its charges; what it raises ends the answer. To be set before
    anything is given, by whoever knows who answered."""

    def __init__(
        self,
        payers: Payers,
        tenant: str | None,
        prices: Prices,
        tokens_at_a_time: int,
        max_output_tokens: int,
        limiter: TokenLimiter | None = None,
    ) -> None:
        self._payers = payers
        self._limiter = limiter
        self._tenant = tenant
        self._prices = prices
        self._tokens_at_a_time = tokens_at_a_time
        self._max_output_tokens = max_output_tokens
        self._charges: Charges | None = None
        self._taken: Taken | None = None
        self.number = 0
        """Of the next part."""
        self._recorded = Usage()
        self.given = Usage()
        self.is_over = False

    async def begin(self, num_prompt: int) -> None:
        """Take what it may come to from the tenant's rate, and reserve the prompt and the first
        part. Raises RequestError 429 where the rate or a budget does not cover them."""
        if self._limiter is not None:
            most = num_prompt + self._max_output_tokens
            self._taken = await self._limiter.take(self._tenant, most)
        first = self._prices.of(num_prompt, self._num_next)
        try:
            self._charges = await self._payers.reserve(self._tenant, first)
        except BaseException:
            self.drop()
            raise

    async def grow(self, usage: Usage, said: Callable[[], list[dict[str, Any]]]) -> None:
        """To be awaited before what `usage` counts is given away. said: takes what was given since
        the last part. Where it raises, the answer must end without it: RequestError 429 where the
        budget does not cover it, or what `record` raises."""
        due = self._due(usage)
        num_new = usage.num_output - self._recorded.num_output
        if (
            self._charges is None
            or not self._charges.covers(due)
            or num_new > self._tokens_at_a_time
        ):
            if self.given == self._recorded:
                self._refund()  # nothing was given for it yet
            else:
                self._part(said(), None)
            step = self._prices.of(0, self._num_next)
            most = self._due(usage).at_least(step)
            self._charges = await self._payers.reserve(self._tenant, most)
        self.given = usage

    def end(self, said: list[dict[str, Any]], finish_reason: str | None) -> None:
        """Record what was given since the last part, and that there is no more. Again: nothing.
        finish_reason: None where another model's answer follows."""
        try:
            if not self.is_over:
                self.is_over = True
                self._part(said, finish_reason)
        finally:
            self._release()

    @property
    def _num_next(self) -> int:
        """Tokens of the next part, at most."""
        left = self._max_output_tokens - self._recorded.num_output
        return max(0, min(self._tokens_at_a_time, left))

    def drop(self) -> None:
        """Nothing was given for what is reserved now, and nothing will be."""
        self._refund()
        self._release()

    def _refund(self) -> None:
        if self._charges is not None:
            self._charges.refund()
            self._charges = None

    def _release(self) -> None:
        """What was not given goes back to the tenant's rate. Again: nothing."""
        if self._taken is not None:
            taken, self._taken = self._taken, None
            taken.end(self.given.num_prompt + self.given.num_output)

    @property
    def cost_nano_usd(self) -> int:
        """Of what was given so far and is, or will be, recorded."""
        return self._prices.of(self.given.num_prompt, self.given.num_output).nano_usd

    def _due(self, usage: Usage) -> Cost:
        return self._prices.of(
            usage.num_prompt - self._recorded.num_prompt,
            usage.num_output - self._recorded.num_output,
        )

    def _part(self, said: list[dict[str, Any]], finish_reason: str | None) -> None:
        charges, self._charges = self._charges or Charges.unpaid(Cost()), None
        charges.lower(self._due(self.given))
        usage = Usage(
            self.given.num_prompt - self._recorded.num_prompt,
            self.given.num_cached - self._recorded.num_cached,
            self.given.num_output - self._recorded.num_output,
        )
        try:
            self.record(Part(self.number, usage, said, finish_reason, charges))
        except BaseException:  # it is not paid for either, so nothing may follow it
            self.is_over, self.given = True, self._recorded
            raise
        self.number += 1
        self._recorded = self.given
