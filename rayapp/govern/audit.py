"""The audit: the ledger's chain, then every artefact that the ledger names, byte for byte.

It goes on after a finding, so that one report lists all of them; and whatever cannot be read is a
finding, not a crash.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from rayapp.errors import RayappError, TamperedError, WorkspaceError
from rayapp.govern.seals import seal_problem, trusted_keys
from rayapp.ledger import Ledger
from rayapp.schemas.data import Snapshot, TableVersion
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import BundleRef, Run
from rayapp.schemas.operations import Event, EventKind, Problem
from rayapp.schemas.record import Record, mismatch, short
from rayapp.schemas.release import Manifest, SignedManifest
from rayapp.storage import Workspace, exists, folder_digest, read_bytes, sha256

TableDigest = Callable[[TableVersion], str]


class Audit(Record):
    """num_events, num_artefacts: that were looked at, well or not. An artefact is a version of a
    table, or a file, each counted once. problems: none when all is well."""

    num_events: int
    num_artefacts: int
    problems: tuple[Problem, ...]


def audit(ledger: Ledger, workspace: Workspace, table_digest: TableDigest) -> Audit:
    """Everything that is altered, missing or unreadable.

    table_digest: recomputes the digest of a table version from the rows that are really there.
    """
    try:
        problems, num_events = ledger.verify(), ledger.num_events()
    except (ValueError, TypeError, SQLAlchemyError) as error:
        unread = Problem(where="ledger", what=f"cannot be read: {_reason(error)}")
        return Audit(num_events=0, num_artefacts=0, problems=(unread,))
    try:
        events = ledger.events()
    except TamperedError as error:
        problems.append(Problem(where="artefacts", what=f"not checked: {error.what}"))
        return Audit(num_events=num_events, num_artefacts=0, problems=tuple(problems))
    recorded = frozenset((e.kind, e.subject) for e in events)
    checks = _Checks(workspace, table_digest, recorded)
    for event in events:
        problems += checks.event(event)
    return Audit(
        num_events=num_events, num_artefacts=checks.num_artefacts, problems=tuple(problems)
    )


@dataclass
class _Checks:
    workspace: Workspace
    table_digest: TableDigest
    recorded: frozenset[tuple[EventKind, str]]
    _seen: set[tuple[str, ...]] = field(default_factory=set)
    """Artefacts that were checked already: many events name the same one."""

    @property
    def num_artefacts(self) -> int:
        return len(self._seen)

    def event(self, event: Event) -> Iterator[Problem]:
        """Findings about what one event names. Kinds that name no artefact have none."""
        try:
            if event.kind == EventKind.SNAPSHOT_BUILT:
                yield from self._snapshot(event)
            elif event.kind == EventKind.RUN_FINISHED:
                yield from self._run(event)
            elif event.kind == EventKind.EVALUATION_MADE:
                yield from self._evaluation(event)
            elif event.kind in (EventKind.RELEASE_SEALED, EventKind.RELEASE_REFUSED):
                yield from self._release(event)
            elif event.kind == EventKind.CHAMPION_MOVED:
                yield from self._champion(event)
            elif event.kind == EventKind.WEIGHTS_ADDED:
                yield from self._folder(event.record(WeightsRef, "weights"))
        except WorkspaceError as error:
            yield Problem(where=f"ledger event {event.sequence}", what=error.what)
        except KeyError as error:
            what = f"its payload is not that of a {event.kind.value}: {_reason(error)}"
            yield Problem(where=f"ledger event {event.sequence}", what=what)

    def _snapshot(self, event: Event) -> Iterator[Problem]:
        snapshot = event.record(Snapshot, "snapshot")
        if snapshot.content_digest() != event.subject:
            where = f"ledger event {event.sequence}"
            yield Problem(where=where, what=f"snapshot {short(event.subject)}… has another digest")
        for version in (*snapshot.tables, snapshot.view):
            if self._is_new(version.uri, str(version.version), version.digest):
                yield from self._table(version)

    def _table(self, version: TableVersion) -> Iterator[Problem]:
        where = f"{version.uri} version {version.version}"
        try:
            found = self.table_digest(version)
        except RayappError as error:
            yield Problem(where=where, what=error.what)
        except Exception as error:  # noqa: BLE001 - a damaged file may fail anywhere in a reader
            yield Problem(where=where, what=f"cannot be read: {_reason(error)}")
        else:
            if found != version.digest:
                what = f"altered: digest is {short(found)}…, recorded is {short(version.digest)}…"
                yield Problem(where=where, what=what)

    def _run(self, event: Event) -> Iterator[Problem]:
        run = event.record(Run, "run")
        if not self._is_recorded(EventKind.SNAPSHOT_BUILT, run.snapshot_id):
            yield Problem(
                where=f"run {run.run_id}",
                what=f"its snapshot {short(run.snapshot_id)}… is not in the ledger",
            )
        yield from self._folder(run.bundle)

    def _folder(self, ref: BundleRef | WeightsRef) -> Iterator[Problem]:
        if folder_digest(ref.files) != ref.digest:
            what = f"its list of files does not have digest {short(ref.digest)}…"
            yield Problem(where=ref.uri, what=what)
        for file in ref.files:
            yield from self._file(f"{ref.uri}/{file.path}", file.sha256)

    def _evaluation(self, event: Event) -> Iterator[Problem]:
        """Each `<name>_uri` of the payload against its `<name>_digest`, or at least its
        presence."""
        for name, uri in event.payload.items():
            if not name.endswith("_uri"):
                continue
            digest = event.payload.get(f"{name.removesuffix('_uri')}_digest")
            if digest is not None:
                yield from self._file(uri, digest)
            elif self._is_new(uri) and not exists(uri):
                yield Problem(where=uri, what="missing")

    def _release(self, event: Event) -> Iterator[Problem]:
        uri = event.payload["manifest_uri"]
        self._seen.add((uri,))
        try:
            raw = read_bytes(uri)
        except RayappError as error:
            what = f"cannot be read: {_reason(error)}" if exists(uri) else "missing"
            yield Problem(where=uri, what=what)
            return
        problem = seal_problem(raw, trusted_keys(self.workspace))
        if problem is not None:
            yield Problem(where=uri, what=problem)
            return
        try:
            signed = SignedManifest.parse(raw)
        except ValidationError as error:
            what = f"sealed by another version of rayapp, so not followed ({mismatch(error)})"
            yield Problem(where=uri, what=what)
            return
        if signed.release_id != event.subject:
            yield Problem(where=uri, what=f"holds release {short(signed.release_id)}… instead")
        else:
            yield from self._manifest(uri, signed.manifest)

    def _manifest(self, uri: str, manifest: Manifest) -> Iterator[Problem]:
        if not self._is_recorded(EventKind.RUN_FINISHED, manifest.run_id):
            yield Problem(where=uri, what=f"its run {manifest.run_id} is not in the ledger")
        if not self._is_recorded(EventKind.SNAPSHOT_BUILT, manifest.snapshot_id):
            what = f"its snapshot {short(manifest.snapshot_id)}… is not in the ledger"
            yield Problem(where=uri, what=what)
        yield from self._file(manifest.evaluation_uri, manifest.evaluation_digest)
        if manifest.measured_uri is not None and manifest.measured_digest is not None:
            yield from self._file(manifest.measured_uri, manifest.measured_digest)
        yield from self._file(manifest.card_uri, manifest.card_digest)
        yield from self._folder(manifest.bundle)

    def _champion(self, event: Event) -> Iterator[Problem]:
        release_id = event.payload["release_id"]
        if not self._is_recorded(EventKind.RELEASE_SEALED, release_id):
            yield Problem(
                where=f"ledger event {event.sequence}",
                what=f"{event.subject} moved to {short(release_id)}…, which was never sealed",
            )

    def _file(self, uri: str, digest: str) -> Iterator[Problem]:
        if not self._is_new(uri, digest):
            return
        try:
            found = sha256(read_bytes(uri))
        except RayappError as error:
            yield Problem(where=uri, what=error.what if exists(uri) else "missing")
            return
        if found != digest:
            what = f"altered: sha256 is {short(found)}…, recorded is {short(digest)}…"
            yield Problem(where=uri, what=what)

    def _is_new(self, *artefact: str) -> bool:
        is_new = artefact not in self._seen
        self._seen.add(artefact)
        return is_new

    def _is_recorded(self, kind: EventKind, subject: str) -> bool:
        return (kind, subject) in self.recorded


def _reason(error: Exception) -> str:
    text = error.what if isinstance(error, RayappError) else str(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
