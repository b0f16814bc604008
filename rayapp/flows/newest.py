"""Which run or snapshot of a name the next stage takes: the one that was made last, or that was
asked for again last. Who goes back to settings of before means what they gave then."""

from collections.abc import Mapping
from typing import Any, Literal

from rayapp.ledger import Ledger
from rayapp.schemas.operations import Event, EventKind

Kind = Literal["run", "snapshot"]
_MADE = {"run": EventKind.RUN_FINISHED, "snapshot": EventKind.SNAPSHOT_BUILT}
_REUSED = {"run": EventKind.RUN_REUSED, "snapshot": EventKind.SNAPSHOT_REUSED}


def newest(ledger: Ledger, kind: Kind, name: str) -> Event | None:
    """The event that has its record; None where nothing of that name was made."""
    made = [e for e in ledger.events(_MADE[kind]) if _name(kind, e.payload) == name]
    reused = [e for e in ledger.events(_REUSED[kind]) if e.payload["name"] == name]
    last = max([*made, *reused], key=lambda event: event.sequence, default=None)
    if last is None or last.kind == _MADE[kind]:
        return last
    return ledger.latest(_MADE[kind], subject=last.subject)


def reuse(ledger: Ledger, kind: Kind, made: Event, name: str) -> None:
    """Let it be the newest of its name, which it may be already."""
    current = newest(ledger, kind, name)
    if current is None or current.subject != made.subject:
        ledger.append(_REUSED[kind], made.subject, {"name": name}, made.key)


def _name(kind: Kind, payload: Mapping[str, Any]) -> str:
    record = payload[kind]
    return str(record["config"]["name"] if kind == "run" else record["name"])
