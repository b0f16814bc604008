"""Following the champions: the pointers in the ledger decide, verified releases are swapped in.

A replica holds one immutable `Loaded` for each endpoint. A request takes it once and is answered by
it to the end, so a swap neither waits for requests nor drops one. A release that cannot be verified
or opened never replaces the one that serves; it is named in `problems` and tried again later.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from rayapp.errors import DataError, RayappError, TamperedError
from rayapp.families.base import Floats
from rayapp.families.bundle import Bundle
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.operations import Pointer
from rayapp.schemas.release import Manifest, SignedManifest
from rayapp.serve.batching import Batcher
from rayapp.serve.rows import RowEncoder, row_encoder
from rayapp.transforms import arrow_type

log = logging.getLogger("rayapp.serve.follow")

RETRY_AFTER_S = 5.0
LEDGER = "ledger"
"""The key in `problems` for what concerns every endpoint."""
ReadPointers = Callable[[], Mapping[str, Pointer]]
"""release_key → the pointer to the release that it stands for."""
FetchRelease = Callable[[str, Path], SignedManifest]
"""(release id, empty folder) → the verified manifest; its verified bundle now lies in the folder.
Raises TamperedError or WorkspaceError."""


def release_key(endpoint: str, release_id: str | None = None) -> str:
    """What `current` is asked for: an endpoint's champion, or one release of it."""
    return endpoint if release_id is None else f"{endpoint}@{release_id}"


class Predictor(Protocol):
    @property
    def schema(self) -> BundleSchema: ...

    def encode(self, table: pa.Table) -> Floats: ...
    def score(self, x_NF: Floats) -> Floats: ...


@dataclass(frozen=True)
class Loaded:
    """One release, ready to answer."""

    endpoint: str
    release_id: str
    manifest: Manifest
    bundle: Predictor
    batcher: Batcher
    row_encoder: RowEncoder | None

    @property
    def schema(self) -> BundleSchema:
        return self.bundle.schema


class ChampionFollower:
    """`current` may be read from any thread; `refresh` blocks and runs off the event loop."""

    def __init__(
        self,
        read_pointers: ReadPointers,
        fetch_release: FetchRelease,
        make_batcher: Callable[[str, Predictor], Batcher],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Mapping[str, Loaded] = {}
        self.problems: Mapping[str, str] = {}
        self._read_pointers = read_pointers
        self._fetch_release = fetch_release
        self._make_batcher = make_batcher
        self._clock = clock
        self._failed: dict[str, tuple[Pointer, float]] = {}
        self._refreshing = threading.Lock()

    @property
    def endpoints(self) -> frozenset[str]:
        """Those that have a champion, whether it could be loaded or not."""
        keys = {*self.current, *self.problems} - {LEDGER}
        return frozenset(key for key in keys if "@" not in key)

    def refresh(self) -> None:
        """Look at the pointers once. Never raises for a release or a ledger that is not in order:
        what serves goes on serving."""
        with self._refreshing:
            try:
                pointers = self._read_pointers()
            except Exception as error:  # noqa: BLE001 - a database driver's own errors too
                self._note(LEDGER, f"the ledger cannot be read: {error}", error)
                return
            self._forget(LEDGER)
            for key, pointer in pointers.items():
                if self._is_current(key, pointer):
                    self._forget(key)
                elif not self._is_too_early(key, pointer):
                    self._swap(key, pointer)

    def _is_current(self, key: str, pointer: Pointer) -> bool:
        loaded = self.current.get(key)
        return loaded is not None and loaded.release_id == pointer.target

    def _is_too_early(self, key: str, pointer: Pointer) -> bool:
        failed = self._failed.get(key)
        if failed is None or failed[0] != pointer:
            return False
        return self._clock() - failed[1] < RETRY_AFTER_S

    def _swap(self, key: str, pointer: Pointer) -> None:
        start_s = self._clock()
        try:
            loaded = self._load(key.partition("@")[0], pointer.target)
        except Exception as error:  # noqa: BLE001 - a broken model library's too: keep what works
            self._failed[key] = (pointer, self._clock())
            reason = error.what if isinstance(error, RayappError) else repr(error)
            self._note(key, f"release {pointer.target[:12]}: {reason}", error)
            return
        previous = self.current.get(key)
        self.current = {**self.current, key: loaded}
        self._forget(key)
        log.info(
            "release_loaded",
            extra={
                "endpoint": key,
                "release_id": loaded.release_id,
                "previous": previous.release_id if previous else None,
                "seconds": round(self._clock() - start_s, 3),
            },
        )

    def _load(self, endpoint: str, release_id: str) -> Loaded:
        with tempfile.TemporaryDirectory(prefix="rayapp-release-") as folder:
            manifest = self._fetch_release(release_id, Path(folder)).manifest
            if manifest.endpoint != endpoint:
                raise TamperedError(
                    f"it was sealed for endpoint {manifest.endpoint!r}, not {endpoint!r}",
                    "move the pointer back to a release of this endpoint",
                )
            bundle = Bundle.open(Path(folder))
        prove(bundle)
        return Loaded(
            endpoint,
            release_id,
            manifest,
            bundle,
            self._make_batcher(endpoint, bundle),
            row_encoder(bundle.schema),
        )

    def _note(self, key: str, problem: str, error: Exception) -> None:
        if self.problems.get(key) != problem:  # a poll repeats itself, the log need not
            extra = {"about": key, "problem": problem}
            log.error("champion_not_followed", extra=extra, exc_info=error)
        self.problems = {**self.problems, key: problem}

    def _forget(self, key: str) -> None:
        self._failed.pop(key, None)
        if key in self.problems:
            self.problems = {k: v for k, v in self.problems.items() if k != key}


def prove(bundle: Predictor) -> None:
    """One row with nothing in it through the model: it answers, and its first call is over before a
    request comes. Raises DataError for scores of a wrong shape."""
    columns = {c.name: pa.nulls(1, arrow_type(c.type)) for c in bundle.schema.inputs}
    scores_NK = bundle.score(bundle.encode(pa.table(columns)))
    expected = (1, 1 if bundle.schema.task == "regression" else len(bundle.schema.classes))
    if scores_NK.shape != expected:
        raise DataError(
            f"the bundle gave scores of shape {scores_NK.shape} for one row, not {expected}",
            "train again; such a model must not serve",
        )
