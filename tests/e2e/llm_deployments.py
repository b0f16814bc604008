"""Run in the environment of language models, by test_llm_deployments: what Ray Serve would run for
the engines of a serving config, as JSON. argv: the config file, and the head's logical GPUs."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import ray
import yaml
from ray.serve.llm.request_router import PrefixCacheAffinityRouter

from rayapp.config.language import EngineConfig
from rayapp.llm.engine import engine_deployment
from rayapp.schemas.language import WeightsRef
from rayapp.serve.language.model import beginning
from rayapp.serve.pool.router import ModelRouter
from rayapp.serve.wire.openai import CHAT, Most, parse
from rayapp.storage import Workspace

WEIGHTS = WeightsRef(
    name="qwen3-8b",
    uri="/models/Qwen3-8B",
    digest="0" * 64,
    files=(),
    task="generate",
    source="/models/Qwen3-8B",
    source_sha256=None,
    license="Apache-2.0",
    architecture="Qwen3ForCausalLM",
    num_parameters=8_190_735_360,
    max_context_tokens=40_960,
)


def deployed(config: EngineConfig) -> dict[str, Any]:
    app: Any = engine_deployment(config, WEIGHTS, Workspace("/nowhere"), ModelRouter)
    made = app._bound_deployment
    arguments = made.init_kwargs["llm_config"].get_engine_config().get_initialization_kwargs()
    replica, deployment = made._replica_config, made._deployment_config
    return {
        "bundles": replica.placement_group_bundles,
        "strategy": replica.placement_group_strategy,
        "num_cpus": replica.ray_actor_options["num_cpus"],
        "arguments": arguments,
        "max_replicas": deployment.autoscaling_config.max_replicas,
        "router": deployment.request_router_config.request_router_class,
    }


def routed_by() -> str:
    """What Ray Serve LLM's own router makes of our calls' arguments."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Once upon"}]})
    call = SimpleNamespace(args=("/v1", b"", beginning(parse(CHAT, body.encode(), Most(1, 1, 1)))))
    router: Any = PrefixCacheAffinityRouter
    found: str = router._extract_text_from_request(router.__new__(router), call)
    return found


def main(path: str, num_gpus: str) -> None:
    ray.init(address="local", num_cpus=4, num_gpus=int(num_gpus), include_dashboard=False)
    with open(path) as file:
        applications = yaml.safe_load(file)["applications"]
    told = {
        one["name"]: deployed(EngineConfig.model_validate(one["args"]))
        for one in applications
        if one["import_path"].endswith("build_engine")
    }
    # a placement group that could never be had would wait for ever
    for engine in told.values():
        ray.get(ray.util.placement_group(engine["bundles"]).ready(), timeout=60)
    sys.stdout.write(json.dumps({"engines": told, "routed_by": routed_by()}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
