"""What `rayapp audit verify` found, for a person."""

from typing import TYPE_CHECKING

from rayapp.cli.terminal import to_caller

if TYPE_CHECKING:
    from rayapp.govern.audit import Audit


def show_audit(found: "Audit") -> None:
    """With how much was looked at: where nothing is recorded, all of it is well."""
    console = to_caller()
    for problem in found.problems:
        console.print(f"{problem.where}: {problem.what}", markup=False)
    checked = f"{_count(found.num_events, 'event')} and {_count(found.num_artefacts, 'artefact')}"
    if found.problems:
        console.print(f"{_count(len(found.problems), 'finding')} in {checked}.")
    elif found.num_events:
        console.print(f"Every event and every artefact is what was recorded: {checked}.")
    else:
        console.print("Nothing is recorded yet: no event, so no artefact.")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
