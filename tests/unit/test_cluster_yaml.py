"""cluster.yaml, by Ray's own schema, with CPU and GPU workers and no secret in it."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from rayapp.serve.cluster.ingress import CLUSTER_FOLDER, CLUSTER_PORTS, ingress_settings

PATH = Path(__file__).parents[2] / "cluster.yaml"


def _read() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return config


def test_ray_accepts_it() -> None:
    validate_config(prepare_config(_read()))


def test_ray_would_refuse_an_unknown_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        validate_config(prepare_config(_read() | {"max_wrokers": 1}))


def test_it_scales_cpu_and_gpu_workers_from_zero() -> None:
    config = _read()
    types = config["available_node_types"]
    workers = {name: t for name, t in types.items() if name != config["head_node_type"]}
    assert {bool(t["resources"].get("GPU")) for t in workers.values()} == {True, False}
    assert all(t["min_workers"] == 0 < t["max_workers"] for t in workers.values())


def test_nodes_are_set_up_by_the_projects_own_script() -> None:
    assert any("scripts/setup" in command for command in _read()["setup_commands"])


def test_every_node_has_the_quick_ingress() -> None:
    """What the nodes evaluate is what `rayapp up` sets, as a shell reads it."""
    config = _read()
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[commands] if "ray start" in command]
        assert start.startswith('eval "$(python -m rayapp.serve.cluster.ingress)";')
    told = subprocess.run(
        [sys.executable, "-m", "rayapp.serve.cluster.ingress"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exported = dict(word.split("=", 1) for word in shlex.split(told) if word != "export")
    assert exported == ingress_settings(CLUSTER_FOLDER, CLUSTER_PORTS)
