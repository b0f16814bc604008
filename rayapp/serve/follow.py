"""Following the champions: the pointers in the ledger decide, verified releases are swapped in.

A replica holds one immutable `Loaded` for each endpoint. A request takes it once and is answered by
it to the end, so a swap neither waits for requests nor drops one. A release that cannot be verified
or opened never replaces the one that serves; it is named in `problems` and tried again later.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa

from rayapp.errors import public_reason
from rayapp.families.base import Floats
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.operations import Pointer
from rayapp.schemas.record import short
from rayapp.schemas.release import Estimate, Manifest
from rayapp.serve.wire.rows import RowEncoder

log = logging.getLogger("rayapp.serve.follow")

RETRY_AFTER_S = 5.0
MOST_SWAPS = 4
"""At a time: a large model that takes long must not keep the others waiting."""
LEDGER = "_ledger"
"""The key in `problems` for what concerns every endpoint: a name that none of them can have."""
ReadPointers = Callable[[], Mapping[str, Pointer]]
"""release_key → the pointer to the release that it stands for."""


def release_key(endpoint: str, release_id: str | None = None) -> str:
    """What `current` is asked for: an endpoint's champion, or one release of it."""
    return endpoint if release_id is None else f"{endpoint}@{release_id}"


def endpoint_of(key: str) -> str:
    """The endpoint whose release a key stands for. A key that is no more than that stands for its
    champion."""
    return key.partition("@")[0]


class Encoder(Protocol):
    """The part of a bundle that understands rows."""

    @property
    def schema(self) -> BundleSchema: ...

    def encode(self, table: pa.Table) -> Floats: ...


class Scorer(Protocol):
    """The part that answers them, wherever the model is."""

    async def predict(self, x_NF: Floats, deadline_s: float = math.inf) -> Floats:
        """Scores [N, K] of encoded rows. Raises what the model raises, DeadlineExceeded after
        deadline_s of time.monotonic, and Unavailable."""
        ...


@dataclass(frozen=True)
class Loaded:
    """One release, ready to answer. estimates: over all rows of its evaluation, where it is chosen
    by them; else none."""

    endpoint: str
    release_id: str
    manifest: Manifest
    bundle: Encoder
    scorer: Scorer
    row_encoder: RowEncoder | None
    estimates: tuple[Estimate, ...] = ()

    @property
    def schema(self) -> BundleSchema:
        return self.bundle.schema


class Release(Protocol):
    """What is followed, whatever kind of model it has."""

    @property
    def release_id(self) -> str: ...


R = TypeVar("R", bound=Release)
Open = Callable[[str, str, R | None], R]
"""(release key, release id, the one in whose place it comes) → the release, verified and ready to
answer. Raises TamperedError, WorkspaceError or DataError."""
OpenRelease = Open[Loaded]


class _Seen:
    """The endpoints of what a follower had at one moment."""

    def __init__(self, current: Mapping[str, object], problems: Mapping[str, str]) -> None:
        self.current, self.problems = current, problems
        keys = {*current, *problems} - {LEDGER}
        self.endpoints = frozenset(key for key in keys if key == endpoint_of(key))


class ChampionFollower(Generic[R]):
    """`current` may be read from any thread; `refresh` blocks and runs off the event loop."""

    def __init__(
        self,
        read_pointers: ReadPointers,
        open_release: Open[R],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Mapping[str, R] = {}
        self.problems: Mapping[str, str] = {}
        self._read_pointers = read_pointers
        self._open_release = open_release
        self._clock_s = clock_s
        self._pointers: Mapping[str, Pointer] = {}
        self._failed: dict[str, tuple[Pointer, float]] = {}
        self._swapping: dict[str, Future[None]] = {}
        self._executor = ThreadPoolExecutor(MOST_SWAPS, thread_name_prefix="swap")
        self._changing = threading.Lock()
        self._seen = _Seen(self.current, self.problems)

    @property
    def endpoints(self) -> frozenset[str]:
        """Those that have a champion, whether it could be loaded or not. Each request that is
        refused asks, so they are made out anew only when there is something else to see."""
        seen, current, problems = self._seen, self.current, self.problems
        if seen.current is not current or seen.problems is not problems:
            self._seen = seen = _Seen(current, problems)
        return seen.endpoints

    def refresh(self, patience_s: float | None = None) -> None:
        """Look at the pointers once, and swap in what has moved; what takes longer than patience_s
        goes on afterwards. Never raises for a release or a ledger that is not in order: what serves
        goes on serving. Called by one thread at a time."""
        try:
            pointers = self._read_pointers()
        except Exception as error:  # noqa: BLE001 - a database driver's own errors too
            self._note(LEDGER, f"the ledger cannot be read: {public_reason(error)}", error)
            return
        self._forget(LEDGER)
        self._pointers = pointers
        self._swapping = {k: swap for k, swap in self._swapping.items() if not swap.done()}
        for key, pointer in pointers.items():
            if key in self._swapping:
                continue
            if self._is_current(key, pointer):
                self._forget(key)
            elif not self._is_too_early(key, pointer):
                self._swapping[key] = self._executor.submit(self._swap, key, pointer)
        wait(self._swapping.values(), patience_s)

    def _is_current(self, key: str, pointer: Pointer) -> bool:
        loaded = self.current.get(key)
        return loaded is not None and loaded.release_id == pointer.target

    def _is_too_early(self, key: str, pointer: Pointer) -> bool:
        failed = self._failed.get(key)
        if failed is None or failed[0] != pointer:
            return False
        return self._clock_s() - failed[1] < RETRY_AFTER_S

    def _swap(self, key: str, pointer: Pointer) -> None:
        start_s = self._clock_s()
        previous = self.current.get(key)
        try:
            loaded = self._open_release(key, pointer.target, previous)
        except Exception as error:  # noqa: BLE001 - a broken model library's too: keep what works
            self._failed[key] = (pointer, self._clock_s())
            self._note(key, f"release {short(pointer.target)}: {public_reason(error)}", error)
            return
        with self._changing:
            # Loading takes minutes where a rollback must not: the pointer may have gone back.
            newest = self._pointers.get(key)
            is_wanted = newest is not None and newest.target == loaded.release_id
            if is_wanted:
                self.current = {**self.current, key: loaded}
        self._forget(key)
        log.info(
            "release_loaded" if is_wanted else "release_dropped",
            extra={
                "endpoint": key,
                "release_id": loaded.release_id,
                "previous": previous.release_id if previous else None,
                "seconds": round(self._clock_s() - start_s, 3),
            },
        )

    def _note(self, key: str, problem: str, error: Exception) -> None:
        if self.problems.get(key) != problem:  # a poll repeats itself, the log need not
            extra = {"about": key, "problem": problem}
            log.error("champion_not_followed", extra=extra, exc_info=error)
        with self._changing:
            self.problems = {**self.problems, key: problem}

    def _forget(self, key: str) -> None:
        self._failed.pop(key, None)
        if key in self.problems:
            with self._changing:
                self.problems = {k: v for k, v in self.problems.items() if k != key}
