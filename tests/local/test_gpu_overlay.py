"""The GPU overlay: the same YAML asks Ray for GPU workers, and Ray is seen to hold the GPU.

The cluster's GPU is a logical one, so what runs on it here is what can: XGBoost falls back to the
CPU by itself, and PyTorch gets as far as nccl, which refuses a machine without CUDA.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from local_cluster import local_cluster, until_free
from ray.train import TrainingFailedError
from ray.util import placement_group_table
from test_train import run

from rayapp.config.load import load
from rayapp.config.training import TrainConfig
from rayapp.families.llm.answer import device_of

pytestmark = pytest.mark.usefixtures("ray_local")
PROJECT = Path(__file__).parents[2]
CONFIGS = {
    "tabular": "configs/training/flight_delay_trees.yaml",
    "neural": "configs/training/flight_delay_neural.yaml",
}


def _load(family: str, environment: str | None) -> TrainConfig:
    return load(TrainConfig, PROJECT / CONFIGS[family], environment=environment)


@pytest.mark.parametrize("family", ["tabular", "neural"])
def test_the_overlay_changes_nothing_but_the_workers(family: str) -> None:
    plain, overlaid = _load(family, None).model_dump(), _load(family, "gpu").model_dump()
    assert overlaid["workers"] == plain["workers"] | {"use_gpu": True}
    assert overlaid | {"workers": None} == plain | {"workers": None}


def test_trees_hold_the_gpu_while_they_train(tmp_path: Path) -> None:
    quick = {"tabular": {"num_rounds": 2}, "checkpoint_every": 1}
    config = TrainConfig.model_validate(_load("tabular", "gpu").model_dump() | quick)
    before = set(placement_group_table())
    result, tracker, lines = run(config, tmp_path, "r1", "bundle", 2_000)
    assert tracker.steps == [1, 2]
    assert result.num_rows == 2_000
    assert any("1 GPU worker" in line for line in lines)
    made = [group for key, group in placement_group_table().items() if key not in before]
    held = [bundle.get("GPU") for group in made for bundle in group["bundles"].values()]
    assert held == [1.0]
    until_free("GPU", 1)


def test_a_model_that_answers_takes_no_gpu_but_its_own() -> None:
    def device() -> str:  # in here, as a worker does not find the modules of tests
        torch.cuda.is_available = lambda: True  # as where engines are on this node's GPUs
        return device_of(1)

    asked: list[Any] = [ray.remote(device).options(num_gpus=n).remote() for n in (0, 1)]
    assert ray.get(asked) == ["cpu", "cuda"]


def _refusal_on_a_gpu_worker(folder: Path) -> str:
    with local_cluster(), pytest.raises(TrainingFailedError) as refused:
        run(_load("neural", "gpu"), folder, "r1", "bundle", 2_000)
    return str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA, tests/gpu trains for real")
def test_the_network_asks_for_nccl_on_a_gpu_worker(tmp_path: Path) -> None:
    """On a cluster of its own: a worker group that failed to start keeps its CPU while its error
    lives, and would starve the next test."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        assert "nccl" in child.submit(_refusal_on_a_gpu_worker, tmp_path).result().lower()
