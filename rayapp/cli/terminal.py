"""What a person sees: progress and advice on stderr, the answer on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.table import Table

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
"""What every command takes that has something to show."""
_PIPE_WIDTH = 1000
Say = Callable[[str], None]


def to_person() -> Console:
    """stderr: what is read by a person and by no program."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def to_caller() -> Console:
    """stdout: the answer itself."""
    return Console(soft_wrap=True, highlight=False)


def show_folded(shape: RenderableType) -> None:
    """A table or tree on stdout: its lines fold at the terminal's width, nothing is cut off. In a
    pipe or a file they are as long as they are."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    console.print(shape)


def folding_table(*titles: str, whole: Sequence[str] = ()) -> Table:
    """whole: titles of columns that are never folded, since they are to be copied."""
    table = Table(box=None)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in whole)
    return table


def moment(at: datetime) -> str:
    """As a person reads it, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S %Z}"


def show_pairs(title: str, pairs: dict[str, str]) -> None:
    """A title and named values on stdout, one a line."""
    console = to_caller()
    console.print(title, style="bold", markup=False)
    _print_pairs(console, pairs)


def show_titled(lists: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Lists of named values on stdout, each under its title."""
    console = to_caller()
    for title, lines in lists.items():
        console.print(f"\n{title}", style="bold")
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            console.print(f"  {name:<{width}}  {value}", markup=False)


def show_aside(pairs: dict[str, str]) -> None:
    """Named values on stderr, beside an answer that is text."""
    _print_pairs(to_person(), pairs)


def _print_pairs(console: Console, pairs: dict[str, str]) -> None:
    width = max([12, *(len(name) for name in pairs)])
    for name, value in pairs.items():
        console.print(f"  {name:<{width}} {value}", markup=False)


def show_next(commands: Sequence[str]) -> None:
    """The commands that may follow, on stderr."""
    console = to_person()
    for command in commands:
        console.print(f"  next: {command}", markup=False)


def show_problems(problems: Sequence[str]) -> None:
    """What is not as configured yet, though the job is done, on stderr."""
    console = to_person()
    for problem in problems:
        what, _, next_step = problem.partition("; next: ")
        console.print(f"problem: {what}\n  next: {next_step}", markup=False)


def emit_json(value: Any) -> None:
    """One JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


@contextmanager
def waiting(text: str) -> Iterator[Say]:
    """Show that something goes on, with the seconds so far; the caller may change the words.

    On a terminal one line moves; elsewhere each new text is printed once.
    """
    console = to_person()
    began_s = time.monotonic()
    if not console.is_terminal:
        console.print(f"{text} …", markup=False)
        shown = ""

        def say(new: str) -> None:
            nonlocal shown
            if new != shown:
                console.print(f"  {_seconds(began_s)}  {new}", markup=False)
            shown = new

        yield say
        return
    with console.status(f"{text} …") as status:
        yield lambda new: status.update(f"{text}: {new} … {_seconds(began_s)}")


def _seconds(began_s: float) -> str:
    return f"{time.monotonic() - began_s:5.1f}s"


def readable(figures: Mapping[str, Any]) -> dict[str, str]:
    """A job's figures for a person, nested ones under `outer.inner`."""
    shown: dict[str, str] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            shown |= {f"{name}.{inner}": text for inner, text in readable(value).items()}
        else:
            shown[name] = readable_value(value)
    return shown


def readable_value(value: Any) -> str:
    """A list of three numbers is a value and its interval."""
    match value:
        case [float(estimate), float(low), float(high)]:
            return f"{readable_value(estimate)}  [{readable_value(low)}, {readable_value(high)}]"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}"
        case int():
            return f"{value:,}"
    return str(value)
