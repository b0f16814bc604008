"""A head that serves configs/serving/llm.yaml, with keys required and budgets."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from shells import PROJECT, Shell
from waiting import until

from benchmarks.llm_faults import CORE, num_running
from rayapp.cli.head_state import running_head

MODEL, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
ENGINE = "smollm2-135m"
WEIGHTS = ("smollm2_135m_instruct", "all_minilm_l6_v2")
POOR, RICH, CROWD, SLOW = "poor", "rich", "crowd", "slow"
POOR_USD = 17e-6
"""Covers a prompt of 37 tokens and about 100 tokens of an answer."""
PROMPT_TOKENS, PART_TOKENS = 37, 32
NUM_STREAMS = 64
CROWD_TOKENS = NUM_STREAMS * (PROMPT_TOKENS + PART_TOKENS) + NUM_STREAMS // 2 * PART_TOKENS
"""Covers the first part of so many streams, and the second part of half of them."""
CUT_AFTER_TOKENS = range(60, 104)
NUM_LOOKS = 8
"""Each gateway learns by itself; so many answers in a row come from both."""
SPLIT, SURE, UNSURE = "split", "sure", "unsure"
"""Names that others answer for, too: half of the units, what is not quite improbable, and nothing
that is not certain."""
DEAR = {"usd_per_million_input_tokens": 5, "usd_per_million_output_tokens": 5}
CHEAP = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 1}
ROUTED: dict[str, Any] = {
    SPLIT: {
        "engine": ENGINE,
        "split": {"salt": "e2e", "arms": {"tuned": {"model": "split-tuned", "share": 0.5}}},
    },
    "split-tuned": {"engine": ENGINE, "endpoint": "split-tuned"},
    SURE: {
        "engine": ENGINE,
        "cascade": {"first": {"model": "small"}, "max_error": 0.9999},
        **DEAR,
    },
    UNSURE: {
        "engine": ENGINE,
        "cascade": {"first": {"model": "small"}, "max_error": 1e-9},
        **DEAR,
    },
    "small": {"engine": ENGINE, "endpoint": "small", **CHEAP},
}
JSON = {"content-type": "application/json"}
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass(frozen=True)
class Served:
    """key_of: makes an API key of a tenant, which every gateway knows."""

    shell: Shell

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.shell.environ['RAYAPP_HTTP_PORT']}"

    @cached_property
    def key(self) -> str:
        return self.key_of(RICH)

    def key_of(self, tenant: str) -> str:
        key: str = self.shell.rayapp_json("keys", "create", tenant)["key"]
        with self.client(key) as client:
            until(lambda: all(client.get("/v1/models").is_success for _ in range(NUM_LOOKS)))
        return key

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=300)

    def num_running(self) -> int | None:
        return num_running(self.shell.workspace)


def serve(shell: Shell) -> Served:
    """As a user does it: weights, then the config, with what makes callers known added."""
    add_weights(shell, WEIGHTS)
    config = yaml.safe_load((PROJECT / "configs/serving/llm.yaml").read_text())
    applications = {one["name"]: one for one in config["applications"]}
    applications[ENGINE]["args"] |= {"probe_every_s": 3, "stall_s": 12}
    applications["gateway"]["args"]["num_cpus"] = 0.1  # what a second gateway of models needs
    applications["llm"]["args"] |= {
        "requires_key": True,
        "min_replicas": 2,
        "max_replicas": 2,
        "record_every_tokens": PART_TOKENS,
        "token_limits": {"tenants": {SLOW: {"tokens_per_s": 0.5, "burst": 60}}},
        "token_budgets": {"tenants_tokens": {CROWD: CROWD_TOKENS}},
        "budgets": {"period": "month", "default_usd": 100, "tenants_usd": {POOR: POOR_USD}},
        "commit_every_s": 1,
    }
    applications["llm"]["args"]["models"] |= ROUTED
    deploy(shell, config)
    return Served(shell)


def add_weights(shell: Shell, names: Iterable[str]) -> None:
    for name in names:
        added = shell.rayapp("submit", f"configs/weights/{name}.yaml", timeout_s=600)
        assert added.returncode == 0, added.stdout + added.stderr


def deploy(shell: Shell, config: Any) -> None:
    """config: of Serve, with MODEL."""
    path = Path(shell.workspace.uri).parent / "project/llm.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    project = shell.in_folder(path.parent)
    deployed = project.rayapp("submit", path.name, "--job", "deploy", timeout_s=900)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert f"rayapp ask {MODEL}" in deployed.stderr


def processes(served: Served, title: str, within: str = "") -> list[psutil.Process]:
    """Of this head, those that are called so; within: below one that is called so."""
    head = psutil.Process(running_head(served.shell.workspace).pid)
    found = []
    for process in head.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            titles = [" ".join(one.cmdline()) for one in (process, *process.parents())]
            if titles[0].startswith(title) and any(one.startswith(within) for one in titles):
                found.append(process)
    return found


def engines(served: Served) -> list[psutil.Process]:
    """Those that write, not the one that makes vectors."""
    return processes(served, CORE, within=f"ray::ServeReplica:{ENGINE}:")


def chat(**fields: Any) -> bytes:
    """A request's body; a small one, where `fields` do not say otherwise."""
    small = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    return json.dumps(small | fields).encode()


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "is_capital": {"type": "boolean"}},
    "required": ["city", "is_capital"],
    "additionalProperties": False,
}
