"""Which run of a training config is released: that of the settings that were trained last."""

from pathlib import Path

import pytest
from released import make_run, make_snapshot

from rayapp.config.training import TabularConfig, TrainConfig
from rayapp.flows import training
from rayapp.flows.newest import newest, reuse
from rayapp.flows.releasing import newest_run
from rayapp.flows.session import Session, open_session
from rayapp.flows.training import resolved_config, train_stage
from rayapp.schemas.model import Run
from rayapp.schemas.operations import EventKind
from rayapp.storage import Workspace

SNAPSHOT = "configs/snapshots/flight_delay.yaml"
TRAINING = "configs/training/flight_delay_trees.yaml"


def trees(num_rounds: int) -> TrainConfig:
    return TrainConfig(
        name="flight_delay_trees",
        snapshot=SNAPSHOT,
        family="tabular",
        features=("dep_delay",),
        tabular=TabularConfig(num_rounds=num_rounds),
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def session(
    workspace: Workspace, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Session:
    """Its ledger has runs of 100 and then of 20 rounds; nobody looks for leaks in the rows of its
    snapshot, which are not there."""
    monkeypatch.setattr(training, "checked_features", lambda *given: ())
    session = open_session({"RAYAPP_WORKSPACE": workspace.uri}, said.append)
    snapshot = make_snapshot(workspace).model_copy(update={"name": "flight_delay"})
    snapshot_id = snapshot.content_digest()
    payload = {"snapshot": snapshot.model_dump(mode="json")}
    session.ledger.append(EventKind.SNAPSHOT_BUILT, snapshot_id, payload)
    run = make_run(workspace, snapshot, tmp_path)
    for num_rounds in (100, 20):
        config = trees(num_rounds)
        named = {"run_id": f"run-{num_rounds}", "config": resolved_config(config)}
        made = Run.model_validate(run.model_dump() | named)
        key = session.key("train", config.model_dump(mode="json"), snapshot_id)
        payload = {"run": made.model_dump(mode="json")}
        session.ledger.append(EventKind.RUN_FINISHED, made.run_id, payload, key)
    return session


def test_settings_of_before_that_are_trained_again_are_released(session: Session) -> None:
    """Nothing is computed anew, and yet the run of the other settings is no longer meant."""
    assert newest_run(session, TRAINING).run_id == "run-20"
    assert train_stage(session, trees(100)).run_id == "run-100"
    assert newest_run(session, TRAINING).run_id == "run-100"
    assert train_stage(session, trees(20)).run_id == "run-20"
    assert newest_run(session, TRAINING).run_id == "run-20"


def test_the_same_again_leaves_no_event(session: Session) -> None:
    before = session.ledger.sequence()
    train_stage(session, trees(20))
    assert session.ledger.sequence() == before


def test_a_snapshot_of_before_is_the_newest_again(session: Session) -> None:
    (first,) = session.ledger.events(EventKind.SNAPSHOT_BUILT)
    session.ledger.append(EventKind.SNAPSHOT_BUILT, "second", first.payload)
    reuse(session.ledger, "snapshot", first, "flight_delay")
    assert newest(session.ledger, "snapshot", "flight_delay") == first
    assert newest(session.ledger, "snapshot", "other") is None


def test_a_run_of_other_settings_than_the_file_says_so(session: Session, said: list[str]) -> None:
    newest_run(session, TRAINING)
    (line,) = said
    assert "the newest is run-20, with other settings than configs/training/flight" in line
    assert "tabular.num_rounds 20 (there 150)" in line
    assert "family" not in line
    assert line.endswith("train it first")
