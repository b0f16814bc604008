"""`rayapp spending`: the tenants' accounts, beside what the logs say."""

from collections.abc import Sequence

from rich.table import Table

from rayapp.cli.terminal import show_folded, show_next, to_caller
from rayapp.flows.spending import Spending, spending
from rayapp.govern.accounts import Accounts
from rayapp.schemas.traffic import NANO, Unit
from rayapp.storage import Workspace


def spending_of(workspace: Workspace) -> list[Spending]:
    return spending(Accounts.of(workspace), workspace)


def show(found: Sequence[Spending]) -> None:
    if not found:
        to_caller().print("nothing was spent: no budget has paid for an answer yet")
        show_next(["docs/how-to/serve-several-models.md: prices and budgets"])
        return
    table = Table(box=None)
    for title in ("period", "tenant"):
        table.add_column(title)
    for title in ("budget", "spent", "lent", "logged"):
        table.add_column(title, justify="right")
    table.add_column("unit")
    for one in found:
        amounts = [
            _told(amount, one.unit) for amount in (one.limit, one.spent, one.lent, one.logged)
        ]
        unit = "tokens" if one.unit == "tokens" else "USD"
        table.add_row(one.period, one.tenant or "(no key)", *amounts, unit)
    show_folded(table)


def _told(amount: int | None, unit: Unit) -> str:
    if amount is None:
        return "-"
    return f"{amount:,}" if unit == "tokens" else f"{amount / NANO:.6f}"
