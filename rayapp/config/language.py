"""configs/serving/*.yaml: the `args` of serve_apps/llm.py, inside a Serve config file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.config.routing import EndpointName
from rayapp.config.serving import BreakerConfig, GatewayConfig, check_replicas
from rayapp.schemas.traffic import NANO

WeightsName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,99}$")]
TokenPrice = Annotated[float, Field(ge=0.001, le=1e6)]
"""Of a million tokens, in US dollars; to a thousandth, which is a billionth a token."""
Redaction = Literal["nothing", "contacts", "text"]
OURS = {
    *("model", "tokenizer", "served_model_name", "max_model_len", "tensor_parallel_size"),
    *("pipeline_parallel_size", "host", "port", "api_key"),
}
"""Engine arguments that settings of ours stand for, or that belong to no engine of ours."""


class EngineConfig(Config):
    """Replicas of vLLM that hold one model's weights."""

    weights: WeightsName
    """By the name they were added under (configs/weights/)."""
    accelerator: str = "cpu"
    """`cpu`, `gpu` for any, or a type of GPU as Ray calls it, for example H100."""
    num_cpus: float = Field(default=1, gt=0)
    """Reserved for each replica, beside what each of its GPUs comes with."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share each layer. Replicas take as many GPUs as this and pipeline_parallel_size
    make together."""
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Groups of GPUs that have the layers among them."""
    max_context_tokens: int | None = Field(default=None, ge=16)
    """Of prompt and answer together; null: as many as the model can take."""
    kv_cache_gib: int | None = Field(default=None, ge=1)
    """Memory for what is being read and written, on a CPU; on GPUs `arguments` has
    gpu_memory_utilization."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments of vLLM's engine and its OpenAI interface, with underscores, as
    quantization, enable_prefix_caching, tool_call_parser."""
    environment: dict[str, str] = Field(default={})
    """Environment variables of its processes."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests in a replica's hands above which it should have company."""
    max_ongoing_requests: int = Field(default=256, ge=1)
    """Requests that a replica takes at a time; the engine lets those wait that do not fit."""
    upscale_delay_s: float = Field(default=10, ge=0)
    downscale_delay_s: float = Field(default=300, ge=0)
    retry_share: float = Field(default=0.1, ge=0, le=1)
    """Of the requests, so many may be asked again of another replica when one is dead or full; none
    whose answer has begun."""
    probe_every_s: float = Field(default=10, gt=0)
    """A replica that was silent for so long, as nobody asked or whole answers take long, must
    generate one token to show that it can."""
    stall_s: float = Field(default=30, gt=0)
    """One that takes longer for that, and gives nobody else anything either, is replaced."""
    is_prefix_aware: bool = False
    """Requests go where the beginning of their prompt was answered before, unless that replica has
    much more to do than others."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        check_replicas(self.min_replicas, self.max_replicas)
        odd = sorted(name for name in self.arguments if not name.isidentifier())
        if odd:
            raise ValueError(f"`arguments`: {odd[0]!r} must be written with underscores")
        ours = sorted(OURS & self.arguments.keys())
        if ours:
            raise ValueError(f"`arguments`: {ours} are set by other settings, or by us")
        if self.accelerator == "cpu":
            if self.num_gpus > 1:
                raise ValueError("tensor and pipeline parallelism need GPUs: set `accelerator`")
        elif self.kv_cache_gib is not None:
            raise ValueError(
                "`kv_cache_gib` has no effect on GPUs: set gpu_memory_utilization in `arguments`"
            )
        if self.is_prefix_aware and self.max_replicas == 1:
            raise ValueError("`is_prefix_aware` has no effect with one replica")
        return self

    @property
    def num_gpus(self) -> int:
        """Of one replica; 0 on a CPU."""
        each = self.tensor_parallel_size * self.pipeline_parallel_size
        return 0 if self.accelerator == "cpu" and each == 1 else each


def token_cost(usd_per_million: float | None) -> int:
    """Of one token, in billionths of a dollar."""
    return 0 if usd_per_million is None else round(usd_per_million * NANO / 10**6)


class ModelFallbackConfig(Config):
    model: EndpointName
    """Another one of `models`."""


class ModelConfig(Config):
    """A model as callers name it."""

    engine: EndpointName
    """One of `engines`."""
    usd_per_million_input_tokens: TokenPrice | None = None
    """null: nothing, as for usd_per_million_output_tokens."""
    usd_per_million_output_tokens: TokenPrice | None = None
    max_output_tokens: int = Field(default=1024, ge=1)
    """Of one answer, where a caller does not say how many; never more than the context leaves."""
    timeout_ms: float | None = Field(default=None, gt=0)
    """The engine has so long until an answer begins, or is complete where it is not streamed,
    before the next of `fallback` is asked."""
    fallback: tuple[ModelFallbackConfig, ...] = ()
    """Asked in order where an answer does not begin. Such answers carry x-degraded."""
    breaker: BreakerConfig | None = BreakerConfig()
    """null: none."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.timeout_ms is not None and not self.fallback:
            raise ValueError("`timeout_ms` has no effect without `fallback`")
        return self


class LanguageConfig(GatewayConfig):
    """A gateway for language models, by OpenAI's HTTP interface, and the engines behind it."""

    engines: dict[EndpointName, EngineConfig] = Field(min_length=1)
    models: dict[EndpointName, ModelConfig] = Field(min_length=1)
    """By the names that callers send."""
    deadline_ms: float = Field(default=120_000, gt=0)
    """An answer that is not complete by then is ended; a caller's x-deadline-ms can only be
    shorter."""
    max_choices: int = Field(default=8, ge=1)
    """The most that `n` of a request can be."""
    record_every_tokens: int = Field(default=32, ge=1)
    """Tokens of one answer that are paid for and recorded at a time. A gateway that dies, or a
    budget that ends, leaves at most so many of each answer unpaid."""
    redacts: Redaction = "contacts"
    """What the prompt log leaves out: `nothing`; `contacts`, that is e-mail addresses, telephone,
    card and account numbers, IP addresses and keys; or all `text`, of which it then has digests
    and lengths."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        used = {model.engine for model in self.models.values()}
        for engine in sorted(used - self.engines.keys()):
            raise ValueError(f"`models`: there is no engine {engine!r}, only {list(self.engines)}")
        for engine in sorted(self.engines.keys() - used):
            raise ValueError(f"`engines`: {engine} has no effect: no model names it")
        for name, model in self.models.items():
            for fallback in model.fallback:
                if fallback.model not in self.models or fallback.model == name:
                    raise ValueError(
                        f"`models`: {name}: fallback {fallback.model!r} is no other model"
                    )
            if model.timeout_ms is not None and model.timeout_ms >= self.deadline_ms:
                raise ValueError(
                    f"`models`: {name}: timeout_ms {model.timeout_ms:g} has no effect with "
                    f"deadline_ms {self.deadline_ms:g}"
                )
        prices = [
            price
            for model in self.models.values()
            for price in (model.usd_per_million_input_tokens, model.usd_per_million_output_tokens)
        ]
        if self.budgets is not None and not any(prices):
            raise ValueError(
                "`budgets` has no effect without prices: set usd_per_million_input_tokens and "
                "usd_per_million_output_tokens"
            )
        check_replicas(self.min_replicas, self.max_replicas)
        return self
