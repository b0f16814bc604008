"""Reading records into tables, and tables again."""

from datetime import datetime

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.json as pj
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from rayapp.errors import WorkspaceError

TIME = pa.timestamp("us", "UTC")


def parsed(lines: bytes, schema: pa.Schema) -> pa.Table:
    """What is not there is null."""
    return pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(lines)),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).combine_chunks()


def where(
    endpoint: str | None,
    since: datetime | None,
    until: datetime | None,
    request_id: str | None,
) -> ds.Expression:
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


def read_table(table_uri: str, schema: pa.Schema, wanted: ds.Expression) -> pa.Table:
    try:
        if not DeltaTable.is_deltatable(table_uri):
            return schema.empty_table()
        found = DeltaTable(table_uri).to_pyarrow_dataset().to_table(filter=wanted)
    except (DeltaError, OSError) as error:
        raise WorkspaceError(
            f"table {table_uri}: cannot be read ({error})",
            "`rayapp audit verify` names the damage",
        ) from None
    for name in schema.names:
        if name not in found.column_names:  # a table from before there was such a column
            found = found.append_column(name, pa.nulls(len(found), schema.field(name).type))
    return found.select(schema.names).cast(schema)
