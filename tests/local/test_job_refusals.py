"""A job with a bad config or workspace ends at once, with one message and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BAD = {
    "unknown key": ["configs/training/flight_delay_trees.yaml", "tabular.num_round=5"],
    "wrong type": ["configs/training/flight_delay_trees.yaml", "seed=many"],
    "missing file": ["configs/training/flight_delay_tree.yaml"],
}


@pytest.mark.parametrize("case", BAD)
def test_a_job_refuses_a_bad_config_at_once(case: str, tmp_path: Path) -> None:
    """At once: before anything that takes seconds to import."""
    finished = _train(BAD[case], tmp_path / "workspace", "-X", "importtime")
    is_import = [line.startswith("import time:") for line in finished.stderr.splitlines()]
    lines = list(zip(is_import, finished.stderr.splitlines(), strict=True))
    imported = {line.rpartition("|")[2].strip() for is_one, line in lines if is_one}
    assert "rayapp.config.load" in imported
    assert imported.isdisjoint({"ray", "torch", "mlflow", "xgboost", "pandas"})
    finished.stderr = "\n".join(line for is_one, line in lines if not is_one)
    _assert_refused(finished)


def test_a_job_refuses_an_unreachable_workspace_at_once() -> None:
    finished = _train(["configs/training/flight_delay_trees.yaml"], Path("/proc/nowhere"))
    _assert_refused(finished)
    assert "/proc/nowhere" in finished.stderr


def _train(
    arguments: list[str], workspace: Path, *python_options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python_options, "-m", "jobs.train", *arguments],
        env=os.environ | {"RAYAPP_WORKSPACE": str(workspace)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _assert_refused(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert "next: " in finished.stderr
    assert "Traceback" not in finished.stderr
