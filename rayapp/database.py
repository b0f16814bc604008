"""A database of the workspace, SQLite or PostgreSQL, whose writers go one after the other.

SQLite (write-ahead log) is the default; any SQLAlchemy URL of PostgreSQL serves several nodes. Both
serialise writing transactions: SQLite by BEGIN IMMEDIATE, PostgreSQL by a transaction-scoped
advisory lock. Readers wait for nobody.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from rayapp.errors import WorkspaceError


class Database:
    """Opens it, and creates the tables that are not there yet; those that are stay as they are.
    lock_id: any constant, the same for all who write to these tables. Every method raises
    WorkspaceError where it cannot be reached."""

    def __init__(self, url: str, tables: sa.MetaData, lock_id: int) -> None:
        self.url = url
        self._lock_id = lock_id
        self._is_sqlite = url.startswith("sqlite")
        arguments = {"timeout": 30} if self._is_sqlite else {}
        self._engine = sa.create_engine(url, connect_args=arguments)
        if self._is_sqlite:
            sa.event.listen(self._engine, "connect", _use_wal)
        try:
            with self._engine.connect() as connection:
                self._begin(connection)
                tables.create_all(connection)
                connection.commit()
        except SQLAlchemyError as error:
            raise self._unreachable(error) from None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except OperationalError as error:
            raise self._unreachable(error) from None

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One serialised transaction: all of it, or nothing where the block raises."""
        try:
            with self._engine.connect() as connection:
                self._begin(connection)
                yield connection
                connection.commit()
        except OperationalError as error:
            raise self._unreachable(error) from None

    def _begin(self, connection: sa.Connection) -> None:
        if self._is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(self._lock_id)))

    def _unreachable(self, error: SQLAlchemyError) -> WorkspaceError:
        shown = sa.make_url(self.url).render_as_string(hide_password=True)
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        return WorkspaceError(
            f"ledger {shown}: {reason}", "check RAYAPP_WORKSPACE or RAYAPP_LEDGER_URL"
        )


def _use_wal(connection: Any, _: Any) -> None:
    """Readers never wait for a writer; and transactions begin where we say, not where pysqlite
    does."""
    connection.isolation_level = None
    # a damaged text must reach `verify`, which names its event, rather than fail the whole query
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
