"""What more models cost: 1, 10, 100 and 1,000 of them in a pool of three replicas, asked by Zipf's
law.

    python -m benchmarks.growth [--models 1,10,100,1000] [--seconds 30] [--repeats 3] [OUTPUT.json]

Needs a workspace with a flight-delay champion (scripts/quickstart makes one; RAYAPP_WORKSPACE names
it) whose head is down, and two quiet cores. The champion's bundle is released again under other
endpoints' names, in a workspace of its own, so every model is as large as any other. A replica has
room for ROOM of them. Open loop at RATE_RPS, every answer checked. For each number of models:

    p50 and p99 from when a request was due; the share of the calls that found their model in a
    replica; CPU of the gateway's process for each request, less what it takes idle.

At the end, with all of them registered, only the first is asked: what the mere number of endpoints
costs, without that of models which take turns in the CPU's caches. CPU and times are medians of the
repeats, and the CPU of each repeat is told too. Then the same models behind Ray Serve's own
multiplexing, with as many replicas and room for as many models in each
(peers/ray_multiplexed.py), which gets rows that are encoded already.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import uvloop

from benchmarks import results_file
from benchmarks.open_loop import Outcome, post, run
from benchmarks.served import Case, champion_of, head, http_port, prepared, typed
from benchmarks.serving import TOLERANCE
from rayapp.cli.head_state import running_head
from rayapp.cli.ports import free_ports
from rayapp.families.bundle import Bundle
from rayapp.ledger import Ledger
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.promote import promote
from rayapp.schemas.release import Manifest
from rayapp.storage import Workspace

ROOM, NUM_REPLICAS = 100, 3
RATE_RPS, IDLE_S, SETTLE_S = 40.0, 5.0, 15.0
EXPORT_S = 17.0
"""Replicas hand over what they counted every five seconds, and Ray takes ten more to show it."""
READY_S = 120


def name_of(number: int) -> str:
    return f"model-{number:04d}"


@dataclass(frozen=True)
class Span:
    """How long, and how often, something is measured."""

    seconds: float
    repeats: int


class Models:
    """Releases of one bundle under many names, in a workspace that has nothing else."""

    def __init__(self, workspace: Workspace, manifest: Manifest) -> None:
        self.workspace = workspace
        self._manifest = manifest
        self._ledger = Ledger.of(workspace, "benchmark")
        self._key = load_or_create_key(workspace.keys)
        self.release_ids: list[str] = []

    @property
    def bytes_of_one(self) -> int:
        return sum(file.num_bytes for file in self._manifest.bundle.files)

    def have(self, count: int) -> None:
        for number in range(len(self.release_ids), count):
            manifest = self._manifest.model_copy(update={"endpoint": name_of(number)})
            signed = seal(manifest, self._key)
            write_manifest(self.workspace, signed)
            promote(self._ledger, signed, 0)
            self.release_ids.append(signed.release_id)


def zipf(count: int, size: int) -> list[int]:
    """Numbers below count; the one of rank r is as likely as 1/r."""
    weights = 1 / np.arange(1, count + 1)
    found = np.random.default_rng(7).choice(count, size, p=weights / weights.sum())
    return [int(number) for number in found]


def asked(
    requests: Sequence[bytes], expected: Sequence[float], seconds: float, port: int | None = None
) -> Outcome:
    """port: None asks the head that is up."""

    def check(index: int, body: bytes) -> bool:
        (found,) = orjson.loads(body)["predictions"]
        return bool(abs(found - expected[index]) <= TOLERANCE)

    where = http_port() if port is None else port
    outcome = uvloop.run(run("127.0.0.1", where, requests, check, RATE_RPS, seconds))
    if not outcome.is_clean:
        sys.stderr.write(
            f"{outcome.statuses}, {outcome.num_lost} lost, {outcome.num_wrong} wrong\n"
        )
    return outcome


def figures(count: int, outcomes: Sequence[Outcome], hit_share: float) -> dict[str, Any]:
    def median_ms(percent: float) -> float:
        return round(statistics.median(o.percentile_ms(percent) for o in outcomes), 2)

    return {
        "num_models": count,
        "num_sent": sum(outcome.num_sent for outcome in outcomes),
        "num_not_answered": sum(outcome.num_sent - outcome.num_ok for outcome in outcomes),
        "p50_ms": median_ms(50),
        "p99_ms": median_ms(99),
        "hit_share": round(hit_share, 4),
    }


class Ours:
    """A gateway with a pool, on a head that is up."""

    def __init__(self, case: Case, models: Models, root: psutil.Process) -> None:
        self._case, self._models = case, models
        processes = root.children(recursive=True)
        self._gateway = next(p for p in processes if "gateway:gateway" in " ".join(p.cmdline()))

    def measured(self, count: int, num_asked: int, span: Span) -> dict[str, Any]:
        """With `count` models registered, of which the first `num_asked` are called."""
        self._models.have(count)
        _wait_for(name_of(count - 1))
        size = int(RATE_RPS * span.seconds * 1.2)
        rows = [number % len(self._case.rows) for number in range(size)]
        requests = [
            post(
                f"/endpoints/{name_of(model)}/invocations",
                orjson.dumps({"dataframe_records": [self._case.rows[row]]}),
            )
            for model, row in zip(zipf(num_asked, size), rows, strict=True)
        ]
        expected = [self._case.expected[row] for row in rows]
        asked(requests, expected, SETTLE_S)
        time.sleep(EXPORT_S)
        before = self._counted()
        outcomes: list[Outcome] = []
        own_ms: list[float] = []
        idle_ms_per_s: list[float] = []
        for _ in range(span.repeats):
            idle_s = self._used_s(lambda: time.sleep(IDLE_S)) / IDLE_S
            began_s = time.monotonic()
            used_s = self._used_s(lambda: outcomes.append(asked(requests, expected, span.seconds)))
            passed_s = time.monotonic() - began_s
            own_ms.append((used_s - idle_s * passed_s) * 1e3 / outcomes[-1].num_sent)
            idle_ms_per_s.append(idle_s * 1e3)
        time.sleep(EXPORT_S)
        held, absent = (b - a for a, b in zip(before, self._counted(), strict=True))
        found = {
            "num_asked": num_asked,
            "gateway_cpu_ms_per_request_less_idle": round(statistics.median(own_ms), 3),
            "of_repeats": [round(value, 3) for value in own_ms],
            "gateway_idle_cpu_ms_per_s": round(statistics.median(idle_ms_per_s), 1),
        }
        return figures(count, outcomes, held / (held + absent)) | found

    def _used_s(self, work: Any) -> float:
        before = self._gateway.cpu_times()
        work()
        after = self._gateway.cpu_times()
        return float(after.user + after.system - before.user - before.system)

    def _counted(self) -> tuple[float, float]:
        """The pool's calls so far whose model was held, and whose was not."""
        running = running_head(self._case.workspace)
        told = Path(running.temp_dir, "prom_metrics_service_discovery.json").read_text()
        text = ""
        for target in {t for group in json.loads(told) for t in group["targets"]}:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as response:
                text += response.read().decode()
        lines = re.findall(r"^ray_rayapp_pool_asks_total\{(.*)\} (\S+)$", text, re.MULTILINE)
        held = sum(float(v) for labels, v in lines if 'outcome="held"' in labels)
        return held, sum(float(v) for _, v in lines) - held


class Stock:
    """Ray Serve's multiplexing, that is up on `port`."""

    def __init__(self, case: Case, models: Models, port: int) -> None:
        self._case, self._models, self._port = case, models, port
        bundle = Bundle.open(case.bundle)
        self._x_NF = bundle.encode(typed(case.rows, bundle))

    def measured(self, count: int, span: Span) -> dict[str, Any]:
        self._models.have(count)
        size = int(RATE_RPS * span.seconds * 1.2)
        rows = [number % len(self._case.rows) for number in range(size)]
        encoded = [orjson.dumps([[None if v != v else v for v in x]]) for x in self._x_NF.tolist()]
        requests = [
            post(f"/{self._models.release_ids[model]}", encoded[row])
            for model, row in zip(zipf(count, size), rows, strict=True)
        ]
        expected = [self._case.expected[row] for row in rows]
        asked(requests, expected, SETTLE_S, self._port)
        num_asks, num_loads = self._counted()
        outcomes = [
            asked(requests, expected, span.seconds, self._port) for _ in range(span.repeats)
        ]
        later_asks, later_loads = self._counted()
        return figures(count, outcomes, 1 - (later_loads - num_loads) / (later_asks - num_asks))

    def _counted(self) -> tuple[int, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/", timeout=10) as response:
            asks, loads = json.load(response)
        return asks, loads


@contextlib.contextmanager
def multiplexed(models: Models, folder: Path) -> Iterator[int]:
    """The port of Ray Serve's multiplexing, once it answers."""
    (port,) = free_ports(1)
    environ = dict(os.environ) | {
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "BENCHMARK_WORKSPACE": models.workspace.uri,
        "BENCHMARK_ROOM": str(ROOM),
        "BENCHMARK_REPLICAS": str(NUM_REPLICAS),
    }
    script = Path(__file__).parent / "peers/ray_multiplexed.py"
    with (folder / "multiplexed.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, str(script), str(port)], env=environ, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}/"
            _until(lambda: urllib.request.urlopen(url, timeout=5).status == 200)
            yield port
        except BaseException:
            sys.stderr.write((folder / "multiplexed.log").read_text(errors="replace")[-3000:])
            raise
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def _wait_for(name: str) -> None:
    url = f"http://127.0.0.1:{http_port()}/v2/models/{name}/ready"
    _until(lambda: urllib.request.urlopen(url, timeout=5).status == 200)


def _until(is_so: Any) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(OSError, ValueError):
            if is_so():
                return
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not ready after {READY_S} s")
        time.sleep(0.5)


@contextlib.contextmanager
def many(workspace: Workspace, folder: Path) -> Iterator[tuple[Case, Models]]:
    with prepared(workspace, folder / "bundle") as source:
        own = folder / "workspace"
        own.mkdir()
        models = Models(Workspace(str(own)), champion_of(workspace))
        yield dataclasses.replace(source, workspace=models.workspace), models


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="1,10,100,1000", help="how many, by commas, growing")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/growth-DATE.json")
    chosen = parser.parse_args()
    counts = [int(count) for count in chosen.models.split(",")]
    span = Span(chosen.seconds, chosen.repeats)
    output = results_file.path_of("growth", chosen.output)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with many(Workspace.from_environment(os.environ), folder) as (case, models):
            models.have(counts[0])
            # a tenth of the room is for newcomers
            pool = {"max_model_bytes": int(ROOM * models.bytes_of_one), "num_cpus": 0.1}
            replicas = {"min_replicas": NUM_REPLICAS, "max_replicas": NUM_REPLICAS}
            settings = {"placement": "models", "pools": {"models": pool | replicas}}
            one = {"min_replicas": 1, "max_replicas": 1, "num_cpus": 0.1}
            with head(case, folder, settings | one, core=None) as (root, _):
                _wait_for(name_of(0))
                ours = Ours(case, models, root)
                told = [ours.measured(count, count, span) for count in counts]
                told.append(ours.measured(counts[-1], 1, span))
            with multiplexed(models, folder) as port:
                stock = Stock(case, models, port)
                beside = [stock.measured(count, span) for count in counts]
    result = {
        "room_of_a_replica": ROOM,
        "num_replicas": NUM_REPLICAS,
        "rate_rps": RATE_RPS,
        "rayapp": told,
        "ray_serve_multiplexed": beside,
    }
    results_file.tell(output, result | results_file.measured_here())


if __name__ == "__main__":
    main()
