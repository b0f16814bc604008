"""`rayapp up` and `rayapp down`: one local Ray head per workspace, with a token, its own temporary
directory and its own ports, so that it neither joins nor disturbs another cluster.

The head is `ray start --head --block`, a child in a session of its own. SIGTERM to it ends this
head and nothing else. What it knows (jobs, detached actors, the Serve application) is kept in the
workspace, so `up` after `down` or after a crash brings the endpoint back.
"""

import fcntl
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from rayapp.cli.head_state import (
    Head,
    ensure_token,
    head_environment,
    is_alive,
    read_head,
    state_path,
    temp_dir,
    write_head,
)
from rayapp.cli.ports import free_ports, port_from, require_different, require_free
from rayapp.cli.terminal import Say
from rayapp.errors import Unavailable
from rayapp.serve.cluster.ingress import NUM_PORTS, ingress_settings
from rayapp.storage import Workspace

HEAD_SETTINGS: dict[str, str] = {
    "RAY_AUTH_MODE": "token",  # whoever reaches a head's ports may run code on it
    "RAY_gcs_storage": "rocksdb",  # a head that was killed comes back with its state
    # A lone head has nobody to hand its work to, so waiting for the usual 30 s gains nothing.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONUNBUFFERED": "1",  # a job's print is seen when it is printed
    # Ray starts tens of Python processes. Where images forbid bytecode files (and uv makes none),
    # each would compile Ray, pandas and PyTorch for itself: 2 to 5 CPU-seconds. Empty: allowed.
    "PYTHONDONTWRITEBYTECODE": "",
    # A worker's checkpoint waits for the controller's next look at it: 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray's log monitor looks for new files ten times a second while there are fewer than so many,
    # else twice: one in thirty of a core's seconds while nothing happens.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "1",
}

_DASHBOARD_PORT, _HTTP_PORT = "RAYAPP_DASHBOARD_PORT", "RAYAPP_HTTP_PORT"
_GRPC_PORT = "RAYAPP_GRPC_PORT"
_USES = {
    _DASHBOARD_PORT: "the Ray dashboard",
    _HTTP_PORT: "the endpoints",
    _GRPC_PORT: "the endpoints over gRPC",
}
_READY_S = 120.0
_STOP_S = 60.0
_ATTEMPTS = 3
# What `ray start` writes once its node has joined; the dashboard answers before that, and a node
# that does not make it takes the dashboard down again.
_JOINED = "This command will now block forever"
_STARTUP_TIMEOUT = "timed out during startup"


def start(
    workspace: Workspace,
    environ: Mapping[str, str],
    resources: Sequence[str],
    say: Say,
) -> tuple[Head, bool]:
    """Start this workspace's head and wait until it takes jobs; (head, False) if it runs already.

    resources: further arguments of `ray start`, for example ["--num-cpus=2"].
    Raises UserError when a port is taken or named twice, Unavailable when Ray does not come up.
    """
    with _alone(workspace):
        before = read_head(workspace)
        if before is not None and is_alive(before):
            return before, False
        if before is not None:
            say("clearing what a killed head left behind")
            _end(_processes_of(before))
        ports = _own_ports(environ)
        say("there is none, starting it")
        for attempt in range(1, _ATTEMPTS + 1):
            head, child = _launch(workspace, environ, resources, ports)
            if _comes_up(head, child, say):
                return head, True
            # On a busy machine an agent misses Ray's fixed 15 s; a later start is quicker.
            say(f"Ray timed out while starting (attempt {attempt} of {_ATTEMPTS})")
            _end(_processes_of(head))
        raise _did_not_start(head)


def _own_ports(environ: Mapping[str, str]) -> dict[str, int]:
    """By variable. Raises UserError for what is no port, or named twice, or taken."""
    ports = {
        _DASHBOARD_PORT: port_from(environ, _DASHBOARD_PORT, 8265),
        _HTTP_PORT: port_from(environ, _HTTP_PORT, 8000),
    }
    if environ.get(_GRPC_PORT):  # else no port is taken before a config wants gRPC
        ports[_GRPC_PORT] = port_from(environ, _GRPC_PORT, 9000)
    require_different(ports)
    for variable, port in ports.items():
        require_free(port, variable, _USES[variable])
    return ports


def stop(workspace: Workspace, say: Say) -> Head | None:
    """End this workspace's head and everything it started; None when it did not run."""
    with _alone(workspace):
        head = read_head(workspace)
        if head is None:
            return None
        was_alive = is_alive(head)
        processes = _processes_of(head)
        if was_alive:
            psutil.Process(head.pid).terminate()
        _wait_until_gone(processes, say)
        _end([*processes, *_processes_of(head)])
        state_path(workspace).unlink(missing_ok=True)
        return head if was_alive else None


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Two `up` at once must not start two heads: the second waits, then finds the first's."""
    with (workspace.local / "head.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _launch(
    workspace: Workspace,
    environ: Mapping[str, str],
    resources: Sequence[str],
    ports: Mapping[str, int],
) -> tuple[Head, "subprocess.Popen[bytes]"]:
    dashboard_port, http_port = ports[_DASHBOARD_PORT], ports[_HTTP_PORT]
    free = free_ports(3 + NUM_PORTS, promised=ports.values())
    gcs_port, client_port, agent_port, *ingress_ports = free
    folder = workspace.local / "ray"
    folder.mkdir(exist_ok=True)
    settings = (
        HEAD_SETTINGS
        | ingress_settings(temp_dir(workspace) / "haproxy", ingress_ports)
        | {
            "RAY_AUTH_TOKEN_PATH": str(ensure_token(workspace)),
            "RAY_gcs_storage_path": str(folder / "gcs"),
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard_port}",
            _HTTP_PORT: str(http_port),
            _DASHBOARD_PORT: str(dashboard_port),
        }
    )
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        f"--temp-dir={temp_dir(workspace)}",
        f"--port={gcs_port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={client_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        # 0: the kernel chooses. Ray's default range is shared by every head of a machine.
        *("--min-worker-port=0", "--max-worker-port=0"),
        "--disable-usage-stats",
        *resources,
    ]
    log_path = folder / "head.log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            command,
            env=head_environment(workspace, environ, settings, Path(sys.executable).parent),
            cwd=workspace.local,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    head = Head(
        pid=child.pid,
        started_s=psutil.Process(child.pid).create_time(),
        dashboard_url=f"http://127.0.0.1:{dashboard_port}",
        endpoint_url=f"http://127.0.0.1:{http_port}",
        gcs_port=gcs_port,
        temp_dir=str(temp_dir(workspace)),
        token_path=settings["RAY_AUTH_TOKEN_PATH"],
        workspace=workspace.uri,
        log_path=str(log_path),
        settings=settings,
    )
    write_head(workspace, head)
    return head, child


def _comes_up(head: Head, child: "subprocess.Popen[bytes]", say: Say) -> bool:
    """Wait until the Jobs API answers. False when Ray gave up in a way that a new start may mend.

    An interrupt ends what was started. Raises Unavailable when a new start would not help.
    """
    began_s = time.monotonic()
    try:
        while child.poll() is None:
            if _JOINED in _log(head) and answers(head):
                return True
            if time.monotonic() - began_s > _READY_S:
                raise _did_not_start(head)
            say("waiting for the dashboard and the Jobs API")
            time.sleep(0.3)  # Ray offers no event for this
    except BaseException:
        child.terminate()
        _end(_processes_of(head))
        raise
    if _STARTUP_TIMEOUT in _log(head):
        return False
    raise _did_not_start(head)


def answers(head: Head) -> bool:
    """The dashboard accepts our token and serves the Jobs API."""
    token = Path(head.token_path).read_text().strip()
    request = urllib.request.Request(
        f"{head.dashboard_url}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _did_not_start(head: Head) -> Unavailable:
    lines = _log(head).strip().splitlines() or ["no output"]
    return Unavailable(
        f"the Ray head did not come up: {lines[-1].strip()}",
        f"read {head.log_path}; it starts from {head.settings['RAY_gcs_storage_path']}",
    )


def _log(head: Head) -> str:
    return Path(head.log_path).read_text(encoding="utf-8", errors="replace")


def _processes_of(head: Head) -> list[psutil.Process]:
    """Every living process of this head: its tree, and the session that `ray start` opened.

    The tree alone would miss what a killed head leaves behind; the session alone would miss job
    drivers, which open sessions of their own (and end themselves when their supervisor is gone).
    """
    found = {}
    if is_alive(head):
        root = psutil.Process(head.pid)
        found = {p.pid: p for p in [root, *root.children(recursive=True)]}
    for process in psutil.process_iter():
        try:
            is_ours = os.getsid(process.pid) == head.pid
            if is_ours and process.create_time() >= head.started_s - 1.0:
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return list(found.values())


def _wait_until_gone(processes: Sequence[psutil.Process], say: Say) -> None:
    deadline_s = time.monotonic() + _STOP_S
    alive = list(processes)
    while alive and time.monotonic() < deadline_s:
        say(
            "Ray lets its workers finish"
            if len(alive) == len(processes)
            else "the last processes end"
        )
        _, alive = psutil.wait_procs(alive, timeout=0.5)


def _end(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL what is left. psutil compares start times, so a reused pid is safe."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=5)
