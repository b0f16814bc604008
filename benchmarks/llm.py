"""Output tokens a second and the time to the first one, through rayapp and by vLLM alone.

    python -m benchmarks.llm [OUTPUT.json] [--passes 3] [--servers bare rayapp ...] [--trace FILE]

Needs a workspace (RAYAPP_WORKSPACE) that has the weights smollm2-135m-instruct and whose head is
down, the environment of scripts/setup llm, and a quiet machine. The same model with the same
settings behind vLLM's own server (bare), behind rayapp with every duty on (identity, rates,
budgets, prices, prompt log, breaker), its engine in the gateway's replica (rayapp) or an
application of its own (apart, with retry), and behind Ray Serve LLM as it comes (stock), one at a
time, in another order at each pass: 1, 8 and 32 requests at a time, 64 tokens each, every answer's
token count checked. The first token at 1 is measured by FIRST_TOKENS short requests of its own: it
comes after one of two times (150 and 200 ms on one machine, bare vLLM's too, for many requests in a
row), and the median of eight would be a throw of dice. --trace replays the beginning of an Azure
LLM inference trace (its CSV), scaled down, as a second scenario. Ratios are of figures of the same
pass; told are their medians, with the lowest and the highest.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from rich.console import Console

from benchmarks import results_file
from benchmarks.llm_load import Server, Wanted, closed, loaded, traced
from benchmarks.served import http_port
from rayapp.cli.head_state import client_environment, running_head
from rayapp.cli.ports import free_ports
from rayapp.flows.weights import find_weights
from rayapp.govern.keys import create_key, revoke_key
from rayapp.ledger import Ledger
from rayapp.llm.environment import runtime_env
from rayapp.schemas.language import WeightsRef
from rayapp.storage import Workspace

WEIGHTS = "smollm2-135m-instruct"
MODEL = "benchmark"
ARGUMENTS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
}
MAX_CONTEXT_TOKENS = 2048
NUM_REQUESTS = {1: 8, 8: 32, 32: 96}
"""By how many are under way at a time."""
FIRST_TOKENS = 40
TRACE_REQUESTS, TRACE_RPS = 90, 1.0
START_S = 400
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
EVERYTHING_ON: dict[str, Any] = {
    "requires_key": True,
    "limits": {"default": {"requests_per_s": 100_000, "burst": 100_000}},
    "budgets": {"default_usd": 1_000_000},
    "max_replicas": 1,
}


@dataclass(frozen=True)
class Site:
    workspace: Workspace
    weights: WeightsRef
    key: str
    folder: Path


@contextlib.contextmanager
def prepared() -> Iterator[Site]:
    """The environment's workspace, with a key that is revoked at the end."""
    workspace = Workspace.from_environment(os.environ)
    ledger = Ledger.of(workspace, "benchmark")
    weights = find_weights(ledger, WEIGHTS)
    text, key = create_key(ledger, "benchmark", "caller")
    try:
        with tempfile.TemporaryDirectory(prefix="rayapp-llm-") as folder:
            yield Site(workspace, weights, text, Path(folder))
    finally:
        revoke_key(ledger, key.key_id)


@contextlib.contextmanager
def bare(site: Site) -> Iterator[tuple[psutil.Process, Server]]:
    (port,) = free_ports(1)
    flags = [
        *("--model", site.weights.uri, "--served-model-name", MODEL, "--port", str(port)),
        *("--max-model-len", str(MAX_CONTEXT_TOKENS), "--dtype", "float32", "--enforce-eager"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--host", "127.0.0.1"),
    ]
    command = [python(), "-m", "vllm.entrypoints.openai.api_server", *flags]
    with started(command, site.folder / "bare.log") as process:
        yield process, Server(f"http://127.0.0.1:{port}", MODEL)


@contextlib.contextmanager
def stock(site: Site) -> Iterator[tuple[psutil.Process, Server]]:
    (port,) = free_ports(1)
    arguments = json.dumps(ARGUMENTS | {"max_model_len": MAX_CONTEXT_TOKENS})
    command = [python(), "-m", "benchmarks.peers.ray_llm_stock"]
    asked = [str(port), site.weights.uri, arguments]
    with started([*command, *asked], site.folder / "stock.log") as process:
        yield process, Server(f"http://127.0.0.1:{port}", MODEL)


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[psutil.Process]:
    environ = os.environ | ENVIRONMENT | {"RAY_AUTH_MODE": "disabled"}
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=file)
        root = psutil.Process(process.pid)
        try:
            yield root
        finally:
            below = root.children(recursive=True)
            process.terminate()
            process.wait(120)
            for child in psutil.wait_procs(below, timeout=30)[1]:
                child.kill()


@contextlib.contextmanager
def ours(site: Site, is_inline: bool) -> Iterator[tuple[psutil.Process, Server]]:
    rayapp = f"{Path(sys.executable).parent}/rayapp"
    (dashboard,) = free_ports(1)
    port = http_port()  # the workspace's: a head that comes back brings its Serve back there
    environ = os.environ | {
        "RAYAPP_WORKSPACE": site.workspace.uri,
        "RAYAPP_HTTP_PORT": str(port),
        "RAYAPP_DASHBOARD_PORT": str(dashboard),
    }
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([rayapp, "up"], check=True, env=environ, **quiet)
    try:
        running = running_head(site.workspace)
        path = site.folder / "llm.yaml"
        path.write_text(json.dumps(serve_file(port, is_inline)))  # JSON is YAML
        known = os.environ | client_environment(running)
        serve = f"{Path(sys.executable).parent}/serve"
        command = [serve, "deploy", str(path), "--address", running.dashboard_url]
        subprocess.run(command, check=True, env=known, **quiet)
        yield psutil.Process(running.pid), Server(f"http://127.0.0.1:{port}", MODEL, site.key)
    finally:
        subprocess.run([rayapp, "down"], check=True, env=environ, **quiet)


def serve_file(port: int, is_inline: bool) -> dict[str, Any]:
    engine = {
        "weights": WEIGHTS,
        "num_cpus": 1,
        "kv_cache_gib": 1,
        "max_context_tokens": MAX_CONTEXT_TOKENS,
        "arguments": ARGUMENTS,
    }
    prices = {"usd_per_million_input_tokens": 0.05, "usd_per_million_output_tokens": 0.15}
    args = EVERYTHING_ON | {
        "engines": {"smol": engine},
        "models": {MODEL: {"engine": "smol", **prices}},
    }
    placed = {"inline": "smol"} if is_inline else {"num_cpus": 0.2}
    applications = [application("llm", "/v1", "build", args | placed)]
    if not is_inline:
        applications.append(application("smol", None, "build_engine", engine))
    options = {"host": "127.0.0.1", "port": port, "request_timeout_s": 600}
    return {"http_options": options, "applications": applications}


def application(name: str, prefix: str | None, builder: str, args: Any) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": prefix,
        "import_path": f"serve_apps.llm:{builder}",
        "runtime_env": runtime_env(),
        "args": args,
    }


SERVERS: dict[str, Callable[[Site], AbstractContextManager[tuple[psutil.Process, Server]]]] = {
    "bare": bare,
    "rayapp": partial(ours, is_inline=True),
    "apart": partial(ours, is_inline=False),
    "stock": stock,
}


def python() -> str:
    found: str = runtime_env().get("py_executable", sys.executable)
    return found


def wait_until_it_answers(server: Server) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = {} if server.key is None else {"authorization": f"Bearer {server.key}"}
    url, deadline_s = f"{server.url}/v1/chat/completions", time.monotonic() + START_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(url, json=body, headers=headers, timeout=30).status_code == 200:
                return
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{server.url} did not answer within {START_S} s")
        time.sleep(0.5)


def measured(
    root: psutil.Process, server: Server, requests: list[Wanted], concurrency: int | None
) -> dict[str, float]:
    before_s = cpu_s(root)
    found = asyncio.run(loaded(server, requests, concurrency))
    num_tokens = sum(wanted.num_tokens for wanted in requests)
    return found | {"cpu_ms_per_token": (cpu_s(root) - before_s) * 1000 / num_tokens}


def cpu_s(root: psutil.Process) -> float:
    """Of all processes of a server; those that ended meanwhile are not in it."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def one_pass(site: Site, name: str, number: int, trace: Path | None) -> dict[str, dict[str, float]]:
    """The figures of one server, by scenario."""
    with SERVERS[name](site) as (root, server):
        wait_until_it_answers(server)
        asyncio.run(loaded(server, closed(8, seed=999), 8))  # first calls of everything
        time.sleep(5)  # what starts beside a server does so in its first seconds
        found = {
            str(concurrency): measured(root, server, closed(num, number), concurrency)
            for concurrency, num in NUM_REQUESTS.items()
        }
        short = measured(root, server, closed(FIRST_TOKENS, number, num_tokens=4), 1)
        found["1"] |= {name: short[name] for name in ("ttft_p50_ms", "ttft_p95_ms")}
        if trace is not None:
            requests = traced(trace, TRACE_REQUESTS, TRACE_RPS, number)
            found["trace"] = measured(root, server, requests, None)
    return found


def compared(passes: list[dict[str, dict[str, dict[str, float]]]], name: str) -> dict[str, Any]:
    """A server beside bare vLLM, by scenario: [median, lowest, highest] over passes."""
    told: dict[str, Any] = {}
    for scenario in passes[0]["bare"]:
        pairs = [(p[name][scenario], p["bare"][scenario]) for p in passes if name in p]
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs]
        added = [a["ttft_p50_ms"] - b["ttft_p50_ms"] for a, b in pairs]
        told[scenario] = {"tokens_per_s": spread(ratios), "ttft_p50_added_ms": spread(added)}
    return told


def spread(values: list[float]) -> list[float]:
    return [round(v, 3) for v in (median(values), min(values), max(values))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", nargs="?")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--trace", type=Path)
    given = parser.parse_args()
    path = results_file.path_of("llm", given.output)
    say = Console(stderr=True, highlight=False).print
    passes: list[dict[str, dict[str, dict[str, float]]]] = []
    with prepared() as site:
        for number in range(given.passes):
            shift = number % len(given.servers)
            done: dict[str, dict[str, dict[str, float]]] = {}
            for name in [*given.servers[shift:], *given.servers[:shift]]:
                done[name] = one_pass(site, name, number, given.trace)
                say(f"pass {number + 1} {name}: {json.dumps(done[name])}")
            passes.append(done)
            results_file.write(path, result(site.weights, passes, given.servers))
    results_file.tell(path, result(site.weights, passes, given.servers))


def result(
    weights: WeightsRef, passes: list[dict[str, dict[str, dict[str, float]]]], servers: list[str]
) -> Mapping[str, Any]:
    others = [name for name in servers if name != "bare"]
    ratios = {name: compared(passes, name) for name in others} if "bare" in servers else {}
    return {
        "benchmark": "llm",
        **results_file.measured_here(),
        "model": {"name": weights.name, "digest": weights.digest},
        "engine": ARGUMENTS | {"max_model_len": MAX_CONTEXT_TOKENS},
        "num_passes": len(passes),
        "each_is": ["median", "lowest", "highest"],
        "ratio_to_bare_vllm": ratios.get("rayapp", {}),
        "apart_ratio_to_bare_vllm": ratios.get("apart", {}),
        "stock_ratio_to_bare_vllm": ratios.get("stock", {}),
        "passes": passes,
    }


if __name__ == "__main__":
    main()
