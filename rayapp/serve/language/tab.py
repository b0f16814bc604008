"""What one answer costs while it grows: reserved before it is given, recorded once it was.

    begin ── prompt and the first part ──▶ grow ── another part ──▶ … ──▶ end
             reserved                       recorded and settled; the next reserved

A part is some tokens long. So a budget that is used up ends an answer instead of being overspent,
and a gateway that dies leaves at most one part of each answer unrecorded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayapp.serve.callers.budgets import Budgets, Charge
from rayapp.serve.language.relay import Usage


class Prices(NamedTuple):
    """Of one token, in billionths of a dollar."""

    input_nano_usd: int = 0
    output_nano_usd: int = 0

    def of(self, num_input: int, num_output: int) -> int:
        return num_input * self.input_nano_usd + num_output * self.output_nano_usd


@dataclass(frozen=True, slots=True)
class Part:
    """number: from 0. usage: of this part alone. said: what it says, by choice. finish_reason: in
    the last part only. charge: what it costs; settled or refunded by whoever records the part."""

    number: int
    usage: Usage
    said: list[dict[str, Any]]
    finish_reason: str | None
    charge: Charge


class Tab:
    """tokens_at_a_time: of one part. max_output_tokens: more do not come. record: writes a part
    down and ends its charge; what it raises ends the answer. budgets: None where nobody's are set,
    and the cost is only told."""

    def __init__(
        self,
        budgets: Budgets | None,
        tenant: str | None,
        prices: Prices,
        tokens_at_a_time: int,
        max_output_tokens: int,
        record: Callable[[Part], None],
    ) -> None:
        self._budgets = budgets
        self._tenant = tenant
        self._prices = prices
        self._tokens_at_a_time = tokens_at_a_time
        self._max_output_tokens = max_output_tokens
        self._record = record
        self._charge: Charge | None = None
        self._number = 0
        self._recorded = Usage()
        self.given = Usage()
        self.is_over = False

    async def begin(self, num_prompt: int) -> None:
        """Reserve the prompt and the first part. Raises RequestError 429 where the tenant's budget
        does not cover them."""
        self._charge = await self._reserved(self._prices.of(num_prompt, self._num_next))

    async def grow(self, usage: Usage, said: Callable[[], list[dict[str, Any]]]) -> None:
        """To be awaited before what `usage` counts is given away. said: takes what was given since
        the last part. Where it raises, the answer must end without it: RequestError 429 where the
        budget does not cover it, or what `record` raises."""
        due = self._due(usage)
        num_new = usage.num_output - self._recorded.num_output
        if self._charge is None or due > self._charge.amount or num_new > self._tokens_at_a_time:
            if self.given == self._recorded:
                self.drop()  # nothing was given for it yet
            else:
                self._part(said(), None)
            step = self._prices.of(0, self._num_next)
            self._charge = await self._reserved(max(self._due(usage), step))
        self.given = usage

    def end(self, said: list[dict[str, Any]], finish_reason: str) -> None:
        """Record what was given since the last part, and that there is no more. Again: nothing."""
        if not self.is_over:
            self.is_over = True
            self._part(said, finish_reason)

    @property
    def _num_next(self) -> int:
        """Tokens of the next part, at most."""
        left = self._max_output_tokens - self._recorded.num_output
        return max(0, min(self._tokens_at_a_time, left))

    def drop(self) -> None:
        """Nothing was given for what is reserved now."""
        if self._charge is not None:
            self._charge.refund()
            self._charge = None

    @property
    def cost_nano_usd(self) -> int:
        """Of what was given so far and is, or will be, recorded."""
        return self._prices.of(self.given.num_prompt, self.given.num_output)

    def _due(self, usage: Usage) -> int:
        return self._prices.of(
            usage.num_prompt - self._recorded.num_prompt,
            usage.num_output - self._recorded.num_output,
        )

    def _part(self, said: list[dict[str, Any]], finish_reason: str | None) -> None:
        charge, self._charge = self._charge or Charge(0), None
        charge.lower(self._due(self.given))
        usage = Usage(
            self.given.num_prompt - self._recorded.num_prompt,
            self.given.num_cached - self._recorded.num_cached,
            self.given.num_output - self._recorded.num_output,
        )
        try:
            self._record(Part(self._number, usage, said, finish_reason, charge))
        except BaseException:  # it is not paid for either, so nothing may follow it
            self.is_over, self.given = True, self._recorded
            raise
        self._number += 1
        self._recorded = self.given

    async def _reserved(self, cost: int) -> Charge:
        if self._budgets is None:
            return Charge(cost)
        return await self._budgets.reserve(self._tenant, cost)
