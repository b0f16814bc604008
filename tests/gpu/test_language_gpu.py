"""A language model on a real GPU: LoRA learns there, and vLLM answers there, the adapter too.

One after the other: on a machine with one GPU the engine has all of it.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from adapters import release_adapter
from llm_head import ENGINE, MODEL, WEIGHTS, Served, add_weights, deploy
from openai import NotFoundError, OpenAI
from shells import PROJECT, Shell, head_in
from waiting import until

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    pytest.mark.timeout(1200),
]
MANY_BYTES = 2 * 1024**3


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with head_in(tmp_path_factory.mktemp("gpu")) as opened:
        add_weights(opened, WEIGHTS[:1])
        yield opened


def test_lora_learns_on_it(shell: Shell) -> None:
    data = shell.rayapp("submit", "configs/snapshots/user_agent.yaml")
    assert data.returncode == 0, data.stdout + data.stderr
    settings = ("llm.num_steps=30", "llm.precision=bfloat16", "checkpoint_every=30")
    training = ("configs/training/user_agent_lora.yaml", "--environment", "gpu", *settings)
    tuned = shell.rayapp("submit", *training, "--json", timeout_s=600)
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    metrics = json.loads(tuned.stdout)["figures"]["metrics"]
    assert metrics["exact_match"] > 0  # untouched weights repeat the header


@pytest.fixture(scope="module")
def served(shell: Shell) -> Served:
    config = yaml.safe_load((PROJECT / "configs/serving/llm.yaml").read_text())
    applications = {one["name"]: one for one in config["applications"]}
    engine = applications[ENGINE]["args"]
    del engine["kv_cache_gib"]  # the GPU's memory is said by an argument of vLLM's
    engine |= {"accelerator": "gpu"}
    engine["arguments"] |= {"dtype": "bfloat16", "gpu_memory_utilization": 0.3}
    llm = applications["llm"]["args"]
    llm |= {"engines": {ENGINE: engine}, "models": {MODEL: llm["models"][MODEL]}}
    llm |= {"requires_key": True}
    wanted = [applications[ENGINE], applications["llm"]]
    before = torch.cuda.mem_get_info()[0]
    deploy(shell, config | {"applications": wanted})
    assert torch.cuda.mem_get_info()[0] < before - MANY_BYTES
    return Served(shell)


def test_vllm_answers_on_it(served: Served) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=120)
    question: Any = {"role": "user", "content": "What is the capital of France?"}
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [question],
        "max_tokens": 20,
        "temperature": 0,
    }
    answer = client.chat.completions.create(**asked)
    assert "Paris" in (answer.choices[0].message.content or "")
    told = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    *events, last = list(told)
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == answer.choices[0].message.content
    assert last.usage == answer.usage


def test_an_adapter_is_loaded_while_it_answers(served: Served) -> None:
    client = OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=120)
    question: Any = {"role": "user", "content": "What is the capital of France?"}

    def told(model: str) -> str | None:
        try:
            answer = client.chat.completions.with_raw_response.create(
                model=model, messages=[question], max_tokens=4
            )
        except NotFoundError:
            return None
        found: str | None = answer.headers.get("x-release")
        return found

    assert told("tuned") is None
    release_id = release_adapter(served.shell, MODEL, "tuned", seed=1)
    until(lambda: told("tuned") == release_id)
    assert told(MODEL) != release_id
