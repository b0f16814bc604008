"""An endpoint whose answers cost something."""

from dataclasses import replace

from rayapp.serve.callers.budgets import Budgets, Charge
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply


class Charged:
    """The most that the rows may cost is reserved before the wrapped endpoint is asked; what the
    answer costs less goes back, all of it where there is none. Who answers costs the same, a cache
    or a stand-in too, unless the reply says what each row costs. row_cost, most_row_cost: in
    billionths of a dollar. budgets: None where nobody's are set, and the cost is only told."""

    def __init__(
        self,
        inner: Endpoint,
        row_cost: int,
        budgets: Budgets | None,
        most_row_cost: int | None = None,
    ) -> None:
        self._inner = inner
        self._row_cost = row_cost
        self._most = row_cost if most_row_cost is None else most_row_cost
        self._budgets = budgets

    async def predict(self, ask: Ask) -> Reply:
        """Raises RequestError 429 also where the tenant's budget does not cover the rows."""
        num_rows = ask.parsed.num_rows
        most = self._most * num_rows
        if self._budgets is None:
            charge = Charge(most)
        else:
            charge = await self._budgets.reserve(ask.tenant, most)
        try:
            reply = await self._inner.predict(ask)
        except BaseException:
            charge.refund()
            raise
        cost = self._row_cost * num_rows
        if reply.by_row is not None:
            cost = sum(row.cost for row in reply.by_row)
        if cost != most:
            charge.lower(cost)
        return replace(reply, charge=charge)
