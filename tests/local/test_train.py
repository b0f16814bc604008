"""Training on Ray: killed workers, finished runs, and several workers, against a plain process."""

import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray.data
from toy_snapshot import toy_snapshot
from waiting import AT_ONCE_S, until

from rayapp.config.training import (
    NeuralConfig,
    TabularConfig,
    TrainConfig,
    TrainWorkersConfig,
)
from rayapp.families.base import Batch, Compute, Problem, Progress, family
from rayapp.families.bundle import Bundle
from rayapp.families.encoding import Encode
from rayapp.schemas.data import Column
from rayapp.schemas.model import Feature
from rayapp.train.fit import FitResult, fit

pytestmark = pytest.mark.usefixtures("ray_local")
CHECKPOINT_EVERY = 20
TREES = TabularConfig(num_rounds=400, max_depth=6)


def rows(num_rows: int) -> pa.Table:
    generator = np.random.default_rng(7)
    number_N = generator.normal(size=num_rows)
    other_N = generator.normal(size=(8, num_rows))
    text_N = generator.choice(list("abcdef"), num_rows)
    chance_N = 1 / (1 + np.exp(-number_N - (text_N == "a") + other_N[0] * other_N[1]))
    label_N = (generator.random(num_rows) < chance_N).astype(np.int64)
    others = {f"other{i}": other_N[i] for i in range(8)}
    return pa.table({"number": number_N, "text": text_N, **others, "label": label_N})


FEATURES = tuple(
    Feature(name=name, expression=name)
    for name in ("number", "text", *(f"other{i}" for i in range(8)))
)
COLUMNS = (
    Column(name="number", type="number"),
    Column(name="text", type="string"),
    *(Column(name=f"other{i}", type="number") for i in range(8)),
    Column(name="label", type="integer", known_at="outcome"),
)


@dataclass
class ListTracker:
    """A tracker that keeps what it is told."""

    run_id: str = "list"
    steps: list[int] = field(default_factory=list)

    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_text(self, text: str, path: str) -> None: ...
    def log_file(self, local_path: str, folder: str) -> None: ...
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.steps.append(step)


@dataclass
class Killed:
    folder: Path
    result: FitResult
    steps: list[int]
    lines: list[str]
    num_killed: int


def config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "name": "toy",
        "snapshot": "unused",
        "family": "tabular",
        "features": ("number",),
        "checkpoint_every": CHECKPOINT_EVERY,
    }
    return TrainConfig.model_validate(base | changes)


def run(
    chosen: TrainConfig, folder: Path, run_id: str, bundle: str, num_rows: int = 20_000
) -> tuple[FitResult, ListTracker, list[str]]:
    tracker, lines = ListTracker(), list[str]()
    table = rows(num_rows + 5_000)
    result = fit(
        config=chosen,
        snapshot=toy_snapshot(COLUMNS, "label"),
        features=FEATURES,
        train=ray.data.from_arrow(table.slice(0, num_rows)),
        tune=ray.data.from_arrow(table.slice(num_rows)),
        storage_uri=str(folder / "storage"),
        run_id=run_id,
        tracker=tracker,
        bundle_folder=folder / bundle,
        on_progress=lines.append,
    )
    return result, tracker, lines


def kill_the_worker(run_folder: Path, killed: list[int]) -> None:
    """SIGKILL this cluster's training worker, once a checkpoint of the run is registered."""
    registered = run_folder / "checkpoint_manager_snapshot.json"

    def is_killed() -> bool:
        if registered.exists() and "checkpoint_20" in registered.read_text():
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(_cmdline(process)):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    break
        return bool(killed)

    until(is_killed, wait_s=240, every_s=AT_ONCE_S)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        found: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return found


@pytest.fixture(scope="module")
def killed(ray_local: object, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    pids: list[int] = []
    killer = threading.Thread(target=kill_the_worker, args=(folder / "storage" / "r1", pids))
    killer.start()
    chosen = config(tabular=TREES.model_dump())
    result, tracker, lines = run(chosen, folder, "r1", "bundle")
    killer.join(timeout=10)
    return Killed(folder, result, tracker.steps, lines, len(pids))


def test_a_killed_worker_resumes_from_its_checkpoint(killed: Killed) -> None:
    assert killed.num_killed == 1
    falls = [(a, b) for a, b in zip(killed.steps, killed.steps[1:], strict=False) if b <= a]
    resumed_at = [b for _, b in falls] or killed.steps[1:]
    assert min(resumed_at) > CHECKPOINT_EVERY, "started again from nothing"
    assert [step.step for step in killed.result.history][-1] == TREES.num_rounds
    assert killed.result.metrics["auc"] > 0.6
    assert killed.result.num_rows == 20_000
    assert killed.result.cpu_s > 0.5
    assert any(f"round {TREES.num_rounds}/{TREES.num_rounds}" in line for line in killed.lines)


def test_it_ends_with_the_model_of_a_plain_process(killed: Killed, tmp_path: Path) -> None:
    bundle = Bundle.open(killed.folder / "bundle")
    table = rows(25_000)
    encode = Encode(bundle.schema.features, "label", "binary", ("no", "yes"))
    train, tune = encode(table.slice(0, 20_000)), encode(table.slice(20_000))

    def keep(progress: Progress) -> None:
        if progress.is_checkpoint and progress.step == progress.total_steps:
            progress.save(tmp_path)

    family("tabular").fit(
        Problem("binary", 2, bundle.schema.features, 7, 20_000),
        TREES.model_dump(),
        lambda: iter([Batch(train["x"], train["y"])]),
        lambda: iter([Batch(tune["x"], tune["y"])]),
        CHECKPOINT_EVERY,
        None,
        keep,
        Compute(),
    )
    plain = (tmp_path / "model.ubj").read_bytes()
    assert plain == (killed.folder / "bundle" / "model" / "model.ubj").read_bytes()


def test_a_finished_run_gives_its_bundle_again(killed: Killed) -> None:
    """The driver died between the fit and the ledger: the same run id must not train twice."""
    chosen = config(tabular=TREES.model_dump())
    result, tracker, _ = run(chosen, killed.folder, "r1", "again")
    assert tracker.steps == [TREES.num_rounds]
    assert len(result.history) == len(killed.result.history)
    assert result.cpu_s >= killed.result.cpu_s
    for name in ("schema.json", "profile.json", "model/model.ubj"):
        first = (killed.folder / "bundle" / name).read_bytes()
        assert (killed.folder / "again" / name).read_bytes() == first


def test_two_neural_workers_train_one_model(tmp_path: Path) -> None:
    chosen = config(
        family="neural",
        checkpoint_every=1,
        workers=TrainWorkersConfig(num_workers=2).model_dump(),
        neural=NeuralConfig(num_epochs=4, batch_size=256).model_dump(),
    )
    result, tracker, _ = run(chosen, tmp_path, "ddp", "bundle", num_rows=10_000)
    assert tracker.steps == [1, 2, 3, 4]
    assert result.metrics["auc"] > 0.6
    table = rows(100)
    scores_NK = Bundle.open(tmp_path / "bundle").predict(table.drop_columns(["label"]))
    assert scores_NK.shape == (100, 2)
