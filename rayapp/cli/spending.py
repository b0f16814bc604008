"""`rayapp spending`: the tenants' accounts, beside what the prediction log says."""

from collections.abc import Sequence

from rich.table import Table

from rayapp.cli.terminal import show_folded, show_next
from rayapp.flows.spending import Spending, spending
from rayapp.govern.accounts import Accounts
from rayapp.schemas.traffic import NANO
from rayapp.storage import Workspace


def spending_of(workspace: Workspace) -> list[Spending]:
    return spending(Accounts.of(workspace), workspace)


def show(found: Sequence[Spending]) -> None:
    if not found:
        show_next(["docs/how-to/serve-several-models.md: prices and budgets"])
        return
    table = Table(box=None)
    for title in ("period", "tenant"):
        table.add_column(title)
    for title in ("spent USD", "lent USD", "logged USD"):
        table.add_column(title, justify="right")
    for one in found:
        amounts = (f"{amount / NANO:.6f}" for amount in (one.spent, one.lent, one.logged))
        table.add_row(one.period, one.tenant or "(no key)", *amounts)
    show_folded(table)
