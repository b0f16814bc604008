"""An endpoint whose answers cost something."""

from dataclasses import replace

from rayapp.serve.callers.budgets import Budgets, Charge
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply


class Charged:
    """What the rows cost is reserved before the wrapped endpoint is asked, and refunded where it
    does not answer. Whoever answers costs the same: a cache, a stand-in. row_cost: in billionths of
    a dollar. budgets: None where nobody's are set, and the cost is only told."""

    def __init__(self, inner: Endpoint, row_cost: int, budgets: Budgets | None) -> None:
        self._inner = inner
        self._row_cost = row_cost
        self._budgets = budgets

    async def predict(self, ask: Ask) -> Reply:
        """Raises RequestError 429 also where the tenant's budget does not cover the rows."""
        cost = self._row_cost * ask.parsed.num_rows
        if self._budgets is None:
            charge = Charge(cost)
        else:
            charge = await self._budgets.reserve(ask.tenant, cost)
        try:
            reply = await self._inner.predict(ask)
        except BaseException:
            charge.refund()
            raise
        return replace(reply, charge=charge)
