"""What the ledger promises, on both databases: one chain whoever writes, and one winner."""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pgserver.postgres_server import get_server

from rayapp.errors import PointerMoved, WorkspaceError
from rayapp.govern.keys import create_key, list_keys
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind
from rayapp.schemas.traffic import TENANT

NUM_WRITERS, NUM_EACH = 3, 25


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server of this test's own, reached over a socket."""
    server = get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger's URL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    made: str = request.getfixturevalue("postgresql")
    engine = sa.create_engine(made)
    with engine.begin() as connection:
        for table in ("events", "pointers"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    engine.dispose()
    return made


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    return tmp_path / "ledger.anchors"


def _write(url: str, anchors: Path, name: str) -> None:
    ledger = Ledger(url, name, anchors)
    for number in range(NUM_EACH):
        ledger.append(EventKind.SIGNAL_MEASURED, name, {"value": number})


def _move(url: str, anchors: Path, name: str) -> None:
    try:
        Ledger(url, name, anchors).move_pointer("champion/x", name, 0, EventKind.CHAMPION_MOVED, {})
    except PointerMoved:
        raise SystemExit(3) from None


def _run(target: Callable[[str, Path, str], None], url: str, anchors: Path) -> list[int | None]:
    """Exit codes of that many processes at once."""
    context = multiprocessing.get_context("spawn")
    names = [f"writer-{n}" for n in range(NUM_WRITERS)]
    processes = [context.Process(target=target, args=(url, anchors, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_writers_in_several_processes_make_one_chain(url: str, anchors: Path) -> None:
    assert _run(_write, url, anchors) == [0] * NUM_WRITERS
    ledger = Ledger(url, "reader", anchors)
    events = ledger.events()
    assert [event.sequence for event in events] == list(range(1, NUM_WRITERS * NUM_EACH + 1))
    for name in {event.subject for event in events}:
        mine = [event.payload["value"] for event in events if event.subject == name]
        assert mine == list(range(NUM_EACH))
    assert ledger.verify() == []


def test_of_several_that_promote_at_once_one_wins(url: str, anchors: Path) -> None:
    codes = _run(_move, url, anchors)
    assert sorted(code or 0 for code in codes) == [0, 3, 3]
    ledger = Ledger(url, "reader", anchors)
    pointer = ledger.pointer("champion/x")
    assert pointer is not None
    assert pointer.target == f"writer-{codes.index(0)}"
    assert len(ledger.events(EventKind.CHAMPION_MOVED)) == 1
    assert ledger.verify() == []


def test_a_key_of_the_longest_tenant_is_kept(url: str, anchors: Path) -> None:
    tenant = "a" * 63
    assert TENANT.fullmatch(tenant)
    assert not TENANT.fullmatch(tenant + "a")
    ledger = Ledger(url, "test", anchors)
    _, key = create_key(ledger, tenant, "caller")
    assert list_keys(ledger) == [key]


@pytest.mark.parametrize(
    ("statement", "where", "what"),
    [
        ("UPDATE events SET payload='{}' WHERE sequence=3", "3", "altered"),
        ("DELETE FROM events WHERE sequence=2", "2", "missing"),
        ("DELETE FROM events WHERE sequence=25", "25", "truncated"),
    ],
)
def test_verify_names_what_was_changed_in_the_database(
    url: str, anchors: Path, statement: str, where: str, what: str
) -> None:
    _write(url, anchors, "writer")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
    first = Ledger(url, "reader", anchors).verify()[0]
    assert first.where == f"ledger event {where}"
    assert what in first.what


def test_a_server_that_does_not_answer_is_one_clear_error(anchors: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"127\.0\.0\.1") as raised:
        Ledger("postgresql+psycopg://me:secret@127.0.0.1:1/none", "test", anchors)
    assert "secret" not in str(raised.value)
