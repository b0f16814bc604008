"""An endpoint whose answers cost something."""

from dataclasses import replace

from rayapp.serve.callers.budgets import Budgets, Charge
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply


class Charged:
    """The most that the rows may cost is reserved before the wrapped endpoint is asked; what the
    answer costs less goes back, all of it where there is none. Who answers costs the same, a cache
    or a stand-in too, unless the reply says what each row costs. budgets: None where nobody's are
    set, and the cost is only told."""

    def __init__(
        self,
        inner: Endpoint,
        row_nano_usd: int,
        budgets: Budgets | None,
        most_row_nano_usd: int | None = None,
    ) -> None:
        self._inner = inner
        self._row_nano_usd = row_nano_usd
        self._most_row_nano_usd = row_nano_usd if most_row_nano_usd is None else most_row_nano_usd
        self._budgets = budgets

    async def predict(self, ask: Ask) -> Reply:
        """Raises RequestError 429 also where the tenant's budget does not cover the rows."""
        num_rows = ask.parsed.num_rows
        most_nano_usd = self._most_row_nano_usd * num_rows
        if self._budgets is None:
            charge = Charge(most_nano_usd)
        else:
            charge = await self._budgets.reserve(ask.tenant, most_nano_usd)
        try:
            reply = await self._inner.predict(ask)
        except BaseException:
            charge.refund()
            raise
        cost_nano_usd = self._row_nano_usd * num_rows
        if reply.by_row is not None:
            cost_nano_usd = sum(row.cost_nano_usd for row in reply.by_row)
        if cost_nano_usd != most_nano_usd:
            charge.lower(cost_nano_usd)
        return replace(reply, charge=charge)
