"""Sweeps on Ray: the best trial, the budget, and going on after an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from toy_snapshot import toy_snapshot

from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig
from rayapp.errors import ConfigError
from rayapp.schemas.data import Column
from rayapp.schemas.model import Feature
from rayapp.tune.sweep import SweepResult, sweep

pytestmark = pytest.mark.usefixtures("ray_local")
COLUMNS = (Column(name="x", type="number"), Column(name="late", type="integer"))
TRAINING = TrainConfig(
    name="toy",
    snapshot="unused",
    family="tabular",
    features=("x",),
    tabular={"num_rounds": 20},  # type: ignore[arg-type]
)


class NoTracker:
    run_id = "none"

    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_metrics(self, metrics: dict[str, float], step: int) -> None: ...
    def log_text(self, text: str, path: str) -> None: ...
    def log_file(self, local_path: str, folder: str) -> None: ...


def run(folder: Path, **changes: Any) -> tuple[SweepResult, list[str]]:
    generator = np.random.default_rng(7)
    x_N = generator.normal(size=12_000)
    late_N = (generator.random(12_000) < 1 / (1 + np.exp(-3 * np.sin(3 * x_N)))).astype(int)
    table = pa.table({"x": x_N, "late": late_N})
    base: dict[str, Any] = {
        "training": "unused",
        "space": {"max_depth": {"kind": "integer", "low": 1, "high": 8}},
        "num_trials": 3,
        "budget_s": 100,
        "max_rows": 5_000,
    }
    lines: list[str] = []
    result = sweep(
        config=SweepConfig.model_validate(base | changes),
        training=TRAINING,
        snapshot=toy_snapshot(COLUMNS, "late"),
        features=[Feature(name="x", expression="x")],
        train=ray.data.from_arrow(table.slice(0, 9_000)),
        tune=ray.data.from_arrow(table.slice(9_000)),
        storage_uri=str(folder),
        name="sweep-1",
        tracker=NoTracker(),
        on_progress=lines.append,
    )
    return result, lines


def test_finds_the_best_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first, lines = run(tmp_path)
    assert len(first.trials) == 3
    assert first.best_metric == max(trial.metrics["auc"] for trial in first.trials)
    assert set(first.best_settings) == {"max_depth"}
    assert first.used_s == pytest.approx(sum(trial.used_s for trial in first.trials))
    assert any("best" in line for line in lines)

    more, _ = run(tmp_path, num_trials=5)
    assert more.trials[:3] == first.trials
    assert len(more.trials) == 5
    assert more.best_metric >= first.best_metric

    done, lines = run(tmp_path, num_trials=5)
    assert done == more
    assert lines == []


def test_the_budget_stops_the_sweep(tmp_path: Path) -> None:
    result, _ = run(tmp_path, num_trials=40, budget_s=0.3)
    assert 1 <= len(result.trials) < 40


def test_an_unknown_setting_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_depth'"):
        run(tmp_path, space={"max_dpth": {"kind": "integer", "low": 1, "high": 2}})
    assert list(tmp_path.iterdir()) == []
