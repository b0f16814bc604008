"""`rayapp releases`: what was sealed for an endpoint, and what became of it."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from rayapp.cli.own_ledger import own_ledger
from rayapp.cli.terminal import (
    Json,
    emit_json,
    folding_table,
    moment,
    show_folded,
    show_next,
    to_caller,
)


def releases(
    endpoint: Annotated[str | None, Parameter(help="Of all endpoints where none is named.")] = None,
    *,
    json: Json = False,
) -> None:
    """Releases, the newest first, with the ids that serving configs and batch scores name.

    One that a gate refused stays for a reviewer to read, and is never served.
    """
    from rayapp.release.promote import champions, sealed_releases
    from rayapp.schemas.operations import EventKind

    ledger = own_ledger()
    current = {pointer.target for pointer in champions(ledger).values()}
    sealed = sealed_releases(ledger)
    found = []
    for release_id, event in sealed.items():
        if endpoint not in (None, event.payload["endpoint"]):
            continue
        is_refused = event.kind == EventKind.RELEASE_REFUSED
        state = "refused by its gates" if is_refused else "passed"
        found.append(
            {
                "release_id": release_id,
                "endpoint": event.payload["endpoint"],
                "run": event.payload["run_id"],
                "at": moment(event.at),
                "state": "champion" if release_id in current else state,
            }
        )
    found.sort(key=lambda one: one["at"], reverse=True)
    if json:
        emit_json(found)
        return
    if not found:
        _show_none(endpoint, sorted({event.payload["endpoint"] for event in sealed.values()}))
        return
    table = folding_table("release", "endpoint", "run", "at", "state", whole=["release"])
    for one in found:
        table.add_row(*(escape(value) for value in one.values()))
    show_folded(table)


def _show_none(endpoint: str | None, known: Sequence[str]) -> None:
    """known: endpoints that have releases."""
    which = "yet" if endpoint is None else f"of endpoint {endpoint!r}"
    only = f", only of {', '.join(known)}" if known else ""
    to_caller().print(f"There are no releases {which}{only}.", markup=False)
    show_next(["rayapp releases" if known else "rayapp submit configs/golden_paths/NAME.yaml"])
