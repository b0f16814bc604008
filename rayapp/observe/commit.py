"""From the spool to a Delta table, exactly once.

Each segment is an application of the table's transaction log, whose version is the number of its
bytes that are in the table. A commit writes rows and numbers together, so what a crash leaves is
either uncommitted (the next run commits it) or committed (the next run skips it, and removes a
segment that is finished). Nothing depends on which step a process dies in.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from rayapp.errors import WorkspaceError
from rayapp.observe.spool import SUFFIX, Read, read_segment

log = logging.getLogger("rayapp.observe.commit")

MAX_COMMIT_BYTES = 64 * 1024 * 1024
DAMAGED = ".damaged"
_LOCK = ".commit.lock"
_ATTEMPTS = 5


@dataclass(frozen=True)
class RecordTable:
    """How records of one kind become rows. rows: records → a table of exactly `schema`."""

    schema: pa.Schema
    partition_by: tuple[str, ...]
    rows: Callable[[Sequence[Mapping[str, Any]]], pa.Table]


@dataclass(frozen=True)
class _Segment:
    path: Path
    is_complete: bool
    """Nobody writes to it any more."""

    @property
    def application(self) -> str:
        return f"spool/{self.path.stem}"


def commit_spool(folder: Path, table_uri: str, kind: RecordTable, wait: bool = False) -> int:
    """Commit what the folder's segments hold beyond what the table has; returns the rows committed.

    Only one process of a node commits at a time: with `wait` this one waits for its turn, otherwise
    it leaves the work to the other. Raises WorkspaceError when the table does not take the commit.
    """
    with _turn(folder, wait) as is_ours:
        if not is_ours:
            return 0
        num_rows = 0
        with ExitStack() as held:
            segments = _segments(folder, held)
            while segments:
                committed, is_done = _commit_some(segments, table_uri, kind)
                num_rows += committed
                if is_done:
                    break
        return num_rows


def _commit_some(
    segments: Sequence[_Segment], table_uri: str, kind: RecordTable
) -> tuple[int, bool]:
    """One commit of at most MAX_COMMIT_BYTES; whether that was all there is."""
    for attempt in range(_ATTEMPTS):
        try:
            table = _open(table_uri, kind)
            parts, is_done = _pending(segments, table)
            records = [record for _, read in parts for record in read.records]
            if parts:
                _write(table, kind, parts, records)
        except CommitFailedError:
            log.info("commit_lost_a_race", extra={"table": table_uri, "attempt": attempt})
            continue
        except DeltaError as error:
            raise _refused(table_uri, error) from error
        _report_damage(parts)
        if is_done:
            _remove_finished(segments, _open(table_uri, kind))
        return len(records), is_done
    raise _refused(table_uri, f"{_ATTEMPTS} commits lost against others")


def _pending(
    segments: Sequence[_Segment], table: DeltaTable
) -> tuple[list[tuple[_Segment, Read]], bool]:
    parts: list[tuple[_Segment, Read]] = []
    budget = MAX_COMMIT_BYTES
    for segment in segments:
        if budget <= 0:
            return parts, False
        offset = table.transaction_version(segment.application) or 0
        read = read_segment(segment.path, offset, segment.is_complete, budget)
        if read.end > offset:
            parts.append((segment, read))
            budget -= read.end - offset
            if read.end < segment.path.stat().st_size and segment.is_complete:
                return parts, False
    return parts, True


def _write(
    table: DeltaTable,
    kind: RecordTable,
    parts: Sequence[tuple[_Segment, Read]],
    records: Sequence[Mapping[str, Any]],
) -> None:
    """Through the very handle whose transaction versions were read: only then does Delta refuse the
    commit when somebody else has committed the same bytes meanwhile."""
    done = [Transaction(segment.application, read.end) for segment, read in parts]
    write_deltalake(
        table,
        kind.rows(records) if records else kind.schema.empty_table(),
        mode="append",
        schema_mode="merge",  # a table may be older than a column of ours
        commit_properties=CommitProperties(app_transactions=done, max_commit_retries=0),
    )


def _open(table_uri: str, kind: RecordTable) -> DeltaTable:
    """The table, created where there is none. Raises CommitFailedError where another node creates
    it at the same moment."""
    try:
        if DeltaTable.is_deltatable(table_uri):
            return DeltaTable(table_uri)
        return DeltaTable.create(
            table_uri, kind.schema, mode="ignore", partition_by=list(kind.partition_by)
        )
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        raise _refused(table_uri, error) from error


def _remove_finished(segments: Sequence[_Segment], table: DeltaTable) -> None:
    for segment in segments:
        if not segment.is_complete or not segment.path.exists():
            continue
        if (table.transaction_version(segment.application) or 0) >= segment.path.stat().st_size:
            segment.path.unlink()


def _report_damage(parts: Sequence[tuple[_Segment, Read]]) -> None:
    """Lines that could not be read are kept beside the spool for a person to look at."""
    for segment, read in parts:
        if read.num_damaged:
            kept = segment.path.with_suffix(DAMAGED)
            kept.write_bytes(segment.path.read_bytes())
            log.error(
                "spool_damaged",
                extra={"segment": str(kept), "num_lines": read.num_damaged},
            )


def _segments(folder: Path, held: ExitStack) -> list[_Segment]:
    """The segments there are. The lock on a complete one is held, so nobody can think it alive."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            found.append(_Segment(path, is_complete=False))
        else:
            held.callback(os.close, file)
            found.append(_Segment(path, is_complete=True))
    return found


@contextmanager
def _turn(folder: Path, wait: bool) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _refused(table_uri: str, reason: object) -> WorkspaceError:
    return WorkspaceError(
        f"table {table_uri}: records cannot be committed ({reason})",
        "they stay in the spool and are committed once the table can be written again",
    )
