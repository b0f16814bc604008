"""What would be other at an endpoint if a release answered there."""

from typing import Literal

from rayapp.errors import UserError
from rayapp.ledger import Ledger
from rayapp.register.manifest import read_manifest
from rayapp.release.difference import Change, changes
from rayapp.release.promote import champion_pointer, sealed_releases
from rayapp.schemas.operations import Event, EventKind
from rayapp.schemas.record import Record, short
from rayapp.schemas.release import Estimate, Manifest, Verdict
from rayapp.serve.loading import sealed_evaluation
from rayapp.storage import Workspace

MIN_CHARS = 6
"""Of an id: fewer are too easily another one's, tomorrow."""


class Measured(Record):
    """A metric over all rows of each release's own evaluation."""

    metric: str
    before: Estimate | None
    after: Estimate | None


class Plan(Record):
    """against: the release that it is compared with, None where there is none. on_same_rows:
    whether both were evaluated on the same rows."""

    endpoint: str
    release_id: str
    state: Literal["champion", "passed", "refused"]
    against: str | None
    verdicts: tuple[Verdict, ...]
    changes: tuple[Change, ...]
    measured: tuple[Measured, ...]
    on_same_rows: bool


def plan_release(workspace: Workspace, release: str, against: str | None = None) -> Plan:
    """release, against: ids, or the beginnings of such. Compared is with the endpoint's champion
    where `against` is None; of the champion itself, with the one before it.

    Raises UserError for a release that is not there, or is of another endpoint; what read_manifest
    and sealed_evaluation raise.
    """
    ledger = Ledger.of(workspace, "plan")
    sealed = sealed_releases(ledger)
    event = _find(sealed, release)
    release_id, endpoint = event.subject, event.payload["endpoint"]
    pointer = ledger.pointer(champion_pointer(endpoint))
    champion = None if pointer is None else pointer.target
    if against is not None:
        before: str | None = _other(_find(sealed, against), event)
    elif champion == release_id:
        before = _previous(ledger, endpoint, release_id)
    else:
        before = champion
    after = read_manifest(workspace, release_id).manifest
    old = None if before is None else read_manifest(workspace, before).manifest
    is_refused = event.kind == EventKind.RELEASE_REFUSED
    measured, on_same_rows = _measured(old, after)
    return Plan(
        endpoint=endpoint,
        release_id=release_id,
        state="champion" if release_id == champion else "refused" if is_refused else "passed",
        against=before,
        verdicts=after.verdicts,
        changes=changes(old, after),
        measured=measured,
        on_same_rows=on_same_rows,
    )


def _find(sealed: dict[str, Event], named: str) -> Event:
    found = [one for release_id, one in sealed.items() if release_id.startswith(named)]
    if len(found) == 1 and len(named) >= MIN_CHARS:
        return found[0]
    if not sealed:
        raise UserError(
            f"release {named!r}: there are no releases yet",
            "make one: rayapp submit configs/golden_paths/NAME.yaml",
        )
    if found and len(named) < MIN_CHARS:
        characters = "1 character" if len(named) == 1 else f"{len(named)} characters"
        what = f"release {named!r} has {characters}, wanted are {MIN_CHARS} at least"
    elif found:
        what = f"{len(found)} releases have ids that begin with {named!r}"
    else:
        what = f"no release has an id that begins with {named!r}"
    raise UserError(what, "take an id that `rayapp releases` lists")


def _other(other: Event, event: Event) -> str:
    """Its id, where it is of the same endpoint."""
    endpoint, its_own = event.payload["endpoint"], other.payload["endpoint"]
    if its_own != endpoint:
        raise UserError(
            f"release {short(other.subject)} is of {its_own!r}, {short(event.subject)} of "
            f"{endpoint!r}",
            f"name one of `rayapp releases {endpoint}`",
        )
    return other.subject


def _previous(ledger: Ledger, endpoint: str, release_id: str) -> str | None:
    """Who was champion before this one became it."""
    moves = ledger.events(EventKind.CHAMPION_MOVED, subject=champion_pointer(endpoint))
    became = (move for move in reversed(moves) if move.payload["release_id"] == release_id)
    found = next(became, None)
    return None if found is None else found.payload["previous"]


def _measured(before: Manifest | None, after: Manifest) -> tuple[tuple[Measured, ...], bool]:
    new = sealed_evaluation(after)
    old = None if before is None else sealed_evaluation(before)
    of_old = {} if old is None else {e.metric: e for e in old.overall.estimates}
    of_new = {e.metric: e for e in new.overall.estimates}
    measured = tuple(
        Measured(metric=metric, before=of_old.get(metric), after=of_new.get(metric))
        for metric in {**of_new, **of_old}
    )
    rows = [(e.snapshot_id, e.split, e.golden) for e in (old, new) if e is not None]
    return measured, all(one == rows[0] for one in rows)
