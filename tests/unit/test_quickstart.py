"""What scripts/quickstart refuses, before it sets anything up."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/quickstart"
SET_UP = 9


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Beside a set-up that does nothing but end it, so that no head is started."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/setup").write_text(f"#!/bin/sh\nexit {SET_UP}\n")
    (tmp_path / "scripts/setup").chmod(0o700)
    return Path(shutil.copy(SCRIPT, tmp_path / "scripts"))


def _run(script: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([script, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--foo"], ["--foo=1"], ["foo"], ["a=1", "--with-llm"]])
def test_what_is_no_argument_is_refused_before_anything_is_done(
    script: Path, arguments: list[str]
) -> None:
    done = _run(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    taken = "-h --help --with-llm (alone) key=value"
    assert done.stderr == f"'{arguments[-1]}' is not one of: {taken}\n"


def test_help_and_overrides_are_taken(script: Path) -> None:
    assert "RAYAPP_DASHBOARD_PORT" in _run(script, "--help").stdout
    assert _run(script, "serving=null", "sweep=a=b").returncode == SET_UP
