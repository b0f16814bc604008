"""Budgets where accounts and the prediction log meet: loans of dead gateways are settled, and both
sides are shown beside each other."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rayapp.govern.accounts import Accounts
from rayapp.observe.costs import cost_by_tenant, cost_of_loans
from rayapp.observe.node_log import NodeLog
from rayapp.schemas.period import bounds
from rayapp.schemas.traffic import Unit
from rayapp.storage import Workspace

log = logging.getLogger("rayapp.flows.spending")


def settle_abandoned(
    accounts: Accounts, node_log: NodeLog, workspace: Workspace, now: datetime
) -> int:
    """End the loans of gateways that died, by what they recorded, and forget those that ended long
    ago. Returns how many were ended.

    Everything that this node has spooled is committed first, by its log: a gateway records nothing
    on a loan that may be settled. What a node has spooled that is gone nobody can commit.
    """
    accounts.forget(now)
    num_ended = 0
    loans = accounts.abandoned(now)
    if loans:
        node_log.commit(wait=True)
        costs = cost_of_loans(workspace, loans)
        num_ended += sum(accounts.settle(loan_id, costs[loan_id]) for loan_id in loans)
    lost = accounts.lost(now)
    if lost:
        costs = cost_of_loans(workspace, lost)
        num_lost = sum(accounts.write_off(loan_id, costs[loan_id]) for loan_id in lost)
        log.warning("loans_of_lost_nodes_ended", extra={"num_loans": num_lost})
        num_ended += num_lost
    return num_ended


def give_back(accounts: Accounts, costs: Mapping[str, int]) -> None:
    """What loans paid for rows that were paid for already, by the loans' ids."""
    for loan_id, cost in costs.items():
        accounts.give_back(loan_id, cost)


@dataclass(frozen=True)
class Spending:
    """One tenant's period, in billionths of a dollar or in tokens, as unit says. spent and lent: by
    the accounts; limit: the budget that a gateway last wanted a loan within, None where none has
    said so; logged: what the committed answers cost. While gateways answer, spent and what they
    have used of lent may be ahead of logged."""

    tenant: str
    period: str
    unit: Unit
    spent: int
    lent: int
    limit: int | None
    logged: int


def spending(accounts: Accounts, workspace: Workspace) -> list[Spending]:
    """Every tenant's periods, by period, tenant and unit."""
    listed = accounts.all()
    logged = {
        (period, unit): cost_by_tenant(workspace, *bounds(period), unit)
        for period, unit in {(a.period, a.unit) for a in listed}
    }
    return [
        Spending(
            a.tenant,
            a.period,
            a.unit,
            a.spent,
            a.lent,
            a.limit,
            logged[a.period, a.unit].get(a.tenant, 0),
        )
        for a in listed
    ]
