"""The append-only, hash-chained record of what happened, and the pointers that move with it.

Each event's hash covers its content and the hash before it, so a change, a gap or a stray row
breaks the chain from there on. A chain cannot notice that its tail is gone; therefore each append
also leaves an anchor (sequence and hash) in a file outside the database, on the node that appended,
and `verify` compares the two. Somebody who may write to both can still forge a shorter history:
export the anchors to a place with other owners.

Appends go one after the other (rayapp/database.py).
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rayapp.database import Database
from rayapp.errors import PointerMoved, TamperedError
from rayapp.schemas.operations import Event, EventKind, Pointer, Problem
from rayapp.schemas.record import canonical_json
from rayapp.storage import Workspace, sha256

GENESIS = "0" * 64
_LOCK_ID = 7_429_561  # any constant: names our advisory lock within the PostgreSQL database
_metadata = sa.MetaData()
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False, index=True),
    sa.Column("subject", sa.String(200), nullable=False, index=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("previous_hash", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
_pointers = sa.Table(
    "pointers",
    _metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
)


class Ledger:
    """Opens (and creates) the ledger at a SQLAlchemy URL. actor: who is written into each event.

    anchors: the file with this node's anchors.
    """

    def __init__(self, url: str, actor: str, anchors: Path) -> None:
        self.url = url
        self.actor = actor
        self._anchor_path = anchors
        self._database = Database(url, _metadata, _LOCK_ID)

    @classmethod
    def of(cls, workspace: Workspace, actor: str) -> "Ledger":
        return cls(workspace.ledger_url, actor, anchors_of(workspace))

    def append(
        self, kind: EventKind, subject: str, payload: dict[str, Any], key: str = ""
    ) -> Event:
        with self._writing() as connection:
            return self._append(connection, kind, subject, payload, key)

    def events(
        self, kind: EventKind | None = None, subject: str | None = None, after: int = 0
    ) -> list[Event]:
        """Events in order, those with a sequence over `after`."""
        query = sa.select(_events).where(_events.c.sequence > after).order_by(_events.c.sequence)
        query = query.where(_events.c.kind == kind.value) if kind else query
        query = query.where(_events.c.subject == subject) if subject is not None else query
        with self._database.reading() as connection:
            return [_event(row) for row in connection.execute(query)]

    def latest(
        self, kind: EventKind, key: str | None = None, subject: str | None = None
    ) -> Event | None:
        query = sa.select(_events).where(_events.c.kind == kind.value)
        query = query.where(_events.c.key == key) if key is not None else query
        query = query.where(_events.c.subject == subject) if subject is not None else query
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(_events.c.sequence.desc()).limit(1)).first()
        return _event(row) if row is not None else None

    def sequence(self) -> int:
        """Of the newest event, 0 where there is none. No pointer moves without an event."""
        with self._database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(_events.c.sequence))).scalar() or 0)

    def num_events(self) -> int:
        with self._database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(_events)
            return int(connection.execute(query).scalar_one())

    def pointer(self, name: str) -> Pointer | None:
        query = sa.select(_pointers).where(_pointers.c.name == name)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return Pointer(**row._mapping) if row is not None else None

    def pointers(self, prefix: str) -> list[Pointer]:
        """Every pointer whose name begins with `prefix`, by name."""
        query = sa.select(_pointers).where(_pointers.c.name.startswith(prefix, autoescape=True))
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(_pointers.c.name)).all()
        return [Pointer(**row._mapping) for row in rows]

    def move_pointer(
        self,
        name: str,
        target: str,
        expected_revision: int,
        kind: EventKind,
        payload: dict[str, Any],
    ) -> Pointer:
        """Point `name` at `target` if its revision is still `expected_revision` (0: not there yet),
        and append the event, both or neither. Raises PointerMoved."""
        with self._writing() as connection:
            moved = _pointers.update().where(
                _pointers.c.name == name, _pointers.c.revision == expected_revision
            )
            current = connection.execute(
                sa.select(_pointers).where(_pointers.c.name == name)
            ).first()
            found = current.revision if current is not None else 0
            if found != expected_revision:
                raise PointerMoved(
                    f"{name} is at revision {found} ({current.target if current else None!r}), "
                    f"this began at revision {expected_revision}",
                    "somebody else changed it meanwhile: look at what they did, and run it again",
                )
            new = Pointer(name=name, target=target, revision=expected_revision + 1)
            if current is None:
                connection.execute(_pointers.insert().values(**new.model_dump()))
            else:
                connection.execute(moved.values(target=target, revision=new.revision))
            moved_to = {"target": target, "revision": new.revision}
            self._append(connection, kind, name, payload | moved_to, "")
        return new

    def verify(self) -> list[Problem]:
        """Every break of the chain, and every anchored event that is gone or different."""
        problems = []
        previous, expected, hashes = GENESIS, 1, {}
        query = sa.select(_events).order_by(_events.c.sequence)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            where = f"ledger event {row.sequence}"
            if row.sequence != expected:
                problems.append(Problem(where=f"ledger event {expected}", what="missing"))
            elif row.previous_hash != previous:
                problems.append(Problem(where=where, what="inserted or replaced: the chain breaks"))
            if _hash_row(row) != row.hash:
                problems.append(Problem(where=where, what="altered: content and hash disagree"))
            previous, expected = row.hash, row.sequence + 1
            hashes[row.sequence] = row.hash
        return problems + self._compare_anchors(hashes) + self._compare_pointers()

    def _compare_anchors(self, hashes: dict[int, str]) -> list[Problem]:
        problems = []
        for sequence, digest in self._anchors():
            where = f"ledger event {sequence}"
            if sequence not in hashes:
                problems.append(Problem(where=where, what="truncated: anchored but gone"))
            elif hashes[sequence] != digest:
                problems.append(
                    Problem(where=where, what="rewritten: hash differs from its anchor")
                )
        return problems

    def _compare_pointers(self) -> list[Problem]:
        """A pointer that moved without an event was moved by somebody else than us."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(_pointers)).all()
        problems = []
        for pointer in (Pointer(**row._mapping) for row in rows):
            try:
                last = self._last_move(pointer.name)
            except TamperedError as error:
                problems.append(Problem(where=f"pointer {pointer.name}", what=error.what))
                continue
            if last != (pointer.target, pointer.revision):
                told = f"events say {last}, the pointer says {(pointer.target, pointer.revision)}"
                problems.append(Problem(where=f"pointer {pointer.name}", what=told))
        return problems

    def _last_move(self, name: str) -> tuple[str, int] | None:
        moves = [e.payload for e in self.events(subject=name) if "revision" in e.payload]
        return (moves[-1]["target"], moves[-1]["revision"]) if moves else None

    def _append(
        self,
        connection: sa.Connection,
        kind: EventKind,
        subject: str,
        payload: dict[str, Any],
        key: str,
    ) -> Event:
        head = connection.execute(
            sa.select(_events.c.sequence, _events.c.hash)
            .order_by(_events.c.sequence.desc())
            .limit(1)
        ).first()
        values = {
            "sequence": head.sequence + 1 if head else 1,
            "at": datetime.now(UTC).isoformat(),
            "kind": kind.value,
            "subject": subject,
            "key": key,
            "actor": self.actor,
            "payload": canonical_json(payload).decode(),
            "previous_hash": head.hash if head else GENESIS,
        }
        values["hash"] = _hash(values)
        connection.execute(_events.insert().values(**values))
        connection.info["anchor"] = (values["sequence"], values["hash"])
        return _event_of(values)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One serialised transaction; its anchor is written once it is committed."""
        with self._database.writing() as connection:
            yield connection
            anchor = connection.info.pop("anchor", None)
        if anchor is not None:
            self._write_anchor(*anchor)

    def _write_anchor(self, sequence: int, digest: str) -> None:
        with self._anchor_path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{sequence} {digest}\n")

    def _anchors(self) -> list[tuple[int, str]]:
        if not self._anchor_path.exists():
            return []
        lines = self._anchor_path.read_text().splitlines()
        return [(int(s), digest) for s, _, digest in (line.partition(" ") for line in lines)]


def anchors_of(workspace: Workspace) -> Path:
    """This node's anchors of the workspace's ledger: beside a SQLite file, else in the workspace
    under the server's name. Another ledger's anchors would make a whole chain look rewritten."""
    url = sa.make_url(workspace.ledger_url)
    if url.get_backend_name() == "sqlite" and url.database is not None:
        return Path(url.database).with_suffix(".anchors")
    place = canonical_json([url.host, url.port, url.database, dict(url.query)])
    return workspace.local / f"ledger-{sha256(place)[:12]}.anchors"


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(
        canonical_json({k: v for k, v in values.items() if k != "hash"})
    ).hexdigest()


def _hash_row(row: Any) -> str:
    return _hash(dict(row._mapping))


def _event(row: Any) -> Event:
    return _event_of(dict(row._mapping))


def _event_of(values: dict[str, Any]) -> Event:
    """Raises TamperedError for a row that no append can have written."""
    try:
        return Event(**{**values, "payload": json.loads(values["payload"])})
    except ValueError as error:
        raise TamperedError(
            f"ledger event {values['sequence']} cannot be read: {str(error).splitlines()[0]}",
            "`rayapp audit verify` lists what was altered; restore the ledger from a backup",
        ) from None
