"""A local write-ahead log: records are in the operating system's hands before an answer leaves.

    <folder>/<process>-<random>-<n>.log    one segment: lines of "crc32 json", one writer each

`append` returns after one write(2). That survives the death of the process by any signal; it does
not survive the loss of the machine within the seconds until the next commit, for which an fsync in
each request (milliseconds) would be the price. `close` and a full segment are flushed to the disk.

A writer holds a lock on its segment for as long as it writes. The lock dies with the process, so a
segment that can be locked is complete, whoever wrote it. (A process id could be used again.) One
that its writer closed ends with an empty record; one without was left by a writer that died, whose
last records may be of answers that never left.
"""

import fcntl
import logging
import os
import threading
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger("rayapp.observe.spool")

SUFFIX = ".log"
MAX_SEGMENT_BYTES = 8 * 1024 * 1024
_PREFIX_BYTES = 9  # eight hexadecimal digits and a space


class Spool:
    """One process's writer. Safe to use from several threads."""

    def __init__(self, folder: Path, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_segment_bytes
        self._name = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._number = 0
        self._file: int | None = None
        self._size = 0

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """All of them or none. Raises OSError when the disk does not take them."""
        data = b"".join(encode_record(record) for record in records)
        with self._lock:
            if self._file is None or self._size >= self._max_bytes:
                self._rotate()
            assert self._file is not None
            try:
                _write_all(self._file, data)
            except OSError:
                os.ftruncate(self._file, self._size)  # half a record helps nobody
                os.lseek(self._file, self._size, os.SEEK_SET)
                raise
            self._size += len(data)

    def close(self) -> None:
        """The segment is complete from now on; a later append begins another."""
        with self._lock:
            self._close()

    def _rotate(self) -> None:
        self._close()
        path = self._folder / f"{self._name}-{self._number}{SUFFIX}"
        hidden = path.with_suffix(".new")
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.rename(hidden, path)  # seen by others only once it is locked
        except BaseException:
            os.close(file)
            raise
        self._number += 1
        self._file, self._size = file, 0

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                _write_all(file, _CLOSED)
                os.fsync(file)
            finally:
                os.close(file)


def encode_record(record: Mapping[str, Any]) -> bytes:
    text = orjson.dumps(record)
    return b"%08x %s\n" % (zlib.crc32(text), text)


_END = b"{}"
_CLOSED = encode_record({})


def was_closed(path: Path) -> bool:
    """Whether its writer closed it; for a segment that is complete."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_CLOSED)))
        return file.read() == _CLOSED


@dataclass(frozen=True)
class Read:
    """records: those between the offset asked for and `end`, as JSON texts. num_damaged: lines that
    are not what was written; they are passed over."""

    records: list[bytes]
    end: int
    num_damaged: int


def read_segment(path: Path, offset: int, size: int, is_complete: bool, max_bytes: int) -> Read:
    """Whole lines from `offset` on, at least one and then up to `max_bytes`, of the first `size`
    bytes.

    Of a segment that is still written, an unfinished last line is left for the next time; of a
    complete one it is what a dying process left behind, and counts as damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(max(0, min(max_bytes, size - offset)))
        while data and b"\n" not in data:
            more = file.read(max(0, min(max_bytes, size - file.tell())))
            if not more:
                break
            data += more
        is_last = file.tell() >= size
    whole = data.rfind(b"\n") + 1
    records, num_damaged = [], 0
    for line in data[:whole].splitlines():
        record = _decode(line)
        if record is None:
            num_damaged += 1
        elif record != _END:
            records.append(record)
    end = offset + whole
    if is_complete and is_last and whole < len(data):
        num_damaged += 1
        end = offset + len(data)
    return Read(records, end, num_damaged)


def _decode(line: bytes) -> bytes | None:
    text = line[_PREFIX_BYTES:]
    return text if line[:_PREFIX_BYTES] == b"%08x " % zlib.crc32(text) else None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
