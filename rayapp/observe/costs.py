"""What answers cost, by what the prediction log has: billionths of a dollar."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow.compute as pc
from deltalake import DeltaTable

from rayapp.observe.predictions import read_predictions


def cost_of_loans(table_uri: str, loan_ids: Sequence[str]) -> dict[str, int]:
    """Of the committed predictions that each loan paid for."""
    costs = dict.fromkeys(loan_ids, 0)
    if not DeltaTable.is_deltatable(table_uri):
        return costs
    table = DeltaTable(table_uri).to_pyarrow_dataset()
    if "loan_id" not in table.schema.names:  # nobody has paid for anything yet
        return costs
    wanted = pc.field("loan_id").isin(list(loan_ids))
    found = table.to_table(columns=["loan_id", "cost_nano_usd"], filter=wanted)
    for row in found.to_pylist():
        costs[row["loan_id"]] += row["cost_nano_usd"]
    return costs


def cost_by_tenant(table_uri: str, since: datetime, until: datetime) -> dict[str, int]:
    """Of the committed predictions that budgets paid for; "" is callers without a key."""
    found = read_predictions(table_uri, since=since, until=until)
    paid = found.filter(pc.is_valid(found.column("loan_id")))
    sums = paid.group_by("tenant").aggregate([("cost_nano_usd", "sum")]).to_pylist()
    return {row["tenant"] or "": row["cost_nano_usd_sum"] for row in sums}
