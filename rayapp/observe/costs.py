"""What answers cost, by what the logs of predictions and prompts have, in the units that budgets
are counted in."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow.compute as pc
from deltalake import DeltaTable

from rayapp.observe.predictions import PREDICTIONS_TABLE
from rayapp.observe.prompts import PROMPTS_TABLE
from rayapp.observe.tables import on_dates, where
from rayapp.schemas.traffic import Unit
from rayapp.storage import Workspace, dataset_of

_TABLES = (PREDICTIONS_TABLE, PROMPTS_TABLE)
_COLUMNS: dict[Unit, tuple[str, tuple[str, ...]]] = {
    "nano_usd": ("loan_id", ("cost_nano_usd",)),
    "tokens": ("token_loan_id", ("num_prompt_tokens", "num_output_tokens")),
}
"""Which column of a row has the loan that paid for it, and which together what that paid."""


def paid_by(row: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The loans that paid for a row of either log, and how much."""
    for loan_column, columns in _COLUMNS.values():
        if row.get(loan_column) is not None:
            yield row[loan_column], sum(row[name] for name in columns)


def cost_of_loans(workspace: Workspace, loan_ids: Sequence[str]) -> dict[str, int]:
    """Of what is committed and each loan paid for, in the loan's unit."""
    costs: Counter[str] = Counter(dict.fromkeys(loan_ids, 0))
    for unit, (loan_column, _) in _COLUMNS.items():
        wanted = pc.field(loan_column).isin(list(loan_ids))
        for loan_id, amount in _paid(workspace, unit, loan_column, wanted):
            costs[loan_id] += amount
    return dict(costs)


def cost_by_tenant(
    workspace: Workspace, since: datetime, until: datetime, unit: Unit
) -> dict[str, int]:
    """Of what is committed and budgets in this unit paid for; "" is callers without a key. since is
    included, until is not."""
    wanted = where(None, since, until, None) & on_dates(since, until)
    wanted &= pc.field(_COLUMNS[unit][0]).is_valid()
    costs: Counter[str] = Counter()
    for tenant, amount in _paid(workspace, unit, "tenant", wanted):
        costs[tenant or ""] += amount
    return dict(costs)


def _paid(
    workspace: Workspace, unit: Unit, by: str, wanted: pc.Expression
) -> Iterator[tuple[Any, int]]:
    """Of each row that is wanted: its value in the column `by`, and what was paid for it."""
    loan_column, columns = _COLUMNS[unit]
    for name in _TABLES:
        uri = workspace.table(name)
        if not DeltaTable.is_deltatable(uri):
            continue
        table = dataset_of(DeltaTable(uri))
        if loan_column in table.schema.names:  # else nobody has paid for anything yet
            wanted_columns = list({by, loan_column, *columns})
            for row in table.to_table(columns=wanted_columns, filter=wanted).to_pylist():
                # a file whose loans are all one, by its statistics, passes as if none were missing
                if row[loan_column] is not None:
                    yield row[by], sum(row[column] for column in columns)
