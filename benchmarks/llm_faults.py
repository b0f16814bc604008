"""How soon an engine stops working for a caller who has gone, and is replaced when it stands still.

    python -m benchmarks.llm_faults [--trials 10] [OUTPUT.json]

Needs what `python -m benchmarks.llm` needs. First: a long streamed answer whose caller closes the
connection, so many times; told are the seconds until vLLM's own count of running requests is zero
(Ray exports it ten times a second here) and how many tokens it wrote in vain at most. Then: the
engine's process is stopped by SIGSTOP, which leaves it alive, with the probes as they come
(`probe_every_s`, `stall_s`), while a caller asks every half second with a deadline of 3 s; told are
the statuses that callers saw, the longest that any of them waited, and the seconds until the first
good answer.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from rich.console import Console

from benchmarks import llm, results_file
from benchmarks.llm_load import Server
from rayapp.cli.head_state import running_head
from rayapp.storage import Workspace

EXPORT_MS = 100
NUM_TOKENS = 1800
CORE = "VLLM::EngineCore"
DEADLINE_MS = 3000
WAIT_S = 400
_RUNNING = re.compile(r"^ray_vllm_num_requests_running\{.*\} (\S+)$", re.MULTILINE)


def num_running(workspace: Workspace) -> int | None:
    """Requests that a head's engines are working on, by vLLM's own count, as Ray exports it; None
    where it cannot be read. Some of the targets that Ray lists have ports that are the same for all
    heads of a machine, and answer only of one of them."""
    folder = Path(running_head(workspace).temp_dir)
    found = json.loads((folder / "prom_metrics_service_discovery.json").read_bytes())
    counts: list[float] = []
    for target in found[0]["targets"]:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{target}/metrics") as response,
        ):
            counts += map(float, _RUNNING.findall(response.read().decode()))
    return int(sum(counts)) if counts else None


def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds that it took."""
    begun_s = time.perf_counter()
    while not condition():
        if time.perf_counter() - begun_s > WAIT_S:
            raise SystemExit(f"not seen within {WAIT_S} s: {what}")
        time.sleep(0.02)
    return time.perf_counter() - begun_s


def client_of(server: Server) -> httpx.Client:
    headers = {"authorization": f"Bearer {server.key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=WAIT_S)


def body(num_tokens: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me a long story of a river."}]
    small = {"model": llm.MODEL, "messages": messages, "max_tokens": num_tokens}
    return small | {"ignore_eos": True, "temperature": 0} | fields


def gone(workspace: Workspace, server: Server) -> dict[str, float]:
    """One caller who goes away amid an answer: seconds until the engine has nothing to do."""
    with (
        client_of(server) as client,
        client.stream("POST", "/v1/chat/completions", json=body(NUM_TOKENS, stream=True)) as answer,
    ):
        lines = answer.iter_lines()
        begun_s, num_events = time.perf_counter(), 0
        while num_events < 20 or num_running(workspace) != 1:
            num_events += next(lines).startswith("data: {")
        rate = num_events / (time.perf_counter() - begun_s)
    taken_s = until(lambda: num_running(workspace) == 0, "an engine without work")
    return {"stopped_after_s": taken_s, "tokens_in_vain": taken_s * rate}


def stalled(root: psutil.Process, server: Server) -> dict[str, Any]:
    (core,) = [one for one in root.children(recursive=True) if CORE in " ".join(one.cmdline())]
    statuses, longest_s = Counter[str](), 0.0
    core.send_signal(signal.SIGSTOP)
    begun_s = time.perf_counter()
    try:
        with client_of(server) as client:
            while True:
                asked_s = time.perf_counter()
                answer = client.post(
                    "/v1/chat/completions",
                    json=body(4),
                    headers={"x-deadline-ms": str(DEADLINE_MS)},
                )
                longest_s = max(longest_s, time.perf_counter() - asked_s)
                statuses[str(answer.status_code)] += 1
                if answer.is_success:
                    break
                if time.perf_counter() - begun_s > WAIT_S:
                    raise SystemExit(f"no good answer within {WAIT_S} s: {dict(statuses)}")
                time.sleep(0.5)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            core.kill()
    return {
        "first_good_answer_after_s": time.perf_counter() - begun_s,
        "longest_wait_s": longest_s,
        "deadline_s": DEADLINE_MS / 1000,
        "statuses": dict(statuses),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", nargs="?")
    parser.add_argument("--trials", type=int, default=10)
    given = parser.parse_args()
    path = results_file.path_of("llm_faults", given.output)
    os.environ |= {"RAY_metrics_report_interval_ms": str(EXPORT_MS)}  # of the head to be started
    say = Console(stderr=True, highlight=False).print
    with llm.prepared() as site, llm.ours(site, is_inline=False) as (root, server):
        llm.wait_until_it_answers(server)
        trials = []
        for _ in range(given.trials):
            trials.append(gone(site.workspace, server))
            say(f"gone: {trials[-1]}")
        told = stalled(root, server)
        say(f"stalled: {told}")
    after_s = [trial["stopped_after_s"] for trial in trials]
    result = {
        "benchmark": "llm_faults",
        **results_file.measured_here(),
        "export_ms": EXPORT_MS,
        "caller_gone": {
            "stopped_after_s": {
                "median": median(after_s),
                "lowest": min(after_s),
                "highest": max(after_s),
            },
            "tokens_in_vain_at_most": max(trial["tokens_in_vain"] for trial in trials),
            "trials": trials,
        },
        "engine_stalled": told,
    }
    results_file.tell(path, result)


if __name__ == "__main__":
    main()
