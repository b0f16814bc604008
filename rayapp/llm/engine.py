"""An engine: replicas of vLLM on Ray Serve, each of which answers OpenAI's HTTP interface.

vLLM's own interface runs inside the replica, without a socket: a request is a path and a JSON body,
the answer is what vLLM would have sent. So whatever vLLM can do (tools, schemas, log
probabilities), it does here as it does alone, and a gateway pays one call for a whole answer.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.request_router import RequestRouter

from rayapp.config.language import EngineConfig
from rayapp.errors import UserError
from rayapp.llm.adapters import Adapters
from rayapp.llm.environment import engine_variables
from rayapp.llm.interface import answered
from rayapp.llm.pulse import EngineStalled, Pulse
from rayapp.llm.weights import local_path, local_weights
from rayapp.schemas.language import Adapter, Open, Prefix, WeightsRef
from rayapp.shelf import HELD
from rayapp.storage import Workspace
from rayapp.telemetry import configure_logging

PREFIX, GATEWAY_PREFIX = "engine-", "gateway-"
"""Begin the names of engines' deployments, alone and with the gateway."""
ROUTING_EVERY_S = 1.0
_PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("/v1/completions", {"prompt": ".", "max_tokens": 1, "temperature": 0}),
    "embed": ("/v1/embeddings", {"input": "."}),
}


class Engine(LLMServer):
    """LLMServer that is sure of its weights before it loads them, passes on vLLM's own interface,
    and is unhealthy once it generates nothing, whatever vLLM says of its health."""

    async def __init__(  # type: ignore[misc]  # as Ray Serve calls it
        self,
        llm_config: LLMConfig,
        *,
        config: EngineConfig,
        weights: WeightsRef,
        workspace: Workspace,
    ) -> None:
        configure_logging()
        await asyncio.to_thread(local_weights, weights, workspace)
        self._task = weights.task
        await super().__init__(llm_config)
        assert self.engine is not None
        self._app: Any = await self.engine.build_asgi_app()
        every_s, stall_s = config.probe_every_s, config.stall_s
        self._pulse = Pulse(self._probe, every_s, stall_s, progress=self._under_way)
        self._adapters: Adapters | None = None
        if config.max_adapters:
            places = config.max_adapters, config.max_adapter_rank
            self._adapters = Adapters(self._load, self._unload, *places, workspace)

    async def open(
        self,
        path: str,
        body: bytes,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> AsyncGenerator[int | bytes, None]:
        """The answer's status, then its body as it comes. Whoever stops listening ends it. prefix:
        has led to this replica. Raises what Adapters.use does."""
        answer = answered(self._app, path, body, self._pulse.beat)
        async with self._holding(adapter), aclosing(answer) as parts:
            async for part in parts:
                yield part

    def _holding(self, adapter: Adapter | None) -> AbstractAsyncContextManager[None]:
        if adapter is None:
            return nullcontext()
        if self._adapters is None:
            raise UserError("this engine loads no adapters", "set its `max_adapters`")
        return self._adapters.use(adapter)

    async def record_routing_stats(self) -> dict[str, Any]:
        """Ray Serve asks for these by this name."""
        told: dict[str, Any] = await super().record_routing_stats()
        return told if self._adapters is None else told | {HELD: self._adapters.held()}

    async def _load(self, release_id: str, folder: Path) -> None:
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        asked = LoadLoRAAdapterRequest(lora_name=release_id, lora_path=str(folder))
        answer = await self._models.load_lora_adapter(asked)
        if not isinstance(answer, str):
            raise ValueError(answer.error.message)

    async def _unload(self, release_id: str) -> None:
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        loaded = self._models.lora_requests[release_id]
        await self._models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=release_id))
        await self._models.engine_client.remove_lora(loaded.lora_int_id)

    @property
    def _models(self) -> Any:
        """vLLM's own list of what requests may name."""
        return self._app.state.openai_serving_models

    async def check_health(self) -> None:
        """Raises where the engine is dead, or generates nothing."""
        await super().check_health()
        await self._pulse.check()

    def _under_way(self) -> Mapping[str, int]:
        """Tokens of each answer that vLLM is at; vectors have none."""
        found = self._app.state.engine_client.output_processor.request_states
        return {
            request_id: state.detokenizer.num_output_tokens()
            for request_id, state in found.items()
            if state.detokenizer is not None
        }

    async def _probe(self) -> None:
        path, asked = _PROBES[self._task]
        body = json.dumps({"model": self._llm_config.model_id, **asked}).encode()
        answer = [part async for part in self.open(path, body)]
        if answer[0] != 200:
            raise EngineStalled(f"a probe was answered with {answer}")


class Hooks(Protocol):
    """What a gateway does for the replica that it is in; serve.replica.ServeHooks is one."""

    def asgi_app(self) -> Any: ...
    def autoscaling_stats(self) -> dict[str, float]: ...


@serve.ingress()
class EngineGateway(Engine):
    """An engine whose replicas are the gateway before it, too. make_hooks: makes that gateway, of
    what opens an answer here."""

    async def __init__(  # type: ignore[misc]  # as Ray Serve calls it
        self, llm_config: LLMConfig, *, make_hooks: Callable[[Open], Hooks], **engine: Any
    ) -> None:
        await super().__init__(llm_config, **engine)
        self._hooks = make_hooks(self.open)  # on the event loop, where its tasks will run

    async def __serve_build_asgi_app__(self) -> Any:
        return self._hooks.asgi_app()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve asks for these by this name."""
        return self._hooks.autoscaling_stats()


def engine_deployment(
    config: EngineConfig,
    weights: WeightsRef,
    workspace: Workspace,
    router: type[RequestRouter] | None = None,
) -> Application:
    """To be called in an environment that has vLLM: Ray takes the engine's arguments from there.
    router: sends requests for an adapter to a replica that holds it."""
    return build_llm_deployment(
        llm_config(config, weights, workspace, router),
        name_prefix=PREFIX,
        deployment_cls=Engine,
        bind_kwargs={"config": config, "weights": weights, "workspace": workspace},
    )


def engine_gateway(
    config: EngineConfig,
    weights: WeightsRef,
    workspace: Workspace,
    make_hooks: Callable[[Open], Hooks],
    options: Mapping[str, Any],
) -> Application:
    """As engine_deployment, for an engine in the gateway's replicas. make_hooks must be importable
    there. options: of a gateway's deployment, which take the place of the engine's."""
    made = llm_config(config, weights, workspace)
    ours = {"config": config, "weights": weights, "workspace": workspace}
    return build_llm_deployment(
        made,
        name_prefix=GATEWAY_PREFIX,
        deployment_cls=EngineGateway,
        bind_kwargs={**ours, "make_hooks": make_hooks},
        override_serve_options=dict(options),
    )


def llm_config(
    config: EngineConfig,
    weights: WeightsRef,
    workspace: Workspace,
    router: type[RequestRouter] | None = None,
) -> LLMConfig:
    """What Ray Serve LLM is told of an engine."""
    arguments: dict[str, Any] = {
        "max_model_len": config.context_of(weights),
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        **({"runner": "pooling"} if weights.task == "embed" else {}),
        **_places(config),
        **config.arguments,
    }
    return LLMConfig(
        model_loading_config={
            "model_id": weights.name,
            "model_source": str(local_path(weights, workspace)),
        },
        engine_kwargs=arguments,
        runtime_env={"env_vars": _env_vars(config)},
        deployment_config=_deployment_options(config, router),
        **_hardware(config),
    )


def _places(config: EngineConfig) -> dict[str, Any]:
    """For adapters: as many in the engine's hands as on its node."""
    if not config.max_adapters:
        return {}
    return {
        "enable_lora": True,
        "max_loras": config.max_adapters,
        "max_cpu_loras": config.max_adapters,
        "max_lora_rank": config.max_adapter_rank,
    }


def _hardware(config: EngineConfig) -> dict[str, Any]:
    if not config.has_gpu:
        return {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": config.num_cpus}]},
        }
    kind = config.accelerator_type
    named = {} if kind is None else {"accelerator_type": kind}
    return {"accelerator_config": {"kind": "gpu"}, **named}


def _deployment_options(config: EngineConfig, router: type[RequestRouter] | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        # on a CPU the bundle has them
        "ray_actor_options": {"num_cpus": config.num_cpus if config.has_gpu else 0},
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
        },
        "max_ongoing_requests": config.max_ongoing_requests,
        "health_check_period_s": config.probe_every_s,
        "health_check_timeout_s": config.stall_s + config.probe_every_s,
        "graceful_shutdown_timeout_s": config.drain_s,
    }
    if config.is_prefix_aware:
        from ray.serve.llm.request_router import PrefixCacheAffinityRouter

        router = PrefixCacheAffinityRouter
    elif not config.max_adapters or config.max_replicas == 1:
        router = None
    if router is not None:
        options["request_router_config"] = RequestRouterConfig(
            request_router_class=router,  # type: ignore[arg-type]  # or its name
            request_routing_stats_period_s=ROUTING_EVERY_S,  # type: ignore[arg-type]
        )
    return options


def _env_vars(config: EngineConfig) -> dict[str, str]:
    """Ray Serve LLM's runtime environment of a deployment takes the place of the application's, so
    that one's variables have to be said again."""
    of_application: Mapping[str, str] = ray.get_runtime_context().runtime_env.get("env_vars", {})
    return {**of_application, **engine_variables(config)}
