"""What answers cost, by what the logs of predictions and prompts have: billionths of a dollar."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow.compute as pc
from deltalake import DeltaTable

from rayapp.observe.predictions import PREDICTIONS_TABLE
from rayapp.observe.prompts import PROMPTS_TABLE
from rayapp.observe.tables import dataset_of, on_dates, where
from rayapp.storage import Workspace

_TABLES = (PREDICTIONS_TABLE, PROMPTS_TABLE)


def cost_of_loans(workspace: Workspace, loan_ids: Sequence[str]) -> dict[str, int]:
    """Of what is committed and each loan paid for."""
    wanted = pc.field("loan_id").isin(list(loan_ids))
    costs: Counter[str] = Counter(dict.fromkeys(loan_ids, 0))
    for row in _paid(workspace, ["loan_id", "cost_nano_usd"], wanted):
        costs[row["loan_id"]] += row["cost_nano_usd"]
    return dict(costs)


def cost_by_tenant(workspace: Workspace, since: datetime, until: datetime) -> dict[str, int]:
    """Of what is committed and budgets paid for; "" is callers without a key. since is included,
    until is not."""
    wanted = where(None, since, until, None) & on_dates(since, until)
    wanted &= pc.field("loan_id").is_valid()
    costs: Counter[str] = Counter()
    for row in _paid(workspace, ["tenant", "cost_nano_usd"], wanted):
        costs[row["tenant"] or ""] += row["cost_nano_usd"]
    return dict(costs)


def _paid(
    workspace: Workspace, columns: Sequence[str], wanted: pc.Expression
) -> Iterator[Mapping[str, Any]]:
    for name in _TABLES:
        uri = workspace.table(name)
        if not DeltaTable.is_deltatable(uri):
            continue
        table = dataset_of(DeltaTable(uri))
        if "loan_id" in table.schema.names:  # else nobody has paid for anything yet
            yield from table.to_table(columns=list(columns), filter=wanted).to_pylist()
