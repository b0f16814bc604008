"""What flows share: overlays reach the configs that others name, and one worker at a time."""

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from rayapp.config.training import TrainConfig
from rayapp.errors import Unavailable
from rayapp.flows.session import (
    STAGE_LIBRARIES,
    STAGE_ROOMS,
    Session,
    code_digest,
    dashboard_url,
    environment_lock,
    now_and_then,
    open_session,
)

TREES = "configs/training/flight_delay_trees.yaml"


def _session(folder: Path, **environ: str) -> Session:
    return open_session({"RAYAPP_WORKSPACE": str(folder), **environ}, lambda text: None)


def test_another_version_of_a_library_is_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(tmp_path)
    versions = {"xgboost-cpu": "3.2.0", "mlflow": "3.17.0"}
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name, "1"))
    before = {stage: session.key(stage) for stage in STAGE_LIBRARIES}
    versions["mlflow"] = "4.0.0"
    assert {stage: session.key(stage) for stage in STAGE_LIBRARIES} == before
    versions["xgboost-cpu"] = "3.3.0"
    changed = {stage for stage in STAGE_LIBRARIES if session.key(stage) != before[stage]}
    assert changed == {"tune", "train", "evaluate"}


def test_the_lock_has_each_distribution_as_its_own_header_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "Metadata-Version: 2.4\r\nName: Lock-Probe\r\nVersion: 1.2+cpu\r\nLicense: MIT\r\n"
    folder = tmp_path / "lock_probe-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"{header}\r\nName: other\r\nVersion: 9\r\n", newline="")
    monkeypatch.syspath_prepend(tmp_path)
    found = environment_lock().decode().splitlines()
    assert {"lock-probe==1.2+cpu", f"numpy=={metadata.version('numpy')}"} <= set(found)


def test_the_environment_reaches_a_config_that_another_one_names(tmp_path: Path) -> None:
    assert not _session(tmp_path).load(TrainConfig, TREES).workers.use_gpu
    gpu = _session(tmp_path, RAYAPP_ENVIRONMENT="gpu")
    assert gpu.load(TrainConfig, TREES).workers.use_gpu


def test_what_one_holds_another_is_refused(tmp_path: Path) -> None:
    session = _session(tmp_path)
    with session.exclusive("golden-path-x"):  # noqa: SIM117 - the order is the point
        with pytest.raises(Unavailable, match="golden-path-x"), session.exclusive("golden-path-x"):
            pass
    with session.exclusive("golden-path-x"):
        pass


def test_who_holds_it_is_told_with_the_command_that_stops_it(tmp_path: Path) -> None:
    told = {"metadata": {"job_submission_id": "train-trees-7"}}
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(told)}
    for holder, who, stop in (
        (_session(tmp_path, **job), " of job train-trees-7", " && ray job stop train-trees-7"),
        (_session(tmp_path), f"process {os.getpid()}", "or end that one"),
    ):
        with holder.exclusive("run-x"):  # noqa: SIM117 - the order is the point
            with pytest.raises(Unavailable) as refused, _session(tmp_path).exclusive("run-x"):
                pass
        assert refused.value.what.startswith("run-x is being worked on by process ")
        assert refused.value.what.endswith(who)
        assert refused.value.next_step.endswith(stop)


def test_a_stage_is_named_by_its_own_code() -> None:
    assert code_digest(("data",)) != code_digest(("data", "families"))
    assert code_digest() == code_digest()


def test_every_stage_names_its_code_and_its_libraries() -> None:
    assert STAGE_ROOMS.keys() == STAGE_LIBRARIES.keys()


def test_a_head_that_moved_to_another_port_is_found_there() -> None:
    moved = {"RAY_DASHBOARD_ADDRESS": "http://127.0.0.1:9999"}
    assert dashboard_url(moved, "127.0.0.1:8265") == "http://127.0.0.1:9999"
    assert dashboard_url({}, "127.0.0.1:8265") == "http://127.0.0.1:8265"
    assert dashboard_url({}, None) is None


def test_progress_is_told_as_often_as_people_read() -> None:
    told: list[int] = []
    times = iter([0.0, 5.0, 10.0, 10.0, 19.0, 20.0, 20.0])
    tell = now_and_then(told.append, lambda: next(times))
    for done in (1, 2, 3, 4):
        tell(done)
    assert told == [2, 4]
