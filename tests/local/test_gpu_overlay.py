"""The GPU overlay: the same YAML asks Ray for GPU workers, and Ray is seen to hold the GPU.

The cluster's GPU is a logical one, so only the trees run on it here: XGBoost falls back to the CPU
by itself, while PyTorch asks for nccl, which refuses a machine without CUDA.
"""

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group_table
from test_train import run

from rayapp.config.load import load
from rayapp.config.training import TrainConfig

pytestmark = pytest.mark.usefixtures("ray_local")
PROJECT = Path(__file__).parents[2]
CONFIGS = {
    "tabular": "configs/training/flight_delay_trees.yaml",
    "neural": "configs/training/flight_delay_neural.yaml",
}


def _load(family: str, environment: str | None) -> TrainConfig:
    return load(TrainConfig, PROJECT / CONFIGS[family], environment=environment)


def _quick(config: TrainConfig) -> TrainConfig:
    """The config with a fit that takes no time, and one failure that counts."""
    quick: dict[str, Any] = {"tabular": {"num_rounds": 2}, "neural": {"num_epochs": 1}}
    workers = config.workers.model_copy(update={"max_failures": 0})
    update = {"workers": workers, "checkpoint_every": 1, "name": "toy"}
    changed = config.model_copy(update=update).model_dump()
    return TrainConfig.model_validate(changed | {config.family: quick[config.family]})


def _held_bundles(before: set[str]) -> list[dict[str, float]]:
    """The resources that Ray set aside for the training groups made since `before`."""
    table = placement_group_table()
    return [
        bundle for key, group in table.items() if key not in before
        for bundle in group["bundles"].values()
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["tabular", "neural"])
def test_the_overlay_changes_nothing_but_the_workers(family: str) -> None:
    plain, overlaid = _load(family, None).model_dump(), _load(family, "gpu").model_dump()
    assert overlaid["workers"] == plain["workers"] | {"use_gpu": True}
    assert overlaid | {"workers": None} == plain | {"workers": None}


def test_trees_hold_the_gpu_while_they_train(tmp_path: Path) -> None:
    before = set(placement_group_table())
    result, tracker, lines = run(_quick(_load("tabular", "gpu")), tmp_path, "r1", "bundle", 2_000)
    assert tracker.steps == [1, 2]
    assert result.num_rows == 2_000
    assert any("1 GPU worker" in line for line in lines)
    assert [bundle.get("GPU") for bundle in _held_bundles(before)] == [1.0]
    assert ray.available_resources()["GPU"] == 1.0, "given back"
