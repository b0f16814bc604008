"""What pays for tokens: a tenant's budget in money and its budget in tokens, or one, or none."""

from dataclasses import dataclass
from typing import NamedTuple

from rayapp.serve.callers.budgets import Budgets, Charge


class Cost(NamedTuple):
    """Of some tokens, in billionths of a dollar and in tokens."""

    nano_usd: int = 0
    tokens: int = 0

    def at_least(self, other: "Cost") -> "Cost":
        return Cost(max(self.nano_usd, other.nano_usd), max(self.tokens, other.tokens))


class Prices(NamedTuple):
    """Of one token, in billionths of a dollar."""

    input_nano_usd: int = 0
    output_nano_usd: int = 0

    def of(self, num_input: int, num_output: int) -> Cost:
        nano_usd = num_input * self.input_nano_usd + num_output * self.output_nano_usd
        return Cost(nano_usd, num_input + num_output)


@dataclass(frozen=True, slots=True)
class Charges:
    """One cost, as both budgets pay it. Exactly one of settle and refund ends it."""

    money: Charge
    tokens: Charge

    @classmethod
    def unpaid(cls, cost: Cost) -> "Charges":
        """It is only told."""
        return cls(Charge(cost.nano_usd), Charge(cost.tokens))

    @property
    def cost(self) -> Cost:
        return Cost(self.money.amount, self.tokens.amount)

    @property
    def is_void(self) -> bool:
        return self.money.is_void or self.tokens.is_void

    def covers(self, cost: Cost) -> bool:
        return self.money.amount >= cost.nano_usd and self.tokens.amount >= cost.tokens

    def lower(self, cost: Cost) -> None:
        self.money.lower(cost.nano_usd)
        self.tokens.lower(cost.tokens)

    def settle(self) -> None:
        self.money.settle()
        self.tokens.settle()

    def refund(self) -> None:
        self.money.refund()
        self.tokens.refund()


@dataclass(frozen=True, slots=True)
class Payers:
    """One gateway's budgets; None where nobody's are set, and the cost is only told."""

    money: Budgets | None = None
    tokens: Budgets | None = None

    async def reserve(self, tenant: str | None, cost: Cost) -> Charges:
        """Of both budgets, or of none: raises what the one does that does not cover it."""
        money = await _reserved(self.money, tenant, cost.nano_usd)
        try:
            tokens = await _reserved(self.tokens, tenant, cost.tokens)
        except BaseException:
            money.refund()
            raise
        return Charges(money, tokens)

    async def drain(self) -> None:
        """Return every loan, once all requests are over."""
        for budgets in (self.money, self.tokens):
            if budgets is not None:
                await budgets.drain()


NOBODY = Payers()


async def _reserved(budgets: Budgets | None, tenant: str | None, amount: int) -> Charge:
    return Charge(amount) if budgets is None else await budgets.reserve(tenant, amount)
