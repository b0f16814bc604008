import threading
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from serving_case import ENDPOINT, Case, make_bundle

from rayapp.config.routing import EndpointName
from rayapp.config.serving import ServingConfig
from rayapp.errors import TamperedError, WorkspaceError
from rayapp.schemas.operations import Pointer
from rayapp.serve.follow import LEDGER, RETRY_AFTER_S, ChampionFollower, Loaded
from rayapp.serve.loading import Inline, Store


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "1")
    make_bundle(folder / "2", seed=2)
    (folder / "broken").mkdir()
    (folder / "broken" / "schema.json").write_text("{}")
    return {"r1": folder / "1", "r2": folder / "2", "broken": folder / "broken"}


@pytest.fixture
def case(bundles: dict[str, Path]) -> Case:
    return Case(ServingConfig(), releases=bundles)


def serving(case: Case) -> str | None:
    loaded = case.follower.current.get(ENDPOINT)
    return loaded.release_id if loaded else None


def test_the_pointer_decides(case: Case) -> None:
    case.follower.refresh()
    assert serving(case) is None
    for release in ("r1", "r2", "r1"):
        case.promote(release)
        case.follower.refresh()
        assert serving(case) == release
    assert case.follower.problems == {}


def test_which_endpoints_there_are_is_made_out_once(case: Case) -> None:
    assert case.follower.endpoints is case.follower.endpoints
    case.promote("r1")
    case.follower.refresh()
    before = case.follower.endpoints
    case.refusals["other"] = WorkspaceError("not there yet", "wait")
    case.promote("other", endpoint="other")
    case.follower.refresh()
    assert case.follower.endpoints is case.follower.endpoints
    assert before == {ENDPOINT}
    assert case.follower.endpoints == {ENDPOINT, "other"}


def test_nothing_is_loaded_twice(case: Case) -> None:
    case.promote("r1")
    case.follower.refresh()
    loaded = case.follower.current[ENDPOINT]
    case.promote("r1")  # promoted again: another revision of the same release
    case.follower.refresh()
    assert case.follower.current[ENDPOINT] is loaded


def test_a_tampered_release_leaves_the_old_one_serving(case: Case) -> None:
    case.promote("r1")
    case.follower.refresh()
    case.refusals["r2"] = TamperedError("model.ubj was changed", "restore it")
    case.promote("r2")
    case.follower.refresh()
    assert serving(case) == "r1"
    assert "model.ubj was changed" in case.follower.problems[ENDPOINT]
    case.promote("r1")  # rolled back
    case.follower.refresh()
    assert case.follower.problems == {}


def test_a_refused_release_is_tried_again_after_a_while(case: Case) -> None:
    case.refusals["r1"] = WorkspaceError("not there yet", "wait")
    case.promote("r1")
    case.follower.refresh()
    case.refusals.clear()
    case.follower.refresh()
    assert serving(case) is None
    case.now_s += RETRY_AFTER_S
    case.follower.refresh()
    assert serving(case) == "r1"


def test_a_moved_pointer_is_tried_at_once(case: Case) -> None:
    case.refusals["r1"] = WorkspaceError("not there yet", "wait")
    case.promote("r1")
    case.follower.refresh()
    case.promote("r2")
    case.follower.refresh()
    assert serving(case) == "r2"


def test_what_the_pointer_left_while_it_was_loaded_never_serves(case: Case) -> None:
    opened: list[str] = []
    loading, gate = threading.Event(), threading.Event()
    inline = Inline(Store(case.read, case.fetch), case.batcher)

    def open_release(endpoint: str, release_id: str, previous: Loaded | None) -> Loaded:
        opened.append(release_id)
        if release_id == "r2":
            loading.set()
            assert gate.wait(10)
        return inline(endpoint, release_id, previous)

    case.follower = ChampionFollower(lambda: case.pointers, open_release)
    case.promote("r1")
    case.follower.refresh()
    case.promote("r2")
    case.follower.refresh(patience_s=0)
    assert loading.wait(10)
    case.promote("r1")  # rolled back
    case.follower.refresh(patience_s=0)
    gate.set()
    case.follower.refresh()
    assert (serving(case), opened) == ("r1", ["r1", "r2"])


def test_a_folder_that_is_no_bundle_is_refused(case: Case) -> None:
    case.promote("broken")
    case.follower.refresh()
    assert serving(case) is None
    assert ENDPOINT in case.follower.problems


@pytest.mark.parametrize(
    "error",
    [
        WorkspaceError("ledger postgresql://ann:***@db.internal: FATAL: no such role", "check it"),
        ConnectionError("connection to db.internal failed for user ann"),
    ],
)
def test_what_a_driver_says_is_for_the_log_alone(
    case: Case, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    case.refusals["r1"] = error
    case.promote("r1")
    case.follower.refresh()
    assert "release r1: " in case.follower.problems[ENDPOINT]
    assert "ann" not in case.follower.problems[ENDPOINT]
    assert "db.internal" in caplog.text


def test_a_release_of_another_endpoint_is_refused(case: Case) -> None:
    case.promote("r1", "other")
    case.follower.refresh()
    assert case.follower.current == {}
    assert "sealed for endpoint 'flight-delay'" in case.follower.problems["other"]


def test_an_unreachable_ledger_stops_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.promote("r1")
    case.follower.refresh()

    def fail() -> dict[str, Pointer]:
        raise RuntimeError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(case.follower, "_read_pointers", fail)
        case.follower.refresh()
    assert serving(case) == "r1"
    assert case.follower.problems[LEDGER].startswith("the ledger cannot be read: ")
    assert "database is locked" not in case.follower.problems[LEDGER]
    case.follower.refresh()
    assert case.follower.problems == {}


def test_an_endpoint_may_be_called_ledger(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.refusals["r1"] = WorkspaceError("not there yet", "wait")
    case.promote("r1", "ledger")
    for _ in range(2):  # a refusal is remembered, whatever is read after it
        case.follower.refresh()
        assert case.follower.endpoints == {"ledger"}
        assert "release r1: " in case.follower.problems["ledger"]
    case.refusals.clear()
    case.follower.refresh()
    assert "ledger" in case.follower.problems  # it is too early to try again

    def fail() -> dict[str, Pointer]:
        raise RuntimeError("database is locked")

    monkeypatch.setattr(case.follower, "_read_pointers", fail)
    case.follower.refresh()
    assert case.follower.problems.keys() == {"ledger", LEDGER}
    assert case.follower.endpoints == {"ledger"}


@pytest.mark.parametrize("name", [LEDGER, "_flags"])
def test_what_concerns_every_endpoint_is_named_as_none_of_them(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(EndpointName).validate_python(name)
