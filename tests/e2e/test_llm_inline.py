"""An engine in the gateway's replicas: callers see the same, and no process is between."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from adapters import release_adapter
from llm_head import (
    ENGINE,
    JSON,
    MODEL,
    WEIGHTS,
    Served,
    add_weights,
    chat,
    deploy,
    processes,
)
from shells import PROJECT, Shell, head_in
from waiting import until

from benchmarks.llm_faults import CORE

pytestmark = pytest.mark.slow
REPLICA = f"ray::ServeReplica:llm:gateway-{MODEL}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = yaml.safe_load((PROJECT / "configs/serving/llm.yaml").read_text())
    (llm,) = [one for one in config["applications"] if one["name"] == "llm"]
    args = llm["args"]
    args["engines"] = {ENGINE: args["engines"][ENGINE] | {"probe_every_s": 3, "stall_s": 12}}
    args["models"] = {MODEL: args["models"][MODEL] | {"prompt": "brief.yaml"}}
    args |= {"inline": ENGINE, "requires_key": True, "record_every_tokens": 8, "commit_every_s": 1}
    args |= {
        "limits": {"default": {"requests_per_s": 1000, "burst": 1000}},
        "token_limits": {"default": {"tokens_per_s": 1e6, "burst": 1_000_000}},
        "budgets": {"default_usd": 100},
        "token_budgets": {"default_tokens": 10**9},
    }
    del args["num_cpus"]
    with head_in(tmp_path_factory.mktemp("inline")) as shell:
        add_weights(shell, WEIGHTS[:1])
        write_prompt(shell, "brief.yaml", "Answer in one short sentence.")
        deploy(shell, config | {"applications": [llm]})
        yield Served(shell)


def write_prompt(shell: Shell, name: str, system: str) -> None:
    """Beside the config."""
    folder = Path(shell.workspace.uri).parent / "project"
    folder.mkdir()
    tests = [{"values": {"text": "a"}, "user": "a"}]
    prompt = {"name": "brief", "system": system, "user": "{text}", "tests": tests}
    (folder / name).write_text(yaml.safe_dump(prompt))


def ask(served: Served, model: str = MODEL, **fields: object) -> httpx.Response:
    with served.client() as client:
        body = chat(model=model, **fields)
        return client.post("/v1/chat/completions", content=body, headers=JSON)


def test_one_process_is_gateway_and_engine(served: Served) -> None:
    assert len(processes(served, REPLICA)) == 1
    assert len(processes(served, "ray::ServeReplica")) == 1
    assert len(processes(served, CORE, within=REPLICA)) == 1


def test_an_answer_is_checked_recorded_and_streamed(served: Served) -> None:
    whole = ask(served, max_tokens=20)
    document = whole.json()
    assert "Paris" in document["choices"][0]["message"]["content"]
    assert whole.headers["x-release"]
    body = chat(max_tokens=20, stream=True, stream_options={"include_usage": True})
    headers = JSON | {"x-request-id": "streamed-inline"}
    with served.client() as client:
        answer = client.post("/v1/chat/completions", content=body, headers=headers)
    *events, last = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    found = [json.loads(event) for event in events]
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in found if e["choices"])
    assert text == document["choices"][0]["message"]["content"]
    assert found[-1]["usage"].items() <= document["usage"].items()
    until(lambda: served.shell.rayapp("explain", "streamed-inline").returncode == 0)
    told = served.shell.rayapp("explain", "streamed-inline").stdout
    assert answer.headers["x-prompt"] in told
    with served.client() as client:
        shown = client.get(f"/v1/models/{MODEL}").json()["prompt"]
    assert (shown["system"], shown["digest"]) == (
        "Answer in one short sentence.",
        answer.headers["x-prompt"],
    )
    assert ask(served, max_tokens=10_000).status_code == 400
    assert httpx.get(f"{served.url}/v1/models").status_code == 401


def test_an_adapter_is_loaded_while_it_answers(served: Served) -> None:
    assert ask(served, "tuned").status_code == 404
    release_id = release_adapter(served.shell, MODEL, "tuned", seed=1)
    until(lambda: ask(served, "tuned").headers.get("x-release") == release_id)
    assert ask(served).headers["x-release"] != release_id


def test_nobody_waits_so_the_engine_stops(served: Served) -> None:
    asked = chat(stream=True, max_tokens=3500, ignore_eos=True)
    with (
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", content=asked, headers=JSON) as answer,
    ):
        lines = answer.iter_lines()
        until(lambda: bool(next(lines)) and served.num_running() == 1)
    until(lambda: served.num_running() == 0)


def test_an_engine_that_dies_is_replaced_with_its_gateway(served: Served) -> None:
    (replica,) = processes(served, REPLICA)
    (core,) = processes(served, CORE, within=REPLICA)
    core.kill()

    def is_back() -> bool:
        with suppress(httpx.HTTPError):
            answer = ask(served)
            assert answer.status_code in (200, 503)
            return answer.is_success and not is_alive(replica)
        return False

    until(is_back, wait_s=400)


def is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
