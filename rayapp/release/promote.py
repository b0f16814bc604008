"""Moving the champion: only a signed release whose every gate passed, only by compare-and-set."""

from rayapp.errors import ChampionMoved, GateRefused, PointerMoved
from rayapp.ledger import Ledger
from rayapp.schemas.operations import Event, EventKind, Pointer
from rayapp.schemas.record import short
from rayapp.schemas.release import SignedManifest, Verdict, not_passed


def champion_pointer(endpoint: str) -> str:
    """Name of the ledger pointer that says which release answers at `endpoint`."""
    return f"champion/{endpoint}"


def champions(ledger: Ledger) -> dict[str, Pointer]:
    """Who answers at each endpoint that has a champion, by the endpoint's name."""
    prefix = champion_pointer("")
    return {p.name.removeprefix(prefix): p for p in ledger.pointers(prefix)}


def sealed_releases(ledger: Ledger) -> dict[str, Event]:
    """By release id, those too that a gate refused: the event's kind says which."""
    kinds = (EventKind.RELEASE_REFUSED, EventKind.RELEASE_SEALED)
    return {event.subject: event for kind in kinds for event in ledger.events(kind)}


def refuse_unless_passed(
    subject: str, verdicts: tuple[Verdict, ...], are_reasons_told: bool = False
) -> None:
    """Raises GateRefused that names each gate that did not pass, and why. subject: who is judged,
    for the message. are_reasons_told: who reads it has read why, gate by gate."""
    stopped = [v for v in verdicts if v.value != "pass"]
    if not verdicts or stopped:
        why = not_passed(verdicts) or "no gate ran"
        each = [
            v.gate if are_reasons_told else f"{v.gate} is {v.value}: {v.reason}" for v in stopped
        ]
        raise GateRefused(
            "; ".join([f"{subject} is refused: {why}", *each]),
            _next_step(stopped),
        )


def _next_step(stopped: list[Verdict]) -> str:
    """More rows only where a gate has said that so many would tell."""
    step = "read the evaluation report; improve the candidate"
    asking = [verdict.gate for verdict in stopped if verdict.needs_rows is not None]
    return f"{step}, or collect the rows asked for by {', '.join(asking)}" if asking else step


def promote(ledger: Ledger, signed: SignedManifest, expected_revision: int) -> Pointer:
    """Make a release the champion of its endpoint.

    expected_revision: the pointer's revision when the candidate was compared with the champion.
    Raises GateRefused, or ChampionMoved when another release was promoted meanwhile.
    """
    refuse_unless_passed(f"release {short(signed.release_id)}", signed.manifest.verdicts)
    endpoint = signed.manifest.endpoint
    name = champion_pointer(endpoint)
    before = ledger.pointer(name)
    payload = {
        "endpoint": endpoint,
        "release_id": signed.release_id,
        "previous": before.target if before is not None else None,
    }
    try:
        return ledger.move_pointer(
            name, signed.release_id, expected_revision, EventKind.CHAMPION_MOVED, payload
        )
    except PointerMoved as error:
        raise ChampionMoved(
            error.what, "somebody else promoted meanwhile: run again to compare with their release"
        ) from None
