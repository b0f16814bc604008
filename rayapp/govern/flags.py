"""Feature flags: published in the ledger, which is who knows them.

Each publication is one event with every set of flags as it is from then on. The ledger's pointer
`flags` holds its digest, so two people who publish at the same time do not undo each other's work,
and the audit compares the two. Gateways read the newest as they read keys: a change reaches them
within a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rayapp.config.routing import FlagConfig, FlagsConfig
from rayapp.errors import PointerMoved, Refused, UserError
from rayapp.ledger import Ledger
from rayapp.schemas.operations import Event, EventKind
from rayapp.schemas.record import Record

FLAGS_POINTER = "flags"


class Published(Record):
    """sets: by name."""

    sets: dict[str, FlagsConfig]


@dataclass(frozen=True)
class PublishedFlag:
    """One flag that holds now. set_name, by, at: of the publication that brought it."""

    name: str
    flag: FlagConfig
    set_name: str
    by: str
    at: datetime


@dataclass(frozen=True)
class Publication:
    """One event: which flags of a set it added, changed and removed."""

    sequence: int
    set_name: str
    by: str
    at: datetime
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def publish_flags(ledger: Ledger, config: FlagsConfig) -> bool:
    """False where this is what holds already. Raises UserError for a flag that another set has,
    Refused where somebody else published meanwhile."""
    pointer = ledger.pointer(FLAGS_POINTER)
    sets = _published(ledger.latest(EventKind.FLAGS_PUBLISHED))
    for other in sets.values():
        common = sorted(config.flags.keys() & other.flags.keys())
        if other.name != config.name and common:
            raise UserError(
                f"flag {common[0]!r} is already in the set {other.name!r}",
                f"choose another name, or publish {other.name!r} without it first",
            )
    if sets.get(config.name, FlagsConfig(name=config.name, flags={})) == config:
        return False
    left = {name: one for name, one in sets.items() if name != config.name}
    new = Published(sets=left | ({config.name: config} if config.flags else {}))
    payload = {"set": config.name, "published": new.model_dump(mode="json")}
    revision = pointer.revision if pointer is not None else 0
    try:
        ledger.move_pointer(
            FLAGS_POINTER, new.content_digest(), revision, EventKind.FLAGS_PUBLISHED, payload
        )
    except PointerMoved as error:
        raise Refused(
            f"somebody else published flags meanwhile: {error.what}", "run the same command again"
        ) from None
    return True


def current_flags(ledger: Ledger) -> Mapping[str, FlagConfig]:
    """Flag → flag, of all sets. Raises WorkspaceError where another version of rayapp wrote
    them."""
    sets = _published(ledger.latest(EventKind.FLAGS_PUBLISHED))
    return {name: flag for one in sets.values() for name, flag in one.flags.items()}


def list_flags(ledger: Ledger) -> list[PublishedFlag]:
    """What holds now, by name."""
    events = ledger.events(EventKind.FLAGS_PUBLISHED)
    newest = {event.payload["set"]: event for event in events}
    sets = _published(events[-1] if events else None)
    return sorted(
        (
            PublishedFlag(name, flag, one.name, newest[one.name].actor, newest[one.name].at)
            for one in sets.values()
            for name, flag in one.flags.items()
        ),
        key=lambda flag: flag.name,
    )


def flag_history(ledger: Ledger) -> list[Publication]:
    """Newest first."""
    found = []
    before: dict[str, FlagConfig] = {}
    for event in ledger.events(EventKind.FLAGS_PUBLISHED):
        sets = _published(event)
        after = {name: flag for one in sets.values() for name, flag in one.flags.items()}
        found.append(
            Publication(
                event.sequence,
                event.payload["set"],
                event.actor,
                event.at,
                added=tuple(sorted(after.keys() - before.keys())),
                changed=tuple(
                    sorted(n for n in after.keys() & before.keys() if after[n] != before[n])
                ),
                removed=tuple(sorted(before.keys() - after.keys())),
            )
        )
        before = after
    return found[::-1]


def _published(event: Event | None) -> dict[str, FlagsConfig]:
    return event.record(Published, "published").sets if event is not None else {}
