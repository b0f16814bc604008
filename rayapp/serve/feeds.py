"""Feature values that endpoints look up: the newest publication of each feed, in this process."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from rayapp.errors import DataError, public_reason
from rayapp.schemas.data import ColumnType
from rayapp.schemas.features import FeatureFeed, FeatureTable
from rayapp.transforms import column_type

log = logging.getLogger("rayapp.serve.feeds")

LOOK_EVERY_S = 0.5
MOST_READS = 2
"""At a time: a large table must not keep the other feeds waiting."""


@dataclass(frozen=True)
class Values:
    """One table of a feed. rows: the values of `columns` in their order, by the values of `keys`;
    times as ISO 8601 texts, as callers send them."""

    keys: Mapping[str, ColumnType]
    columns: Mapping[str, ColumnType]
    rows: Mapping[tuple[Any, ...], tuple[Any, ...]]
    as_of: datetime
    stale_at: datetime

    @classmethod
    def of(cls, table: FeatureTable, read: pa.Table) -> "Values":
        columns = dict(table.columns)
        lists = [_plain(read.column(name)) for name in columns]
        keys = [_plain(read.column(name)) for name in table.keys]
        values = zip(*lists, strict=True)
        places = zip(*keys, strict=True) if keys else iter([()])
        rows = dict(zip(places, values, strict=True))
        types = {name: _key_type(read, name) for name in table.keys}
        return cls(types, columns, rows, table.as_of, table.stale_at)


@dataclass(frozen=True)
class Feed:
    """digest: another one for other values. tables: none where nothing was published yet, or could
    be read. problem: why it could not be read the last time, as callers may know it."""

    name: str
    digest: bytes
    tables: tuple[Values, ...]
    problem: str | None = None

    def lacks(self) -> str | None:
        """What is not in order with it, as the end of a sentence about it."""
        if self.problem is not None:
            return f"cannot be read: {self.problem}"
        return None if self.tables else "was never published"


class Feeds:
    """read_feed: the newest publication, None where there is none. read_table: its values, proven.
    Both block and may raise. `current` may be read from any thread."""

    def __init__(
        self,
        names: Sequence[str],
        read_feed: Callable[[str], FeatureFeed | None],
        read_table: Callable[[FeatureTable], pa.Table],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Mapping[str, Feed] = {name: Feed(name, b"", ()) for name in names}
        self._read_feed = read_feed
        self._read_table = read_table
        self._clock_s = clock_s
        self._look_at_s = 0.0
        self._reading: dict[str, Future[None]] = {}
        self._executor = ThreadPoolExecutor(MOST_READS, thread_name_prefix="feed")
        self._changing = threading.Lock()

    def refresh(self, patience_s: float | None = None) -> None:
        """Look at the publications once, and read what is new; what takes longer than patience_s
        goes on afterwards. Never raises: what was read last still counts, until it is stale. Called
        by one thread at a time."""
        now_s = self._clock_s()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            self._reading = {name: r for name, r in self._reading.items() if not r.done()}
            for name in self.current.keys() - self._reading.keys():
                self._reading[name] = self._executor.submit(self._read, name)
        wait(self._reading.values(), patience_s)

    def _read(self, name: str) -> None:
        before = self.current[name]
        try:
            found = self._newest(before)
        except Exception as error:  # a store's own errors too
            found = replace(before, problem=public_reason(error))
            if found.problem != before.problem:  # a poll repeats itself, the log need not
                log.exception("feed_not_read", extra={"feed": name})
        if found != before:
            with self._changing:
                self.current = {**self.current, name: found}

    def _newest(self, before: Feed) -> Feed:
        feed = self._read_feed(before.name)
        digest = feed.content_digest().encode() if feed is not None else b""
        if feed is None or digest == before.digest:
            return replace(before, problem=None)
        tables = tuple(Values.of(t, self._read_table(t)) for t in feed.tables)
        return Feed(before.name, digest, tables)


def _key_type(read: pa.Table, name: str) -> ColumnType:
    arrow = read.column(name).type
    found = column_type(arrow)
    if found is None or found == "timestamp":  # one time has many spellings
        what = f"its key {name!r} is of type {arrow}"
        raise DataError(what, "publish it by keys that are texts, whole numbers or booleans")
    return found


def _plain(values: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(values.type):
        return [None if v is None else v.isoformat() for v in values.to_pylist()]
    plain: list[Any] = values.to_pylist()
    return plain
