"""`rayapp up`, `submit` and `down` against a real head, as a user types them."""

import contextlib
import os
import shlex
import shutil
import signal
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from shells import PROJECT, Shell, end_head, new_shell

from rayapp.cli.head_state import is_alive, read_head, running_head

JOB = """
import sys, time
print("the job says hello", flush=True)
if "seed=1" in sys.argv:
    time.sleep(300)
print('{"run_id": "r1"}')
sys.exit(3)
"""

CONFIG = "configs/training/flight_delay_trees.yaml"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose training job is refused, and sleeps when the seed is 1."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "configs", folder / "configs")
    (folder / "jobs").mkdir()
    (folder / "jobs/__init__.py").touch()
    (folder / "jobs/train.py").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def second_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    opened = new_shell(tmp_path_factory.mktemp("second") / "workspace")
    yield opened
    end_head(opened)


def _status(url: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _kill_session(session: int) -> None:
    """What a power cut does: no process of the head gets a last word."""
    ours = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == session:
                ours.append(process)
    for process in ours:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ours, timeout=10)


def test_up_twice_finds_the_same_head(shell: Shell) -> None:
    again = shell.rayapp_json("up")
    assert not again["is_new"]
    assert again["pid"] == running_head(shell.workspace).pid


def test_only_the_token_opens_the_dashboard(shell: Shell) -> None:
    head = running_head(shell.workspace)
    path = Path(head.token_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    url = f"{head.dashboard_url}/api/version"
    assert [_status(url, t) for t in (None, "0" * 64, path.read_text())] == [401, 403, 200]


def test_submit_exits_with_the_jobs_own_code(shell: Shell, project: Path) -> None:
    finished = shell.in_folder(project).rayapp("submit", CONFIG)
    assert finished.returncode == 3, finished.stderr
    assert "the job says hello" in finished.stdout
    assert finished.stdout.splitlines()[-1].split() == ["run_id", "r1"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_submit_stops_the_job(shell: Shell, project: Path, stop: int) -> None:
    process = shell.in_folder(project).start("submit", CONFIG, "seed=1")
    assert process.stdout is not None
    for line in process.stdout:
        if "says hello" in line:
            break
    process.send_signal(stop)
    assert process.wait(timeout=60) == 130
    process.stdout.close()
    listed = shell.with_stock_tools().run("ray", "job", "list")
    assert "STOPPED" in listed.stdout, listed.stderr
    assert "RUNNING" not in listed.stdout


def test_stock_job_client_works_after_rayapp_env(shell: Shell, project: Path) -> None:
    printed = shell.rayapp("env").stdout
    line = f"{printed}\nray job submit --working-dir . -- python -m jobs.train x.yaml"
    finished = shell.in_folder(project).run("bash", "-c", line)
    assert "the job says hello" in finished.stdout, finished.stderr
    assert finished.returncode == 1  # the stock client flattens the job's 3
    assert shlex.split(printed)[1].startswith("RAY_API_SERVER_ADDRESS=")


def test_a_killed_head_comes_back_and_another_is_left_alone(
    shell: Shell, second_shell: Shell, project: Path
) -> None:
    assert second_shell.rayapp_json("up", "--num-cpus", "1")["is_new"]
    refused = second_shell.in_folder(project).rayapp("submit", CONFIG)
    assert refused.returncode == 3, refused.stderr
    second = running_head(second_shell.workspace)
    _kill_session(second.pid)
    assert not is_alive(second)

    assert second_shell.rayapp_json("up", "--num-cpus", "1")["is_new"]
    jobs = second_shell.with_stock_tools().run("ray", "job", "list")
    assert "train-flight_delay_trees-" in jobs.stdout, jobs.stderr

    assert second_shell.rayapp_json("down")["was_running"]
    assert read_head(second_shell.workspace) is None
    assert is_alive(running_head(shell.workspace))


def test_a_taken_port_is_named_with_a_way_out(shell: Shell, tmp_path: Path) -> None:
    taken = shell.environ["RAYAPP_DASHBOARD_PORT"]
    other = Shell(shell.environ | {"RAYAPP_WORKSPACE": str(tmp_path)}, shell.cwd)
    finished = other.rayapp("up")
    end_head(other)  # in case the port was not taken after all
    assert finished.returncode == 2
    assert f"port {taken} (the Ray dashboard) is taken by" in finished.stderr
    assert "RAYAPP_DASHBOARD_PORT=" in finished.stderr
    assert read_head(other.workspace) is None


def test_down_without_a_head_says_so(tmp_path: Path) -> None:
    finished = new_shell(tmp_path / "empty").rayapp("down")
    assert finished.returncode == 0
    assert "No Ray head was running" in finished.stdout
