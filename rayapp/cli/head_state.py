"""Which head belongs to a workspace: a file that `rayapp up` writes and every other command reads.

Also what a client must put into its environment to speak to that head.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import psutil

from rayapp.errors import Unavailable, WorkspaceError
from rayapp.schemas.record import Record
from rayapp.storage import Workspace, sha256


class Head(Record):
    """One running `ray start --head --block`. started_s: the process's start as the kernel has it,
    so that a pid that was given to another process is not mistaken for ours."""

    pid: int
    started_s: float
    dashboard_url: str
    endpoint_url: str
    """Where Serve answers once something is deployed."""
    gcs_port: int
    temp_dir: str
    token_path: str
    workspace: str
    log_path: str
    settings: dict[str, str]
    """The part of the head's environment that rayapp set; jobs and replicas inherit it."""


def state_path(workspace: Workspace) -> Path:
    return workspace.local / "head.json"


def read_head(workspace: Workspace) -> Head | None:
    """The head that was last started for this workspace, alive or not; None when there is none."""
    try:
        return Head.parse(state_path(workspace).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WorkspaceError(
            f"{state_path(workspace)}: not a head file ({str(error).splitlines()[0]})",
            "make sure that no head of this workspace runs, then delete the file",
        ) from None


def write_head(workspace: Workspace, head: Head) -> None:
    temporary = state_path(workspace).with_suffix(".tmp")
    temporary.write_text(head.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(state_path(workspace))


def is_alive(head: Head) -> bool:
    try:
        process = psutil.Process(head.pid)
        same = abs(process.create_time() - head.started_s) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def running_head(workspace: Workspace) -> Head:
    """Raises Unavailable when this workspace has no running head."""
    head = read_head(workspace)
    if head is None or not is_alive(head):
        raise Unavailable(
            f"no Ray head is running for workspace {workspace.uri}",
            "start one: rayapp up (or name another workspace by RAYAPP_WORKSPACE)",
        )
    return head


def client_environment(head: Head) -> dict[str, str]:
    """What `ray job`, `serve` and our own clients need to reach exactly this head."""
    return {
        "RAY_API_SERVER_ADDRESS": head.dashboard_url,
        "RAY_DASHBOARD_ADDRESS": head.dashboard_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": head.token_path,
        "RAYAPP_WORKSPACE": head.workspace,
    }


def ensure_token(workspace: Workspace) -> Path:
    """The file with this workspace's Ray token, readable by its owner alone; made when missing."""
    path = workspace.keys / "ray_token"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def temp_dir(workspace: Workspace) -> Path:
    """A short path of this workspace's own: Ray puts sockets below it, whose paths may have at most
    107 bytes."""
    return Path(f"/tmp/rayapp-{sha256(workspace.uri.encode())[:8]}")


def head_environment(
    workspace: Workspace, environ: Mapping[str, str], settings: Mapping[str, str], bin_dir: Path
) -> dict[str, str]:
    """The environment of `ray start`: the caller's, less what points at another cluster."""
    theirs = {
        key: value
        for key, value in environ.items()
        if key not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    }
    path = f"{bin_dir}{os.pathsep}{environ.get('PATH', os.defpath)}"
    return theirs | dict(settings) | {"PATH": path, "RAYAPP_WORKSPACE": workspace.uri}
