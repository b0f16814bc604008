"""The same bundle behind rayapp and behind the servers people would pick instead, side by side.

    python -m benchmarks.serving [--servers rayapp,fastapi,…] [--passes 3] [OUTPUT.json]

Needs a workspace with a flight-delay champion (scripts/quickstart makes one; RAYAPP_WORKSPACE names
it) whose head is down, and two quiet cores. Each peer gets an environment of its own below
benchmarks/.peers, made once. One server runs at a time, all of its processes on core 0 and the load
generator on core 1; passes alternate between the servers. Open loop; latency counts from the time a
request was due. For each server:

    highest rate with p99 < 100 ms, every answer 200 and every value right, in the second try where
    the first one stalled; the share of the core used there, and what ended the climb; CPU of all
    its processes per request at 500 requests/s (or at its highest rate, where that is lower), with
    idle CPU measured apart; the same for requests of 32 rows at 50/s; memory (PSS) at its peak.

`bare` answers a constant: it is the limit of a Python server, not a competitor. rayapp runs with
everything switched on: keys, rates, prices, budgets, rules and a split, checks, breaker, fallback,
deadlines, receipts, metrics and the prediction log. `rayapp-pool` is the same with the model in a
pool of one replica: beside rayapp it tells what the way there and back costs.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
import uvloop

from benchmarks import results_file
from benchmarks.cpu import cpu_s, family, idle_ms_per_s, settled
from benchmarks.open_loop import Outcome, post, run
from benchmarks.served import (
    ENDPOINT,
    NUM_ROWS,
    SERVER_CORE,
    Case,
    Row,
    everything_on,
    head,
    prepared,
)
from rayapp.cli.ports import free_ports
from rayapp.storage import Workspace

HERE = Path(__file__).parent
GENERATOR_CORE = 1
P99_LIMIT_MS = 100
CPU_RATE_RPS = 500
BATCH_ROWS, BATCH_RATE_RPS = 32, 50
FIRST_RATE_RPS, COARSE, FINE = 100, 1.5, 1.15
STEP_S, CPU_STEP_S, IDLE_S = 6.0, 8.0, 8.0
LATE_MS = 20
"""A generator that sends this late (99th percentile) measures itself."""
READY_S = 180
SETTLE_S = 60
STALL = "latency stall"
TOLERANCE = 2e-6
ONE_REPLICA = {"min_replicas": 1, "max_replicas": 1}

Command = Callable[[str, int, Path], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Server:
    """packages: what its own environment holds beside the bundle's needs; none for ours. command:
    (python, port, empty folder) → what to start, before it perhaps something to run to its end;
    None for rayapp, which `head` starts with `everything_on` and these `args` of its gateway.
    settings: of a peer's environment."""

    command: Command | None = None
    path: str = "/predict"
    body: Callable[[Sequence[Row]], bytes] = lambda rows: orjson.dumps({"rows": rows})
    values: Callable[[bytes], list[float] | None] = lambda body: orjson.loads(body)["predictions"]
    packages: tuple[str, ...] = ()
    settings: Mapping[str, str] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


def _uvicorn(app: str) -> Command:
    options = ("--host", "127.0.0.1", "--no-access-log", "--log-level", "warning")
    return lambda python, port, folder: [
        (python, "-m", "uvicorn", app, "--port", str(port), *options)
    ]


def _records(rows: Sequence[Row]) -> bytes:
    return orjson.dumps({"dataframe_records": rows})


def _tensors(rows: Sequence[Row]) -> bytes:
    """MLServer's codec takes a column's datatype from its values."""
    inputs = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        datatype = "BYTES" if any(isinstance(v, str) for v in values) else "FP64"
        inputs.append({"name": name, "shape": [len(rows)], "datatype": datatype, "data": values})
    return orjson.dumps({"inputs": inputs})


def _mlserver(python: str, port: int, folder: Path) -> Sequence[Sequence[str]]:
    model = {"name": "m", "implementation": "benchmarks.peers.mlserver_runtime.Runtime"}
    taken = free_ports(2)
    served = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": taken[0],
        "metrics_port": taken[1],
        "parallel_workers": 0,  # in the server's own process: its quickest way
    }
    (folder / "settings.json").write_text(json.dumps(served))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [(f"{Path(python).parent}/mlserver", "start", str(folder))]


def _mlflow(python: str, port: int, folder: Path) -> Sequence[Sequence[str]]:
    target = str(folder / "model")
    options = ("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "-w", "1")
    return [
        (python, str(HERE / "peers/mlflow_model.py"), target),
        (f"{Path(python).parent}/mlflow", "models", "serve", "-m", target, *options),
    ]


def _bentoml(python: str, port: int, folder: Path) -> Sequence[Sequence[str]]:
    where = ("--port", str(port), "--host", "127.0.0.1")
    return [
        (
            f"{Path(python).parent}/bentoml",
            "serve",
            "benchmarks.peers.bentoml_service:Service",
            *where,
        )
    ]


def _script(name: str) -> Command:
    return lambda python, port, folder: [(python, str(HERE / "peers" / name), str(port))]


_POOL = {"min_replicas": 1, "max_replicas": 1, "num_cpus": 0.1}
SERVERS: dict[str, Server] = {
    "rayapp": Server(
        path=f"/endpoints/{ENDPOINT}/invocations",
        body=_records,
        args=ONE_REPLICA,
    ),
    "rayapp-pool": Server(
        path=f"/endpoints/{ENDPOINT}/invocations",
        body=_records,
        args=ONE_REPLICA | {"placement": "models", "pools": {"models": _POOL}},
    ),
    "bare": Server(_uvicorn("benchmarks.peers.bare_app:app"), values=lambda body: None),
    "fastapi": Server(_uvicorn("benchmarks.peers.fastapi_app:app")),
    "mlserver": Server(
        _mlserver,
        path="/v2/models/m/infer",
        body=_tensors,
        values=lambda body: orjson.loads(body)["outputs"][0]["data"],
        packages=("mlserver==1.7.1",),
    ),
    "bentoml": Server(_bentoml, packages=("bentoml==1.4.40",)),
    "litserve": Server(_script("litserve_server.py"), packages=("litserve==0.2.19",)),
    "mlflow": Server(_mlflow, path="/invocations", body=_records),
    "ray-stock": Server(_script("ray_stock.py"), settings={"RAY_AUTH_MODE": "disabled"}),
}
_BUNDLE_NEEDS = ("xgboost", "pyarrow", "pandas", "numpy", "orjson", "psutil", "rich", "pydantic")


def python_of(name: str) -> str:
    """The interpreter of a server's own environment, made now where there is none."""
    packages = SERVERS[name].packages
    if not packages:
        return sys.executable
    folder = HERE / ".peers" / name
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        sys.stderr.write(f"making the environment of {name}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        needs = (*packages, "scikit-learn", "cloudpickle", "tzdata", *_BUNDLE_NEEDS)
        subprocess.run([python, "-m", "pip", "install", "-q", *needs], check=True)
        (folder / "complete").touch()
    return str(python)


@contextlib.contextmanager
def started(name: str, case: Case) -> Iterator[tuple[psutil.Process, int]]:
    """The root of the server's processes, and its port, once it answers rightly."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        command = SERVERS[name].command
        root, port = stack.enter_context(
            head(case, Path(folder), {**everything_on(case), **SERVERS[name].args})
            if command is None
            else _process(name, command, case, Path(folder))
        )
        wait_ready(name, case, port)
        yield root, port


@contextlib.contextmanager
def _process(
    name: str, command: Command, case: Case, folder: Path
) -> Iterator[tuple[psutil.Process, int]]:
    (port,) = free_ports(1)
    python = python_of(name)
    environ = dict(os.environ) | {
        "BENCHMARK_BUNDLE": str(case.bundle),
        "PYTHONPATH": str(HERE.parent),
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",  # some start others by name
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        **(SERVERS[name].settings or {}),
    }
    *before, last = command(python, port, folder)
    with (folder / "server.log").open("wb") as log:
        common: dict[str, Any] = {"env": environ, "cwd": folder, "stdout": log, "stderr": log}
        for first in before:
            subprocess.run(first, check=True, **common)
        pinned = ["taskset", "-c", str(SERVER_CORE), *last]
        child = subprocess.Popen(pinned, start_new_session=True, **common)
        try:
            yield psutil.Process(child.pid), port
        except BaseException:
            sys.stderr.write((folder / "server.log").read_text(errors="replace")[-3000:])
            raise
        finally:
            processes = family(psutil.Process(child.pid))
            child.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(processes, timeout=20)
            for process in alive:
                process.kill()
            child.wait()


def wait_ready(name: str, case: Case, port: int) -> None:
    server = SERVERS[name]
    url = f"http://127.0.0.1:{port}{server.path}"
    headers = {"Content-Type": "application/json"} | _headers(name, case)
    deadline_s = time.monotonic() + READY_S
    problem: object = None
    while time.monotonic() < deadline_s:
        request = urllib.request.Request(url, server.body(case.rows[:1]), headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                body = response.read()
            if is_right(server, body, case.expected[:1]):
                return
            raise SystemExit(f"{name}: a wrong answer: {body[:300]!r}, not {case.expected[0]}")
        except OSError as error:
            problem = error
            if isinstance(error, urllib.error.HTTPError):
                problem = error.read()[:500]
            time.sleep(0.5)
    raise SystemExit(f"{name} did not answer within {READY_S} s: {problem!r}")


def _headers(name: str, case: Case) -> dict[str, str]:
    return {"Authorization": f"Bearer {case.key}"} if SERVERS[name].command is None else {}


def is_right(server: Server, body: bytes, expected: Sequence[float]) -> bool:
    found = server.values(body)
    if found is None:  # bare: nothing to check
        return True
    return len(found) == len(expected) and all(
        abs(a - b) <= TOLERANCE for a, b in zip(found, expected, strict=True)
    )


def _memory_bytes(root: psutil.Process) -> int:
    total = 0
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total


@dataclass(frozen=True)
class Step:
    """One rate. cpu_s and wall_s: of the server's processes over the whole step."""

    outcome: Outcome
    cpu_s: float
    wall_s: float

    @property
    def core_used(self) -> float:
        return self.cpu_s / self.wall_s

    @property
    def cpu_ms(self) -> float:
        return self.cpu_s * 1e3 / self.outcome.num_sent

    def trouble(self) -> str | None:
        """Why this rate does not count; None where it was sustained."""
        outcome = self.outcome
        if outcome.late_ms > LATE_MS:
            return "generator"
        if outcome.is_clean and outcome.percentile_ms(99) < P99_LIMIT_MS:
            return None
        if self.core_used > 0.95:
            return "core full"
        return STALL if outcome.is_clean else "errors"


class Climber:
    """One server that is up."""

    def __init__(self, name: str, case: Case, root: psutil.Process, port: int) -> None:
        self._server, self._case, self._root, self._port = SERVERS[name], case, root, port
        path, headers = self._server.path, _headers(name, case)
        self._one = [post(path, self._server.body([row]), headers) for row in case.rows]
        slices = [slice(at, at + BATCH_ROWS) for at in range(0, NUM_ROWS, BATCH_ROWS)]
        self._slices = [s for s in slices if len(case.rows[s]) == BATCH_ROWS]
        self._many = [post(path, self._server.body(case.rows[s]), headers) for s in self._slices]
        self.peak_memory_bytes = 0
        self.num_stalls = 0

    async def load(
        self,
        rate_rps: float,
        seconds: float,
        batch: bool = False,
        max_connections: int = 256,
        after_s: float = 0.0,
    ) -> Outcome:
        requests = self._many if batch else self._one

        def check(index: int, body: bytes) -> bool:
            own = self._slices[index] if batch else slice(index, index + 1)
            return is_right(self._server, body, self._case.expected[own])

        asked = requests, check, rate_rps, seconds, max_connections
        return await run("127.0.0.1", self._port, *asked, after_s=after_s)

    def step(self, rate_rps: float, seconds: float, batch: bool = False) -> Step:
        before_s, began_s = cpu_s(self._root), time.perf_counter()
        outcome = uvloop.run(self.load(rate_rps, seconds, batch))
        step = Step(outcome, cpu_s(self._root) - before_s, time.perf_counter() - began_s)
        self.peak_memory_bytes = max(self.peak_memory_bytes, _memory_bytes(self._root))
        return step

    def settled_idle_cpu_ms_per_s(self) -> float:
        return settled(lambda: idle_ms_per_s(self._root, IDLE_S), time.monotonic() + SETTLE_S)

    def _tried(self, rate_rps: float, batch: bool) -> Step:
        """A stall of a tenth of a second, whoever's it is, is more than 1 % of a step; a rate that
        cannot be sustained stalls again. How often the first was so is counted."""
        step = self.step(rate_rps, STEP_S, batch)
        if step.trouble() != STALL:
            return step
        self.num_stalls += 1
        return self.step(rate_rps, STEP_S, batch)

    def climb(self, batch: bool = False) -> tuple[Step, str]:
        """The highest step that was sustained, and what ended the climb."""
        best, rate_rps = None, float(FIRST_RATE_RPS)
        step = self._tried(rate_rps, batch)
        while step.trouble() is None:
            best, rate_rps = step, rate_rps * COARSE
            step = self._tried(rate_rps, batch)
        ended_by = step.trouble()
        rate_rps = best.outcome.rate_rps if best else rate_rps / COARSE**3
        while rate_rps > 5:
            rate_rps *= FINE
            if step.outcome.rate_rps <= rate_rps:
                break
            finer = self._tried(rate_rps, batch)
            if finer.trouble() is not None:
                ended_by = finer.trouble()
                break
            best = finer
        if best is None:
            raise SystemExit(f"not even {rate_rps:.0f} requests/s were answered in time")
        return best, str(ended_by)


def measure(name: str, case: Case) -> dict[str, Any]:
    with started(name, case) as (root, port):
        climber = Climber(name, case, root, port)
        climber.step(50, 4)  # warm: first calls, caches, connections
        idle = climber.settled_idle_cpu_ms_per_s()
        best, ended_by = climber.climb()
        # what the climb left behind, a prediction log to be committed for one, is not the next
        # step's; it is neither in the figures of the climb, whose rate may therefore be too high
        idle = min(idle, climber.settled_idle_cpu_ms_per_s())
        fixed_rps = min(CPU_RATE_RPS, best.outcome.rate_rps)
        fixed = climber.step(fixed_rps, CPU_STEP_S)
        batch = climber.step(min(BATCH_RATE_RPS, fixed_rps), STEP_S, batch=True)

        def less_idle(step: Step) -> float:
            return round(step.cpu_ms - idle * step.wall_s / step.outcome.num_sent, 3)

        return {
            "server": name,
            "max_rate_rps": round(best.outcome.rate_rps),
            "core_used_at_max": round(best.core_used, 2),
            "cpu_ms_per_request_at_max": round(best.cpu_ms, 3),
            "ended_by": ended_by,
            "num_stalls_at_first": climber.num_stalls,
            "cpu_ms_per_request": round(fixed.cpu_ms, 3),
            "cpu_ms_per_request_less_idle": less_idle(fixed),
            "cpu_measured_at_rps": round(fixed_rps),
            "idle_cpu_ms_per_s": round(idle, 1),
            "p50_ms": round(fixed.outcome.percentile_ms(50), 2),
            "p95_ms": round(fixed.outcome.percentile_ms(95), 2),
            "p99_ms": round(fixed.outcome.percentile_ms(99), 2),
            "batch32_cpu_ms_per_request": round(batch.cpu_ms, 3),
            "batch32_cpu_ms_per_request_less_idle": less_idle(batch),
            "batch32_p99_ms": round(batch.outcome.percentile_ms(99), 2),
            "batch32_is_clean": batch.outcome.is_clean,
            "peak_memory_bytes": climber.peak_memory_bytes,
        }


def summary(passes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the passes; each figure's lowest and highest beside them."""
    first = passes[0]
    numbers = [
        k for k, v in first.items() if isinstance(v, int | float) and k != "batch32_is_clean"
    ]
    medians = {k: statistics.median(p[k] for p in passes) for k in numbers}
    spread = {k: [min(p[k] for p in passes), max(p[k] for p in passes)] for k in numbers}
    told = {"ended_by": ", ".join(sorted({p["ended_by"] for p in passes}))}
    return {"server": first["server"], **medians, **told, "spread": spread, "passes": len(passes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", default=",".join(SERVERS), help="names, by commas")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/serving-DATE.json")
    chosen = parser.parse_args()
    names = chosen.servers.split(",")
    unknown = set(names) - set(SERVERS)
    if unknown:
        parser.error(f"no server {sorted(unknown)}; there are {list(SERVERS)}")
    for name in names:
        python_of(name)
    os.sched_setaffinity(0, {GENERATOR_CORE})
    output = results_file.path_of("serving", chosen.output)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    workspace = Workspace.from_environment(os.environ)
    with tempfile.TemporaryDirectory() as folder, prepared(workspace, Path(folder)) as case:
        for number in range(chosen.passes):
            for name in names:
                sys.stderr.write(f"pass {number + 1}: {name}\n")
                measured[name].append(measure(name, case))
                sys.stderr.write(json.dumps(measured[name][-1]) + "\n")
                _write(output, measured)
    sys.stdout.write(output.read_text())


def _write(output: Path, measured: Mapping[str, list[dict[str, Any]]]) -> None:
    """After every server, so that one that does not come up costs nothing but itself."""
    result = {
        "servers": [summary(passes) for passes in measured.values() if passes],
        "rows": NUM_ROWS,
        **results_file.measured_here(),
    }
    results_file.write(output, result)


if __name__ == "__main__":
    main()
