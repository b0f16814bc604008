"""A bank in memory, of one account."""

from typing import Any

from rayapp.schemas.traffic import Loan, NoLoan


class MemoryBank:
    """It lends what is asked for, or the least, if there is so much."""

    def __init__(self) -> None:
        self.spent = 0
        self.loans: dict[str, int] = {}
        self.units: set[str] = set()

    def lend(
        self, tenant: str, period: str, limit: int, wanted: int, least: int, *how: Any
    ) -> Loan | NoLoan:
        self.units.add(how[-1])
        left = limit - self.spent - sum(self.loans.values())
        if least > left:
            return NoLoan(limit - self.spent)
        loan = Loan(f"loan-{len(self.loans)}-{self.spent}-{left}", min(wanted, left))
        self.loans[loan.loan_id] = loan.amount
        return loan

    def close(self, loan_id: str, spent: int) -> bool:
        assert 0 <= spent <= self.loans.pop(loan_id)
        self.spent += spent
        return True
