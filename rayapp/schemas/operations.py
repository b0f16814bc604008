"""Nouns of operations: the event, the pointer, and the ports that keep vendors at the door."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from rayapp.errors import WorkspaceError
from rayapp.schemas.record import Record, mismatch

OTHER_VERSION = "it was written by another version of rayapp: use that one, or a new workspace"
RecordT = TypeVar("RecordT", bound=Record)


class EventKind(StrEnum):
    """What can happen. Subjects: the id of what it happened to."""

    SNAPSHOT_BUILT = "snapshot.built"
    SNAPSHOT_REUSED = "snapshot.reused"
    RUN_STARTED = "run.started"
    RUN_FINISHED = "run.finished"
    RUN_REUSED = "run.reused"
    SWEEP_FINISHED = "sweep.finished"
    EVALUATION_MADE = "evaluation.made"
    RELEASE_SEALED = "release.sealed"
    RELEASE_REFUSED = "release.refused"
    CHAMPION_MOVED = "champion.moved"
    BATCH_SCORED = "batch.scored"
    SIGNAL_MEASURED = "signal.measured"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    FLAGS_PUBLISHED = "flags.published"
    WEIGHTS_ADDED = "weights.added"


class Event(Record):
    """One link of the chain: hash covers every other field, previous_hash ties it to the one
    before."""

    sequence: int
    at: datetime
    kind: EventKind
    subject: str
    key: str
    """Digest of what the stage was given: the same key means the same work. "" where there is
    none."""
    actor: str
    payload: dict[str, Any]
    previous_hash: str
    hash: str

    def record(self, cls: type[RecordT], name: str) -> RecordT:
        """The record that the payload holds under `name`. Raises WorkspaceError where this version
        of rayapp cannot read it, KeyError where there is none."""
        try:
            return cls.model_validate(self.payload[name])
        except ValidationError as error:
            raise WorkspaceError(
                f"ledger event {self.sequence} ({self.kind.value}): {name}.{mismatch(error)}",
                OTHER_VERSION,
            ) from None


class Pointer(Record):
    """A named place that moves by compare-and-set: `champion/flight-delay` → a release id."""

    name: str
    target: str
    revision: int


class Problem(Record):
    """One finding of an audit: where, and what is wrong with it."""

    where: str
    what: str


class Tracker(Protocol):
    """Where a run's parameters and metrics go while it trains. Implemented by register.tracking."""

    @property
    def run_id(self) -> str: ...
    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_metrics(self, metrics: dict[str, float], step: int) -> None: ...
    def log_text(self, text: str, path: str) -> None: ...
    def log_file(self, local_path: str, folder: str) -> None: ...
