"""The same promises from the MLflow tracker and from the one in memory."""

import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from mlflow.tracking import MlflowClient

from rayapp.errors import WorkspaceError
from rayapp.register.store import open_client
from rayapp.register.tracking import (
    MAX_NAME_CHARS,
    MAX_VALUE_CHARS,
    MemoryTracker,
    open_tracker,
)
from rayapp.schemas.operations import Tracker


class Reader(Protocol):
    """What a test reads back, whoever stored it."""

    def params(self) -> dict[str, str]: ...
    def metric(self, name: str) -> list[tuple[int, float]]: ...
    def file(self, path: str) -> bytes: ...


class MlflowReader:
    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def params(self) -> dict[str, str]:
        return dict(self._client.get_run(self._run_id).data.params)

    def metric(self, name: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self._client.get_metric_history(self._run_id, name)]

    def file(self, path: str) -> bytes:
        return Path(self._client.download_artifacts(self._run_id, path)).read_bytes()


class MemoryReader:
    def __init__(self, tracker: MemoryTracker) -> None:
        self._tracker = tracker

    def params(self) -> dict[str, str]:
        return self._tracker.params

    def metric(self, name: str) -> list[tuple[int, float]]:
        return self._tracker.metrics.get(name, [])

    def file(self, path: str) -> bytes:
        return self._tracker.files[path]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An MLflow store, made once: a new one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts"


@contextmanager
def _mlflow(store: tuple[str, str]) -> Iterator[Tracker]:
    with open_tracker(*store, experiment="contract", run_name="run", tags={}) as tracker:
        yield tracker


@pytest.fixture(params=["mlflow", "memory"])
def opened(request: pytest.FixtureRequest, store: tuple[str, str]) -> Iterator[Any]:
    if request.param == "memory":
        memory = MemoryTracker()
        yield memory, MemoryReader(memory)
        return
    with _mlflow(store) as tracker:
        yield tracker, MlflowReader(open_client(store[0]), tracker.run_id)


def test_nested_settings_become_dotted_names(opened: tuple[Tracker, Reader]) -> None:
    tracker, reader = opened
    tracker.log_params({"name": "small", "tabular": {"depth": 3, "rate": 0.1}, "features": ["a"]})
    params = reader.params()
    assert params["name"] == "small"
    assert params["tabular.depth"] == "3"
    assert json.loads(params["features"]) == ["a"]


def test_every_parameter_fits_whatever_its_name_length_and_number(
    opened: tuple[Tracker, Reader],
) -> None:
    tracker, reader = opened
    tracker.log_params({f"p{number}": number for number in range(250)})
    tracker.log_params({"long": "x" * 10_000, "n" * 400: 1, "odd(name)=ä*": 2})
    params = reader.params()
    assert len(params) == 253
    assert params["long"] == "x" * MAX_VALUE_CHARS
    assert params["n" * MAX_NAME_CHARS] == "1"
    assert params["odd_name__ä_"] == "2"


def test_the_same_parameters_again_are_fine_but_others_are_not(
    opened: tuple[Tracker, Reader],
) -> None:
    tracker, reader = opened
    tracker.log_params({"depth": 3})
    tracker.log_params({"depth": 3})
    with pytest.raises(Exception, match="depth"):
        tracker.log_params({"depth": 4})
    assert reader.params() == {"depth": "3"}


def test_metrics_keep_their_steps_and_leave_out_what_is_not_finite(
    opened: tuple[Tracker, Reader],
) -> None:
    tracker, reader = opened
    for step, value in ((1, 0.5), (2, 0.25), (3, float("nan")), (4, float("inf"))):
        tracker.log_metrics({"loss": value}, step)
    assert sorted(reader.metric("loss")) == [(1, 0.5), (2, 0.25)]


def test_text_and_files_come_back_as_they_were(
    opened: tuple[Tracker, Reader], tmp_path: Path
) -> None:
    tracker, reader = opened
    local = tmp_path / "picture.bin"
    local.write_bytes(b"\x00\xff")
    tracker.log_text("hello", "notes/hello.txt")
    tracker.log_file(str(local), "pictures")
    assert reader.file("notes/hello.txt") == b"hello"
    assert reader.file("pictures/picture.bin") == b"\x00\xff"


def test_a_run_ends_as_its_block_did(store: tuple[str, str]) -> None:
    with _mlflow(store) as fine:
        pass
    with pytest.raises(ZeroDivisionError), _mlflow(store) as failed:
        raise ZeroDivisionError
    client = open_client(store[0])
    assert client.get_run(fine.run_id).info.status == "FINISHED"
    assert client.get_run(failed.run_id).info.status == "FAILED"


def test_a_resumed_run_goes_on_as_itself(store: tuple[str, str]) -> None:
    with _mlflow(store) as first:
        first.log_metrics({"loss": 1.0}, 1)
    with open_tracker(
        *store,
        experiment="contract",
        run_name="x",
        tags={"a": "b"},
        resume_run_id=first.run_id,
    ) as again:
        again.log_metrics({"loss": 0.5}, 2)
    assert again.run_id == first.run_id
    run = open_client(store[0]).get_run(first.run_id)
    assert (run.info.status, run.data.tags["a"]) == ("FINISHED", "b")
    assert run.data.metrics["loss"] == 0.5


def test_a_resumed_run_that_is_gone_is_told(store: tuple[str, str]) -> None:
    missing = open_tracker(*store, "contract", "x", {}, resume_run_id="0" * 32)
    with pytest.raises(WorkspaceError, match="cannot be continued"), missing:
        pass


def test_a_store_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkspaceError, match="cannot be opened"):
        open_client(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_telemetry_is_off() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def _track(folder: Path) -> str:
    url, artifacts = f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts"
    with open_tracker(url, artifacts, "race", "run", {}) as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        return tracker.run_id


def test_two_processes_may_meet_a_new_store(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        runs = pool.map(_track, [tmp_path, tmp_path])
    assert len(set(runs)) == 2
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        found = connection.execute("select count(*) from experiments where name = 'race'")
        assert found.fetchone() == (1,)
    connection.close()
