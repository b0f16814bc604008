"""configs/serving/*.yaml: the `args` of serve_apps/llm.py, inside a Serve config file: of each
engine, an application of its own, and of the gateway before them."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.config.models import ModelConfig
from rayapp.config.replicas import check_replicas
from rayapp.config.routing import EndpointName
from rayapp.config.serving import GatewayConfig
from rayapp.config.tenants import TokenBudgetsConfig, TokenLimitsConfig
from rayapp.schemas.language import WeightsRef

WeightsName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,99}$")]
Redaction = Literal["nothing", "contacts", "text"]
OURS = {
    *("model", "tokenizer", "served_model_name", "max_model_len", "tensor_parallel_size"),
    *("pipeline_parallel_size", "host", "port", "api_key"),
    *("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank", "lora_modules"),
}
"""Engine arguments that settings of ours stand for, or that belong to no engine of ours."""
OF_AN_APPLICATION = {
    *("min_replicas", "max_replicas", "target_ongoing_requests", "max_ongoing_requests"),
    *("upscale_delay_s", "downscale_delay_s", "drain_s", "retry_share", "is_prefix_aware"),
}
"""Settings of an engine that is an application of its own."""
AdapterRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]
"""As vLLM has room for them."""


class VllmConfig(Config):
    """What an engine of vLLM runs on, and what it is told."""

    accelerator: str = "cpu"
    """`cpu`, `gpu` for any, or a type of GPU as Ray calls it, for example H100."""
    num_cpus: float = Field(default=1, gt=0)
    """Reserved for each engine, beside what each of its GPUs comes with."""
    max_context_tokens: int | None = Field(default=None, ge=16)
    """Of prompt and answer together; null: as many as the model can take."""
    kv_cache_gib: int | None = Field(default=None, ge=1)
    """Memory for what is being read and written, on a CPU; on GPUs `arguments` has
    gpu_memory_utilization."""
    arguments: dict[str, Any] = Field(default={})
    """Further arguments of vLLM's engine, and where it is served of its OpenAI interface, with
    underscores, as quantization, enable_prefix_caching, tool_call_parser."""
    environment: dict[str, str] = Field(default={})
    """Environment variables of its processes."""

    @property
    def has_gpu(self) -> bool:
        return self.accelerator != "cpu"

    @property
    def accelerator_type(self) -> str | None:
        """Of its GPUs, as Ray calls it; None on a CPU, and where any GPU will do."""
        return None if self.accelerator in ("cpu", "gpu") else self.accelerator

    def context_of(self, weights: WeightsRef) -> int:
        """Tokens of prompt and answer together, with these weights."""
        return self.max_context_tokens or weights.max_context_tokens

    @model_validator(mode="after")
    def _can_be_told(self) -> Self:
        odd = sorted(name for name in self.arguments if not name.isidentifier())
        if odd:
            raise ValueError(f"`arguments`: {odd[0]!r} must be written with underscores")
        ours = sorted(OURS & self.arguments.keys())
        if ours:
            raise ValueError(f"`arguments`: {ours} are set by other settings, or by us")
        if self.has_gpu and self.kv_cache_gib is not None:
            raise ValueError(
                "`kv_cache_gib` has no effect on GPUs: set gpu_memory_utilization in `arguments`"
            )
        return self


class EngineConfig(VllmConfig):
    """Replicas of vLLM that hold one model's weights, and released adapters of them."""

    workspace: str | None = None
    """Folder or URI; null: RAYAPP_WORKSPACE of the replica."""
    weights: WeightsName
    """By the name they were added under (configs/weights/)."""
    max_adapters: int = Field(default=0, ge=0, le=512)
    """Adapters of these weights that a replica holds at a time. More than that take turns: those
    that are asked for most stay. 0: none are loaded."""
    max_adapter_rank: AdapterRank = 16
    """The largest rank that an adapter may have; each place takes memory for it."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share each layer. Replicas take as many GPUs as this and pipeline_parallel_size
    make together."""
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Groups of GPUs that have the layers among them."""
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
    drain_s: float = Field(default=120, gt=0)
    """A replica that is to go lets answers end for so long: the gateway's deadline, or longer."""
    probe_every_s: float = Field(default=10, gt=0)
    """A replica that was silent for so long, and is at no answer, must generate one token to show
    that it can."""
    stall_s: float = Field(default=30, gt=0)
    """One that takes longer for that, and gets on with no other answer either, is unhealthy. It is
    replaced when three checks in a row have found it so, one of them each probe_every_s."""
    is_prefix_aware: bool = False
    """Requests go where the beginning of their prompt was answered before, unless that replica has
    much more to do than others."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        check_replicas(self.min_replicas, self.max_replicas, self.model_fields_set)
        if not self.has_gpu and self.num_gpus > 1:
            raise ValueError("tensor and pipeline parallelism need GPUs: set `accelerator`")
        if self.is_prefix_aware and self.max_replicas == 1:
            raise ValueError("`is_prefix_aware` has no effect with one replica")
        if self.is_prefix_aware and self.max_adapters:
            raise ValueError(
                "`is_prefix_aware` and `max_adapters` both say which replica is asked: keep one"
            )
        if "max_adapter_rank" in self.model_fields_set and not self.max_adapters:
            raise ValueError("`max_adapter_rank` has no effect without `max_adapters`")
        return self

    @property
    def num_gpus(self) -> int:
        """Of one replica; 0 on a CPU."""
        each = self.tensor_parallel_size * self.pipeline_parallel_size
        return each if self.has_gpu or each > 1 else 0


class LanguageConfig(GatewayConfig):
    """A gateway for language models, by OpenAI's HTTP interface, before engines."""

    engines: dict[EndpointName, EngineConfig] = Field(min_length=1)
    """By the names of their applications, each with the same `args` as it has there: a YAML anchor
    says them once."""
    inline: EndpointName | None = None
    """One of `engines` that runs in the gateway's own replicas, so that its answers pass one
    process less. It has no application of its own: any change of these args loads its weights anew,
    and replicas come and go by the gateway's settings. null: none."""
    models: dict[EndpointName, ModelConfig] = Field(min_length=1)
    """By the names that callers send."""
    token_limits: TokenLimitsConfig | None = None
    token_budgets: TokenBudgetsConfig | None = None
    """Beside `budgets`, if both are set: an answer must be covered by either."""
    deadline_ms: float = Field(default=120_000, gt=0)
    """An answer that is not complete by then is ended; a caller's x-deadline-ms can only be
    shorter."""
    max_choices: int = Field(default=8, ge=1)
    """The most that `n` of a request can be."""
    max_prompts: int = Field(default=32, ge=1)
    """Of one request for completions, each of which gets `n` answers."""
    max_inputs: int = Field(default=2048, ge=1)
    """Of one request for embeddings; OpenAI takes as many, and clients send 1,000 at a time."""
    record_every_tokens: int = Field(default=32, ge=1)
    """Tokens of one answer that are paid for and recorded at a time. A gateway that dies, or a
    budget that ends, leaves at most so many of each answer unpaid."""
    redacts: Redaction = "contacts"
    """What the prompt log leaves out: `nothing`; `contacts`, that is e-mail addresses, telephone,
    card and account numbers, IP addresses and keys; or all `text`, of which it then has digests
    and lengths."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        self._check_engines()
        self._check_inline()
        self._check_models()
        return self

    def named_releases(self) -> Iterator[tuple[str, str]]:
        """Endpoint and id of each that is named by its id."""
        for model in self.models.values():
            if model.endpoint is not None and model.release is not None:
                yield model.endpoint, model.release

    @property
    def needs_accounts(self) -> bool:
        return self.budgets is not None or self.token_budgets is not None

    def _check_engines(self) -> None:
        for name, engine in self.engines.items():
            if engine.workspace != self.workspace:
                raise ValueError(f"`workspace` is another one than that of engine {name}")
        for name, model in self.models.items():
            if model.engine not in self.engines:
                raise ValueError(
                    f"`models.{name}.engine`: there is no engine {model.engine!r}, only "
                    f"{list(self.engines)}"
                )
        for name, engine in self.engines.items():
            models = {own: model for own, model in self.models.items() if model.engine == name}
            if not models:
                raise ValueError(f"`engines.{name}` has no effect: no model names it")
            takes = [own for own, model in models.items() if model.adapters]
            if len(takes) > 1:
                raise ValueError(
                    f"`models.{takes[1]}.adapters` is set of {takes[0]} too, of the same engine "
                    f"{name}: keep one"
                )
            wants = bool(takes) or any(model.endpoint is not None for model in models.values())
            if wants and not engine.max_adapters:
                raise ValueError(f"`engines.{name}` must have `max_adapters` for its adapters")
            if engine.max_adapters and not wants:
                raise ValueError(
                    f"`engines.{name}.max_adapters` has no effect: set `adapters` of a model"
                )

    def _check_inline(self) -> None:
        if self.inline is None:
            return
        if self.inline not in self.engines:
            raise ValueError(f"`inline`: {self.inline!r} is not one of {list(self.engines)}")
        idle = sorted(OF_AN_APPLICATION & self.engines[self.inline].model_fields_set)
        if idle:
            raise ValueError(
                f"`engines.{self.inline}.{idle[0]}` has no effect where it is `inline`: its "
                "replicas are the gateway's"
            )
        if "num_cpus" in self.model_fields_set:
            raise ValueError(
                f"`num_cpus` has no effect with `inline`: set that of engine {self.inline}"
            )

    def _check_models(self) -> None:
        for name, model in self.models.items():
            known = [one for one in self.models if one != name]
            for where, other in model.by_place().items():
                if other not in known:
                    raise ValueError(
                        f"`models.{name}.{where}`: {other!r} is none of the others, {known}"
                    )
            if model.timeout_ms is not None and model.timeout_ms >= self.deadline_ms:
                raise ValueError(
                    f"`models.{name}.timeout_ms` {model.timeout_ms:g} has no effect with "
                    f"deadline_ms {self.deadline_ms:g}"
                )
            self._check_priced(name, model)
        if self.budgets is not None and not any(_prices(self.models.values())):
            raise ValueError(
                "`budgets` has no effect without prices: set usd_per_million_input_tokens and "
                "usd_per_million_output_tokens"
            )

    def _check_priced(self, name: str, model: ModelConfig) -> None:
        """Those that are chosen by what they cost."""
        for one in (name, *(target.model for target in model.priced().values())):
            if model.priced() and not self.models[one].has_price:
                raise ValueError(
                    f"`models.{one}` has no prices, by which {name} compares costs: set its "
                    "usd_per_million_input_tokens and usd_per_million_output_tokens"
                )
        if model.cascade is not None:
            first = self.models[model.cascade.first.model]
            if not first.is_cheaper_than(model):
                raise ValueError(
                    f"`models.{name}.cascade.first.model`: the first model of a cascade must cost "
                    f"less than {name} by one price, and more by neither, or it saves nothing"
                )
        limit = model.objective
        if limit is not None and limit.max_p95_ms >= self.deadline_ms:
            raise ValueError(
                f"`models.{name}.objective.max_p95_ms` {limit.max_p95_ms:g} has no effect with "
                f"deadline_ms {self.deadline_ms:g}"
            )

    def evaluated(self) -> set[str]:
        """Endpoints whose releases are chosen by what was measured when they were evaluated."""
        models = {
            one
            for name, model in self.models.items()
            if model.priced()
            for one in (name, *(target.model for target in model.priced().values()))
        }
        found = {self.models[one].endpoint for one in models}
        return {endpoint for endpoint in found if endpoint is not None}


def _prices(models: Iterable[ModelConfig]) -> list[float | None]:
    each = [(m.usd_per_million_input_tokens, m.usd_per_million_output_tokens) for m in models]
    return [price for both in each for price in both]
