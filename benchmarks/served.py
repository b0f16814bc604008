"""What the benchmarks of serving share: the flight-delay champion of a workspace, requests with the
answers that its bundle gives, and a head that serves it with everything switched on."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa

from rayapp.cli.ask import sample_requests
from rayapp.cli.head_state import running_head
from rayapp.cli.ports import free_ports
from rayapp.config.load import read_yaml
from rayapp.families.bundle import Bundle
from rayapp.govern.keys import create_key, revoke_key
from rayapp.ledger import Ledger
from rayapp.register.manifest import read_manifest
from rayapp.release.promote import champion_pointer
from rayapp.schemas.release import Manifest
from rayapp.storage import Workspace, fetch_bundle
from rayapp.transforms import arrow_type

ENDPOINT = "flight-delay"
NUM_ROWS = 256
SERVER_CORE = 0
DEPLOY_S = 120
"""So long Serve takes at most to start and to accept a config."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """rows: requests of one row each. expected: the bundle's own answer to each. key: an API key of
    rayapp's; nobody else asks for one. release_id: the champion's."""

    workspace: Workspace
    bundle: Path
    rows: list[Row]
    expected: list[float]
    key: str
    release_id: str


@contextlib.contextmanager
def prepared(workspace: Workspace, folder: Path) -> Iterator[Case]:
    """folder: an empty one, for the bundle."""
    ledger = Ledger.of(workspace, "benchmark")
    fetch_bundle(champion_of(workspace).bundle, folder)
    bundle = Bundle.open(folder)
    names = [column.name for column in bundle.schema.inputs]
    asked = sample_requests(workspace, ENDPOINT, NUM_ROWS)
    rows = [{name: row[name] for name in names} for row in asked]
    expected = bundle.predict(typed(rows, bundle))[:, 1].tolist()
    text, key = create_key(ledger, "benchmark", "caller")
    try:
        yield Case(workspace, folder, rows, expected, text, champion_id(workspace))
    finally:
        revoke_key(ledger, key.key_id)


def champion_of(workspace: Workspace) -> Manifest:
    """Of ENDPOINT."""
    return read_manifest(workspace, champion_id(workspace)).manifest


def champion_id(workspace: Workspace) -> str:
    pointer = Ledger.of(workspace, "benchmark").pointer(champion_pointer(ENDPOINT))
    if pointer is None:
        raise SystemExit(f"{workspace.uri} has no champion of {ENDPOINT}: run scripts/quickstart")
    return pointer.target


def typed(rows: Sequence[Row], bundle: Bundle) -> pa.Table:
    """Rows as they are sent → as a bundle takes them."""
    columns = {}
    for column in bundle.schema.inputs:
        values = [row[column.name] for row in rows]
        if column.type == "timestamp":
            values = [v if v is None else datetime.fromisoformat(v) for v in values]
        columns[column.name] = pa.array(values, arrow_type(column.type))
    return pa.table(columns)


def everything_on(case: Case) -> dict[str, Any]:
    """What rayapp does beside answering, on top of checks, receipts, metrics, deadlines and the
    log: keys, rates, prices, budgets, a breaker, a fallback, and routing. That is a rule, whose
    header no request has, and a sticky split, whose arm is the champion's release under its id: so
    each request is routed, and the answers are those of one model."""
    half = {"release": case.release_id, "share": 0.5}
    rule = {"name": "asked-for", "release": case.release_id, "when": {"headers": {"x-try": "it"}}}
    routing = {"rules": [rule], "split": {"salt": "benchmark", "arms": {"half": half}}}
    return {
        "requires_key": True,
        "usd_per_1000_rows": 0.001,
        "budgets": {"default_usd": 1_000_000},
        "limits": {"default": {"requests_per_s": 1_000_000, "burst": 1_000_000}},
        "endpoints": {ENDPOINT: routing | {"breaker": {}, "fallback": [{"scores": [0.5, 0.5]}]}},
    }


@contextlib.contextmanager
def head(
    case: Case, folder: Path, settings: Mapping[str, Any], core: int | None = SERVER_CORE
) -> Iterator[tuple[psutil.Process, int]]:
    """A head of our own on the workspace, its gateway deployed with `settings`, all on one core
    (None: on every core): its root process and the port of the endpoints.

    The port is the workspace's: a head that comes back brings its Serve back where it was.
    """
    ours = f"{Path(sys.executable).parent}/rayapp"
    (dashboard,) = free_ports(1)
    port = http_port()
    environ = dict(os.environ) | {
        "RAYAPP_WORKSPACE": case.workspace.uri,
        "RAYAPP_HTTP_PORT": str(port),
        "RAYAPP_DASHBOARD_PORT": str(dashboard),
    }
    pinned = () if core is None else ("taskset", "-c", str(core))
    up = [*pinned, ours, "up"]
    subprocess.run(up, check=True, env=environ, stdout=subprocess.DEVNULL)
    try:
        running = running_head(case.workspace)
        deploy(case, folder, settings)
        yield psutil.Process(running.pid), port
    finally:
        subprocess.run([ours, "down"], check=True, env=environ, stdout=subprocess.DEVNULL)


def deploy(case: Case, folder: Path, settings: Mapping[str, Any]) -> None:
    """On the workspace's running head, by Ray's REST interface: Ray's own command takes seconds of
    CPU to start, on cores that may be measured."""
    path = write_config(folder, settings, {"port": http_port()})
    _applications(case.workspace, "PUT", path.read_bytes())


def is_running(case: Case) -> bool:
    """Whether the gateway is as it was deployed last, and whole."""
    found = _applications(case.workspace, "GET").json()["applications"]
    return bool(found["gateway"]["status"] == "RUNNING")


def _applications(
    workspace: Workspace, method: str, content: bytes | None = None
) -> httpx.Response:
    running = running_head(workspace)
    token = Path(running.token_path).read_text()
    response = httpx.request(
        method,
        f"{running.dashboard_url}/api/serve/applications/",
        content=content,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        timeout=DEPLOY_S,
    )
    return response.raise_for_status()


def write_config(
    folder: Path, settings: Mapping[str, Any], http_options: Mapping[str, Any]
) -> Path:
    """The gateway's config file with these settings in place of its own, and these http_options
    among them: a file in `folder`."""
    config, _ = read_yaml("configs/serving/gateway.yaml")
    config["http_options"] |= http_options
    config["applications"][0]["args"] = dict(settings)
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def http_port() -> int:
    return int(os.environ.get("RAYAPP_HTTP_PORT") or 8000)
