"""The ledger: what happened cannot be changed unnoticed, and a pointer has one winner."""

import itertools
import sqlite3
from pathlib import Path

import pytest

from rayapp.errors import PointerMoved, WorkspaceError
from rayapp.ledger import Ledger, anchors_of
from rayapp.schemas.operations import EventKind
from rayapp.storage import Workspace
from serve_apps.common import while_unchanged


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def ledger(url: str, tmp_path: Path) -> Ledger:
    ledger = Ledger(url, "test", tmp_path / "ledger.anchors")
    for number in range(1, 6):
        ledger.append(EventKind.SIGNAL_MEASURED, f"endpoint-{number}", {"value": number})
    return ledger


def _tamper(url: str, statement: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)
    connection.close()


def test_untouched_ledger_has_no_problem(ledger: Ledger) -> None:
    assert ledger.verify() == []
    assert [e.sequence for e in ledger.events()] == [1, 2, 3, 4, 5]
    assert ledger.sequence() == 5


def test_what_was_read_is_read_again_once_something_happened(ledger: Ledger) -> None:
    reads = itertools.count(1)
    read = while_unchanged(ledger, lambda: next(reads))
    assert [read(), read()] == [1, 1]
    ledger.move_pointer("champion/e", "r1", 0, EventKind.CHAMPION_MOVED, {})
    assert [read(), read()] == [2, 2]


@pytest.mark.parametrize(
    ("statement", "where", "what"),
    [
        ("UPDATE events SET payload='{\"value\":9}' WHERE sequence=3", "3", "altered"),
        ("DELETE FROM events WHERE sequence=2", "2", "missing"),
        ("DELETE FROM events WHERE sequence>4", "5", "truncated"),
        ("DELETE FROM events", "1", "truncated"),
        (
            "INSERT INTO events SELECT 6, at, kind, subject, key, actor, payload, "
            "previous_hash, hash FROM events WHERE sequence=5",
            "6",
            "inserted",
        ),
    ],
)
def test_verify_names_the_first_broken_event(
    ledger: Ledger, url: str, statement: str, where: str, what: str
) -> None:
    _tamper(url, statement)
    first = ledger.verify()[0]
    assert first.where == f"ledger event {where}"
    assert what in first.what


def test_a_rewritten_history_differs_from_its_anchors(ledger: Ledger, url: str) -> None:
    """Even a chain whose every hash was recomputed does not match what was anchored."""
    database = Path(url.removeprefix("sqlite:///"))
    anchors = database.with_suffix(".anchors").read_text()
    for path in database.parent.glob("ledger.*"):
        path.unlink()
    forged = Ledger(url, "forger", database.with_suffix(".anchors"))
    for number in range(1, 6):
        forged.append(EventKind.SIGNAL_MEASURED, f"endpoint-{number}", {"value": 0})
    database.with_suffix(".anchors").write_text(anchors)
    assert {p.where for p in forged.verify()} == {f"ledger event {n}" for n in range(1, 6)}


def test_pointer_moves_only_from_the_expected_revision(ledger: Ledger) -> None:
    name = "champion/flight-delay"
    assert ledger.pointer(name) is None
    ledger.move_pointer(name, "a", 0, EventKind.CHAMPION_MOVED, {})
    with pytest.raises(PointerMoved, match="revision 1") as moved:
        ledger.move_pointer(name, "b", 0, EventKind.CHAMPION_MOVED, {})
    assert "promoted" not in str(moved.value)  # pointers say who has a key, too
    assert ledger.move_pointer(name, "b", 1, EventKind.CHAMPION_MOVED, {}).revision == 2
    moves = ledger.events(EventKind.CHAMPION_MOVED)
    assert [m.payload["target"] for m in moves] == ["a", "b"]
    assert ledger.verify() == []


def test_pointer_moved_behind_our_back_is_named(ledger: Ledger, url: str) -> None:
    ledger.move_pointer("champion/x", "good", 0, EventKind.CHAMPION_MOVED, {})
    _tamper(url, "UPDATE pointers SET target='evil'")
    assert [p.where for p in ledger.verify()] == ["pointer champion/x"]


def test_latest_finds_by_kind_key_and_subject(ledger: Ledger) -> None:
    ledger.append(EventKind.RUN_FINISHED, "run-1", {}, key="k")
    ledger.append(EventKind.RUN_FINISHED, "run-2", {}, key="k")
    found = ledger.latest(EventKind.RUN_FINISHED, key="k")
    assert found is not None
    assert found.subject == "run-2"
    assert ledger.latest(EventKind.RUN_FINISHED, key="other") is None
    assert ledger.latest(EventKind.RUN_FINISHED, subject="run-1") is not None


@pytest.mark.parametrize(
    ("url", "other", "is_same"),
    [
        ("sqlite:////a/one.db", "sqlite:////b/one.db", False),
        ("postgresql+psycopg://me:x@db/one", "postgresql+psycopg://me:x@db/two", False),
        ("postgresql+psycopg://me:x@db/one", "sqlite:////a/one.db", False),
        ("postgresql+psycopg://me:x@db/one", "postgresql+psycopg://you:y@db/one", True),
    ],
)
def test_each_ledger_has_anchors_of_its_own(
    tmp_path: Path, url: str, other: str, is_same: bool
) -> None:
    environs = [{"RAYAPP_WORKSPACE": str(tmp_path), "RAYAPP_LEDGER_URL": u} for u in (url, other)]
    one, two = (anchors_of(Workspace.from_environment(environ)) for environ in environs)
    assert (one == two) == is_same


def test_unreachable_ledger_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="unable to open"):
        Ledger(f"sqlite:///{tmp_path}/no/such/folder/ledger.db", "test", tmp_path / "anchors")
