"""`rayapp doctor`: is this machine fit to run rayapp, and if not, what would mend it."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from rayapp.cli.head import answers
from rayapp.cli.head_state import is_alive, read_head
from rayapp.cli.ports import is_free, port_from
from rayapp.errors import RayappError
from rayapp.storage import Workspace

_PACKAGES = ("ray", "torch", "pyarrow", "pydantic", "mlflow", "deltalake", "sqlalchemy")
_DISK_BYTES = 5 * 1024**3
_MEMORY_BYTES = 4 * 1024**3
_SHARED_MEMORY_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Finding:
    """One check. advice says what to do where the state is not "ok"."""

    check: str
    state: Literal["ok", "warning", "problem"]
    what: str
    advice: str = ""


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Every check, in the order in which a newcomer runs into them."""
    findings = [_python(), *_packages(), _memory(), *_shared_memory()]
    try:
        workspace = Workspace.from_environment(environ)
    except RayappError as error:
        return [*findings, Finding("workspace", "problem", error.what, error.next_step)]
    findings += [_place(workspace), _disk(workspace)]
    return [*findings, *_head(workspace, environ)]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", f"{version} at {sys.executable}")
    return Finding("python", "problem", f"{version}; 3.11 or 3.12 is needed", "run scripts/setup")


def _packages() -> list[Finding]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(Finding(name, "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, "problem", "not installed", "run scripts/setup"))
    boosters = [d for d in ("xgboost-cpu", "xgboost") if _is_installed(d)]
    if len(boosters) == 1:
        found.append(Finding("xgboost", "ok", f"{metadata.version(boosters[0])} ({boosters[0]})"))
    else:
        what = "not installed" if not boosters else "xgboost and xgboost-cpu own one directory"
        found.append(Finding("xgboost", "problem", what, "run scripts/setup with one PROFILE"))
    return found


def _is_installed(distribution: str) -> bool:
    return any(metadata.distributions(name=distribution))


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    what = f"{_gb(free)} free, {os.cpu_count()} CPUs"
    if free >= _MEMORY_BYTES:
        return Finding("memory", "ok", what)
    return Finding("memory", "warning", what, f"{_gb(_MEMORY_BYTES)} are comfortable")


def _shared_memory() -> list[Finding]:
    if not Path("/dev/shm").is_dir():
        return []
    total = shutil.disk_usage("/dev/shm").total
    if total >= _SHARED_MEMORY_BYTES:
        return [Finding("shared memory", "ok", _gb(total))]
    advice = "in a container: --shm-size=2g; else Ray uses the disk and is slow"
    return [Finding("shared memory", "warning", _gb(total), advice)]


def _place(workspace: Workspace) -> Finding:
    if not workspace.is_bucket:
        return Finding("workspace", "ok", workspace.uri)
    return Finding(
        "workspace",
        "warning",
        f"{workspace.uri}: not looked at, it is a bucket",
        "the first job that writes to it says whether it can",
    )


def _disk(workspace: Workspace) -> Finding:
    free = shutil.disk_usage(workspace.local).free
    if free >= _DISK_BYTES:
        use = f"this machine's part, {workspace.local}" if workspace.is_bucket else "the workspace"
        return Finding("disk", "ok", f"{_gb(free)} free for {use}")
    return Finding("disk", "warning", f"{_gb(free)} free", f"{_gb(_DISK_BYTES)} are comfortable")


def _head(workspace: Workspace, environ: Mapping[str, str]) -> list[Finding]:
    head = read_head(workspace)
    if head is not None and is_alive(head):
        if answers(head):
            return [Finding("head", "ok", f"{head.dashboard_url}, process {head.pid}")]
        advice = f"read {head.log_path}, or start it again: rayapp down && rayapp up"
        return [Finding("head", "problem", f"{head.dashboard_url} does not answer", advice)]
    stopped = "not running" if head is None else "was killed"
    return [
        Finding("head", "warning", stopped, "rayapp up"),
        _port(environ, "RAYAPP_DASHBOARD_PORT", 8265),
        _port(environ, "RAYAPP_HTTP_PORT", 8000),
    ]


def _port(environ: Mapping[str, str], variable: str, default: int) -> Finding:
    port = port_from(environ, variable, default)
    if is_free(port):
        return Finding(f"port {port}", "ok", "free")
    return Finding(f"port {port}", "problem", "taken", f"name another one by {variable}")


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1024**3:.1f} GB"
