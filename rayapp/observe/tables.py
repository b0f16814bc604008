"""Reading records into tables, and tables again."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json as pj
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from rayapp.errors import WorkspaceError
from rayapp.schemas.traffic import SHADOW
from rayapp.storage import dataset_of

TIME = pa.timestamp("us", "UTC")
_DATE = "%Y-%m-%d"


def parsed(lines: bytes, schema: pa.Schema) -> pa.Table:
    """What is not there is null."""
    return pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(lines)),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).combine_chunks()


def dated(rows: pa.Table) -> pa.Table:
    """With the day of `at` in UTC in the column `date`, by which a table is parted."""
    date = pc.strftime(rows.column("at"), format=_DATE)
    return rows.set_column(rows.schema.get_field_index("date"), "date", date)


def on_dates(since: datetime | None, until: datetime | None) -> ds.Expression:
    """Leaves out the parts of a table by date that `where` wants nothing of."""
    wanted = ds.scalar(True)
    if since is not None:
        wanted &= ds.field("date") >= since.astimezone(UTC).strftime(_DATE)
    if until is not None:
        wanted &= ds.field("date") <= until.astimezone(UTC).strftime(_DATE)
    return wanted


def where(
    endpoint: str | None,
    since: datetime | None,
    until: datetime | None,
    request_id: str | None,
) -> ds.Expression:
    """since is included, until is not."""
    wanted = ds.scalar(True)
    if endpoint is not None:
        wanted &= ds.field("endpoint") == endpoint
    if request_id is not None:
        wanted &= ds.field("request_id") == request_id
    if since is not None:
        wanted &= ds.field("at") >= pa.scalar(since, TIME)
    if until is not None:
        wanted &= ds.field("at") < pa.scalar(until, TIME)
    return wanted


def answered(table: pa.Table) -> pa.Table:
    """The rows that somebody got: those of shadows are left out."""
    return table.filter(pc.invert(pc.ends_with(table.column("endpoint"), SHADOW)))


def read_table(table_uri: str, schema: pa.Schema, wanted: ds.Expression) -> pa.Table:
    try:
        if not DeltaTable.is_deltatable(table_uri):
            return schema.empty_table()
        found = dataset_of(DeltaTable(table_uri)).to_table(filter=wanted)
    except (DeltaError, OSError) as error:
        raise WorkspaceError(
            f"table {table_uri}: cannot be read ({error})",
            "`rayapp audit verify` names the damage",
        ) from None
    for name in schema.names:
        if name not in found.column_names:  # a table from before there was such a column
            found = found.append_column(name, pa.nulls(len(found), schema.field(name).type))
    return found.select(schema.names).cast(schema)
