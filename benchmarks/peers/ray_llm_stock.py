"""Ray Serve LLM as it comes: its OpenAI ingress behind Serve's Python proxy, one engine. argv: the
port, the model's folder, and the engine's arguments as JSON."""

import json
import os
import signal
import sys
import tempfile
from typing import Any

import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app


def main(port: str, folder: str, arguments: str) -> None:
    names = ("VLLM_CPU_KVCACHE_SPACE", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS")
    environment = {name: os.environ[name] for name in names}
    ray.init(
        address="local",
        num_cpus=4,  # the engine asks for two, each part of the ingress for one
        _temp_dir=tempfile.mkdtemp(prefix="ray", dir="/tmp"),
        runtime_env={"env_vars": environment},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    accelerator: Any = {"kind": "cpu"}
    config = LLMConfig(
        model_loading_config={"model_id": "benchmark", "model_source": folder},
        accelerator_config=accelerator,
        engine_kwargs=json.loads(arguments),
        deployment_config={"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        runtime_env={"env_vars": environment},
    )
    one = {"min_replicas": 1, "initial_replicas": 1, "max_replicas": 1}
    ingress = {"autoscaling_config": one}
    app = build_openai_app({"llm_configs": [config], "ingress_deployment_config": ingress})
    serve.run(app, name="llm", route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
