"""Engines on GPUs, as far as a machine without any can say: what Ray Serve would place."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rayapp.llm.environment import runtime_env

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    python = runtime_env().get("py_executable", "python")
    script = [python, "-m", "tests.e2e.llm_deployments", "configs/serving/llm_gpu.yaml", "3"]
    folder = tmp_path_factory.mktemp("ray")
    environ = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder)}
    found = subprocess.run(script, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    last: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return last


def test_a_model_on_one_gpu(told: dict[str, Any]) -> None:
    engine = told["engines"]["on-one-gpu"]
    assert engine["bundles"] == [{"CPU": 1, "GPU": 1}]
    assert engine["max_replicas"] == 2
    arguments = engine["arguments"]
    assert (arguments["model"], arguments["served_model_name"]) == (
        "/models/Qwen3-8B",
        ["qwen3-8b"],
    )
    assert arguments["distributed_executor_backend"] == "ray"
    assert (arguments["tensor_parallel_size"], arguments["max_model_len"]) == (1, 32768)
    assert arguments["gpu_memory_utilization"] == 0.9
    assert (arguments["enable_lora"], arguments["max_loras"]) == (True, 16)
    assert (arguments["max_cpu_loras"], arguments["max_lora_rank"]) == (16, 32)
    assert engine["router"].endswith("ModelRouter")


def test_a_model_that_two_gpus_share(told: dict[str, Any]) -> None:
    engine = told["engines"]["on-two-gpus"]
    assert engine["bundles"] == [{"CPU": 1, "GPU": 1}, {"GPU": 1}]
    assert engine["strategy"] == "PACK"
    arguments = engine["arguments"]
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (2, 1)
    assert (arguments["quantization"], arguments["max_model_len"]) == ("fp8", 131072)
    assert "enable_lora" not in arguments
    assert engine["router"].endswith("PrefixCacheAffinityRouter")


def test_the_router_finds_how_a_prompt_begins(told: dict[str, Any]) -> None:
    assert "Once upon" in told["routed_by"]
