"""A user's shell in a test: a workspace, ports that nobody uses, and the commands typed into it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rayapp.cli.head_state import client_environment, running_head, temp_dir
from rayapp.cli.ports import free_ports
from rayapp.storage import Workspace

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Shell:
    """A user's shell: environment and current directory."""

    environ: dict[str, str]
    cwd: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace.from_environment(self.environ)

    def rayapp(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "rayapp.cli", *arguments, timeout_s=timeout_s)

    def rayapp_json(self, *arguments: str) -> Any:
        finished = self.rayapp(*arguments, "--json")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return json.loads(finished.stdout)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """A `rayapp` command that goes on beside the test; its stderr comes with its stdout. It can
        be interrupted even where the tests themselves run behind a shell's `&`, which ignores
        SIGINT for all that follows."""
        return subprocess.Popen(
            [sys.executable, "-m", "rayapp.cli", *arguments],
            env=self.environ,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environ,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def with_stock_tools(self) -> "Shell":
        """The shell after `eval "$(rayapp env)"`."""
        variables = client_environment(running_head(self.workspace))
        return Shell(self.environ | variables, self.cwd)

    def in_folder(self, cwd: Path) -> "Shell":
        return Shell(self.environ, cwd)


def new_shell(folder: Path) -> Shell:
    """A shell with a workspace in `folder` and ports that nobody uses."""
    dashboard_port, http_port, grpc_port = free_ports(3)
    environ = os.environ | {
        "RAYAPP_WORKSPACE": str(folder),
        "RAYAPP_DASHBOARD_PORT": str(dashboard_port),
        "RAYAPP_HTTP_PORT": str(http_port),
        "RAYAPP_GRPC_PORT": str(grpc_port),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environ.pop("RAY_AUTH_MODE")
    return Shell(environ, PROJECT)


@contextmanager
def head_in(folder: Path, **variables: str) -> Iterator[Shell]:
    """A shell whose workspace, in this folder, has a running head with two CPUs. variables: of the
    environment that it is started in."""
    shell = new_shell(folder / "workspace")
    shell.environ.update(variables)
    started = shell.rayapp("up", "--num-cpus", "2")
    assert started.returncode == 0, started.stderr
    yield shell
    end_head(shell)


def end_head(shell: Shell) -> None:
    finished = shell.rayapp("down")
    shutil.rmtree(temp_dir(shell.workspace), ignore_errors=True)
    assert finished.returncode == 0, finished.stderr


def job_driver(shell: Shell, module: str) -> psutil.Process:
    """The process of the job that runs `python -m MODULE` on this shell's head."""
    head = psutil.Process(running_head(shell.workspace).pid)
    found = []
    for process in head.children(recursive=True):
        try:
            if process.cmdline()[1:3] == ["-m", module]:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile
    (only,) = found
    return only
