"""From the spool to a Delta table, exactly once.

Each segment is an application of the table's transaction log, whose version is the number of its
bytes that are in the table. A commit writes rows and numbers together, so what a crash leaves is
either uncommitted (the next run commits it) or committed (the next run skips it, and removes a
segment that is finished). Nothing depends on which step a process dies in.

A replica that is killed may have recorded an answer that it could not send any more; the ingress
then asks another replica, which records the same request again. So a commit that finds a dead
writer notes the time in the table; what was recorded until a while after it is left out where the
table has it already. (Two nodes leave one gap: a row that was in the table before its writer died,
recorded again on another node that commits before the first one has found the death.)
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from rayapp.errors import WorkspaceError
from rayapp.observe.spool import SUFFIX, Read, read_segment, was_closed
from rayapp.storage import dataset_of

log = logging.getLogger("rayapp.observe.commit")

MAX_COMMIT_BYTES = 64 * 1024 * 1024
DAMAGED = ".damaged"
_LOCK = ".commit.lock"
_ATTEMPTS = 5
DEATHS = "spool/deaths"
"""The application whose version is when a dead writer was last found, in seconds since 1970."""
SETTLE_S = 120
"""What another replica makes of a dead one's requests is in a spool within this time."""

_MOST_KNOWN = 10_000
_committed: dict[str, int] = {}
"""Bytes of a segment that this process has seen in its table, at least; by application. Where they
are all there are, Delta need not be asked, which takes it 2 ms where there are a thousand."""


@dataclass(frozen=True)
class RecordTable:
    """How records of one kind become rows. rows: records, as JSON texts → a table of exactly
    `schema`. key: the columns that are alike in two rows where one request was recorded twice."""

    schema: pa.Schema
    partition_by: tuple[str, ...]
    rows: Callable[[Sequence[bytes]], pa.Table]
    key: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    path: Path
    size: int
    """Before anybody was looked for who had died: what is recorded in a dead writer's place comes
    later, and is left to a run that knows of the death."""
    is_complete: bool
    """Nobody writes to it any more."""
    is_abandoned: bool
    """Its writer died."""

    @property
    def application(self) -> str:
        return f"spool/{self.path.stem}"


def commit_spool(
    folder: Path,
    table_uri: str,
    kind: RecordTable,
    wait: bool = False,
    clock: Callable[[], float] = time.time,
    on_repeated: Callable[[Sequence[Mapping[str, Any]]], object] = lambda rows: None,
    below: str = ".",
) -> int:
    """Commit what the folder's segments hold beyond what the table has; returns the rows committed.
    below: a pattern for where in the folder they lie. They are committed together: each commit
    costs some 20 ms, however little is in it, and is a file that all readers of the table read.
    on_repeated gets the rows that were left out, since the table has them, once they are.

    Only one process of a node commits at a time: with `wait` this one waits for its turn, otherwise
    it leaves the work to the other. Raises WorkspaceError when the table does not take the commit.
    """
    with _turn(folder, wait) as is_ours:
        if not is_ours:
            return 0
        num_rows = 0
        with ExitStack() as held:
            segments = _segments(folder, below, held)
            while segments:
                written, is_done = _commit_some(segments, table_uri, kind, clock())
                num_rows += written.num_rows
                if written.repeated:
                    on_repeated(written.repeated)
                if is_done:
                    break
        return num_rows


@dataclass(frozen=True)
class _Written:
    num_rows: int = 0
    repeated: Sequence[Mapping[str, Any]] = ()


def _commit_some(
    segments: Sequence[_Segment], table_uri: str, kind: RecordTable, now_s: float
) -> tuple[_Written, bool]:
    """One commit of at most MAX_COMMIT_BYTES; whether that was all there is."""
    for attempt in range(_ATTEMPTS):
        try:
            table = _open(table_uri, kind)
            parts, is_done = _pending(segments, table)
            rows, parts = _as_rows(parts, kind)
            written = _write(table, kind, parts, rows, now_s) if parts else _Written()
        except CommitFailedError:
            log.info("commit_lost_a_race", extra={"table": table_uri, "attempt": attempt})
            continue
        except DeltaError as error:
            raise _refused(table_uri, error) from error
        _report_damage(parts)
        if is_done:
            _remove_finished(segments, _open(table_uri, kind))
        return written, is_done
    raise _refused(table_uri, f"{_ATTEMPTS} commits lost against others")


def _pending(
    segments: Sequence[_Segment], table: DeltaTable
) -> tuple[list[tuple[_Segment, Read]], bool]:
    parts: list[tuple[_Segment, Read]] = []
    budget = MAX_COMMIT_BYTES
    for segment in segments:
        if budget <= 0:
            return parts, False
        if segment.size == _committed.get(segment.application) and not segment.is_complete:
            continue
        offset = table.transaction_version(segment.application) or 0
        if len(_committed) >= _MOST_KNOWN:  # others remove segments too
            _committed.clear()
        _committed[segment.application] = offset
        read = read_segment(segment.path, offset, segment.size, segment.is_complete, budget)
        if read.end > offset or segment.is_abandoned:
            parts.append((segment, read))
            budget -= read.end - offset
            if read.end < segment.size and segment.is_complete:
                return parts, False
    return parts, True


def _as_rows(
    parts: list[tuple[_Segment, Read]], kind: RecordTable
) -> tuple[pa.Table, list[tuple[_Segment, Read]]]:
    """What was read, as rows. A record that cannot become one is damage: it must not keep back
    those of every endpoint."""
    records = [record for _, read in parts for record in read.records]
    if not records:
        return kind.schema.empty_table(), parts
    try:
        return kind.rows(records), parts
    except (ValueError, TypeError, KeyError):  # pyarrow's own errors are of the first two
        log.exception("records_not_rows")
    tables = [kind.schema.empty_table()]
    sound = []
    for segment, read in parts:
        good = []
        for record in read.records:
            with suppress(ValueError, TypeError, KeyError):
                tables.append(kind.rows([record]))
                good.append(record)
        num_damaged = read.num_damaged + len(read.records) - len(good)
        sound.append((segment, Read(good, read.end, num_damaged)))
    return pa.concat_tables(tables), sound


def _write(
    table: DeltaTable,
    kind: RecordTable,
    parts: Sequence[tuple[_Segment, Read]],
    rows: pa.Table,
    now_s: float,
) -> _Written:
    """Through the very handle whose transaction versions were read: only then does Delta refuse the
    commit when somebody else has committed the same bytes meanwhile."""
    done = [Transaction(segment.application, read.end) for segment, read in parts]
    repeated: list[Mapping[str, Any]] = []
    died_s = table.transaction_version(DEATHS)
    if any(segment.is_abandoned for segment, _ in parts):
        died_s = int(now_s)
        done.append(Transaction(DEATHS, died_s))
    if died_s is not None and len(rows):
        first = pc.min(rows.column("at")).as_py()
        if first.timestamp() < died_s + SETTLE_S:
            is_new = _are_new(rows, table, kind, first - timedelta(seconds=SETTLE_S))
            repeated = rows.filter(pa.array([not new for new in is_new])).to_pylist()
            rows = rows.filter(pa.array(is_new))
    write_deltalake(
        table,
        rows,
        mode="append",
        schema_mode="merge",  # a table may be older than a column of ours
        commit_properties=CommitProperties(app_transactions=done, max_commit_retries=0),
    )
    return _Written(len(rows), repeated)


def _are_new(rows: pa.Table, table: DeltaTable, kind: RecordTable, since: datetime) -> list[bool]:
    """Whether each is neither in the table, which is looked at from `since` on, nor earlier in
    `rows`."""
    wanted = (ds.field("at") >= since) & ds.field("request_id").isin(rows.column("request_id"))
    if "date" in kind.partition_by:
        wanted &= ds.field("date") >= since.date().isoformat()
    files = dataset_of(table, since)
    there = [name for name in kind.key if name in files.schema.names]  # it may be older than others
    known = files.to_table(columns=there, filter=wanted)
    seen = set(_keys(known, kind))
    is_new = []
    for key in _keys(rows, kind):
        is_new.append(key not in seen)
        seen.add(key)
    if not all(is_new):
        log.info("requests_answered_again", extra={"num_rows": is_new.count(False)})
    return is_new


def _keys(rows: pa.Table, kind: RecordTable) -> Iterator[tuple[Any, ...]]:
    nothing = [None] * len(rows)
    columns = (
        rows.column(name).to_pylist() if name in rows.column_names else nothing for name in kind.key
    )
    return zip(*columns, strict=True)


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
        if (table.transaction_version(segment.application) or 0) >= segment.size:
            segment.path.unlink()
            _committed.pop(segment.application, None)


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


def _segments(folder: Path, below: str, held: ExitStack) -> list[_Segment]:
    """The segments there are. The lock on a complete one is held, so nobody can think it alive."""
    found = []
    sizes = {path: path.stat().st_size for path in sorted(folder.glob(f"{below}/*{SUFFIX}"))}
    for path, size in sizes.items():
        file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            found.append(_Segment(path, size, is_complete=False, is_abandoned=False))
        else:
            held.callback(os.close, file)
            size = os.fstat(file).st_size  # nobody writes to it any more
            found.append(_Segment(path, size, is_complete=True, is_abandoned=not was_closed(path)))
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
