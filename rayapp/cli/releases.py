"""`rayapp releases`: what was sealed for an endpoint, and what became of it."""

import os
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from rayapp.cli.terminal import Json, emit_json, show_folded, show_next


def releases(
    endpoint: Annotated[str | None, Parameter(help="Of all endpoints where none is named.")] = None,
    *,
    json: Json = False,
) -> None:
    """Releases, the newest first, with the ids that serving configs and batch scores name.

    One that a gate refused stays for a reviewer to read, and is never served.
    """
    from rayapp.ledger import Ledger
    from rayapp.release.promote import champions
    from rayapp.schemas.operations import EventKind
    from rayapp.storage import Workspace

    ledger = Ledger.of(Workspace.from_environment(os.environ), "rayapp releases")
    current = {pointer.target for pointer in champions(ledger).values()}
    found = []
    for kind in (EventKind.RELEASE_SEALED, EventKind.RELEASE_REFUSED):
        for event in ledger.events(kind=kind):
            if endpoint not in (None, event.payload["endpoint"]):
                continue
            state = "refused by its gates" if kind == EventKind.RELEASE_REFUSED else "passed"
            found.append(
                {
                    "release_id": event.subject,
                    "endpoint": event.payload["endpoint"],
                    "run": event.payload["run_id"],
                    "at": f"{event.at:%Y-%m-%d %H:%M:%S %Z}",
                    "state": "champion" if event.subject in current else state,
                }
            )
    found.sort(key=lambda one: one["at"], reverse=True)
    if json:
        emit_json(found)
        return
    if not found:
        show_next(["rayapp submit configs/golden_paths/NAME.yaml"])
        return
    table = Table(box=None)
    table.add_column("release", no_wrap=True)  # to be copied whole
    for title in ("endpoint", "run", "at", "state"):
        table.add_column(title, overflow="fold")
    for one in found:
        table.add_row(*(escape(value) for value in one.values()))
    show_folded(table)
