"""`rayapp plan`: what a release would change where it answered."""

import difflib
import re
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from rayapp.cli.own_ledger import own_workspace
from rayapp.cli.terminal import (
    Json,
    emit_json,
    folding_table,
    readable_value,
    show_folded,
    show_pairs,
    to_caller,
    to_person,
)

if TYPE_CHECKING:
    from rayapp.flows.planning import Plan
    from rayapp.release.difference import Change
    from rayapp.schemas.release import Estimate

_LONG_CHARS = 60
"""Longer texts, and those of several lines, are shown line by line."""
_DIGEST = re.compile("[0-9a-f]{64}")


def plan(
    release: Annotated[str, Parameter(help="Its id, or the beginning of it: `rayapp releases`.")],
    *,
    against: Annotated[
        str | None, Parameter(help="Another release of the endpoint; default its champion.")
    ] = None,
    json: Json = False,
) -> None:
    """What would change at the endpoint if a release answered there: data, settings, prompts,
    weights, inputs, code, and how both were measured.

    It is compared with the champion; the champion itself with the one before it. Nothing is moved.
    """
    from rayapp.flows.planning import plan_release

    found = plan_release(own_workspace(), release, against)
    if json:
        emit_json(found.model_dump(mode="json"))
        return
    _show(found)


def _show(found: "Plan") -> None:
    from rayapp.schemas.record import short

    before = "nothing: the endpoint had no champion" if found.against is None else found.against
    show_pairs(
        f"Release {short(found.release_id)} of {found.endpoint}",
        {"release": found.release_id, "state": found.state, "against": before},
    )
    console = to_caller()
    for gate in found.verdicts:
        console.print(f"  gate {gate.gate}: {gate.value} - {gate.reason}", markup=False)
    if not found.changes:
        console.print("Nothing differs.")
    small = [one for one in found.changes if not _is_long(one)]
    if small:
        table = folding_table("part", "what", "before", "after")
        console.print()
        for one in small:
            table.add_row(one.part, one.name, *map(_shown, (one.before, one.after)))
        show_folded(table)
    for one in found.changes:
        if _is_long(one):
            _show_lines(one)
    _show_measured(found)


def _is_long(one: "Change") -> bool:
    texts = [text for text in (one.before, one.after) if text is not None]
    return any((len(text) > _LONG_CHARS and " " in text) or "\n" in text for text in texts)


def _shown(text: str | None) -> Text:
    """Digests as people name them."""
    from rayapp.schemas.record import short

    if text is None:
        return Text("-")
    words = text.split(" ")
    return Text(" ".join(short(word) if _DIGEST.fullmatch(word) else word for word in words))


def _show_lines(one: "Change") -> None:
    console = to_caller()
    console.print(f"\n{one.part} {one.name}", style="bold", markup=False)
    before, after = ((text or "").splitlines() for text in (one.before, one.after))
    for line in list(difflib.unified_diff(before, after, n=1, lineterm=""))[2:]:
        style = {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")
        console.print(f"  {line}", style=style, markup=False)


def _show_measured(found: "Plan") -> None:
    to_caller().print()
    table = folding_table("metric", "before", "after")
    for one in found.measured:
        table.add_row(one.metric, *map(_interval, (one.before, one.after)))
    show_folded(table)
    if found.against is not None and not found.on_same_rows:
        to_person().print(
            "  the two were measured on other rows: their figures are not a comparison",
            markup=False,
        )


def _interval(estimate: "Estimate | None") -> str:
    if estimate is None or estimate.value is None:
        return "-"
    bounds = [estimate.value, estimate.low, estimate.high]
    return readable_value(estimate.value if None in bounds else bounds)
