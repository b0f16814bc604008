"""A domain that the code has never heard of: only a contract and YAML, all three tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from use_cases import UseCase, write_use_case


def _golden_path(use_case: UseCase, workspace: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RAYAPP_WORKSPACE": str(workspace), "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-m", "jobs.golden_path", use_case.golden_path],
        cwd=use_case.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_golden_path_from_contract_and_yaml_alone(task: str, tmp_path: Path) -> None:
    use_case = write_use_case(tmp_path / "project", task, ("tabular", "neural"))
    finished = _golden_path(use_case, tmp_path / "workspace")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    figures = json.loads(finished.stdout.splitlines()[-1])
    assert figures["is_new"]
    assert set(figures["runs"]) == {f"{use_case.name}_tabular", f"{use_case.name}_neural"}
