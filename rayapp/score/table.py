"""The table that scores go to, written so that a job that runs again writes nothing twice.

Delta keeps, with each commit, how far an application has come. An application here is a release
over a set of rows: who comes second, or comes back, sees in the table itself what is there.
"""

import logging

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from rayapp.errors import DataError, Refused, WorkspaceError
from rayapp.storage import dataset_of

log = logging.getLogger("rayapp.score.table")

_ATTEMPTS = 5


def scored_by(release_id: str, input_digest: str) -> str:
    """The application's name."""
    return f"score/{release_id}/{input_digest}"


def come_to(uri: str, application: str, schema: pa.Schema) -> int:
    """Where the application's last commit came to; 0 where it has made none. Raises DataError where
    the table could not take what it will commit."""
    table = _open(uri)
    if table is None:
        return 0
    _refuse_other_columns(uri, table, schema.names)
    return table.transaction_version(application) or 0


def commit_scored(uri: str, rows: pa.Table, application: str, *, before: int, after: int) -> None:
    """Append `rows` with which the application comes from `before` to `after`; nothing where it has
    come so far already.

    Raises Refused where somebody else has come further than `before`, DataError where the table
    holds other things, WorkspaceError where it cannot be written.
    """
    reason = ""
    for attempt in range(_ATTEMPTS):
        table = _open(uri)
        found = 0 if table is None else table.transaction_version(application) or 0
        if found >= after:
            log.info("rows_scored_before", extra={"table": uri, "application": application})
            return
        if found != before:
            raise Refused(
                f"table {uri}: another job has written {found - before:,} of these rows meanwhile",
                "let it finish, then run this again",
            )
        try:
            if table is None:
                table = DeltaTable.create(uri, rows.schema, mode="error")
            _refuse_other_columns(uri, table, rows.column_names)
            fence = CommitProperties(app_transactions=[Transaction(application, after)])
            write_deltalake(table, rows, mode="append", commit_properties=fence)
            return
        except DeltaError as error:
            # somebody committed, or made the table, in between: ask the table again
            log.info("commit_lost_a_race", extra={"table": uri, "attempt": attempt})
            reason = str(error).splitlines()[0]
    raise WorkspaceError(
        f"table {uri}: {_ATTEMPTS} commits failed ({reason})",
        "see whether another job writes the same table, then run this again",
    )


def count_scored(uri: str, release_id: str, input_digest: str) -> dict[str, int]:
    """Of the answers that an application has written: rows, those with an error, and tokens."""
    chosen = (pc.field("release_id") == release_id) & (pc.field("input_digest") == input_digest)
    columns = ["error", "num_prompt_tokens", "num_output_tokens"]
    rows = dataset_of(DeltaTable(uri)).to_table(columns=columns, filter=chosen)
    return {
        "num_rows": rows.num_rows,
        "num_errors": rows.num_rows - rows.column("error").null_count,
        **{name: pc.sum(rows.column(name)).as_py() or 0 for name in columns[1:]},
    }


def _refuse_other_columns(uri: str, table: DeltaTable, names: list[str]) -> None:
    found = [field.name for field in table.schema().fields]
    if found != names:
        raise DataError(
            f"table {uri} has the columns {found}, these rows have {names}",
            "name another `output_table`",
        )


def _open(uri: str) -> DeltaTable | None:
    try:
        return DeltaTable(uri)
    except TableNotFoundError:
        return None
