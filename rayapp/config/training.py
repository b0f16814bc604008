"""configs/training/*.yaml: one model, how it is fitted, and on what."""

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.config.workers import WorkersConfig
from rayapp.errors import ConfigError
from rayapp.schemas.data import Task
from rayapp.schemas.prompt import Prompt


class TrainWorkersConfig(WorkersConfig):
    """What Ray gives each training worker."""

    max_failures: int = Field(default=2, ge=0)
    """Times that a lost worker is replaced and the run goes on from its last checkpoint."""


class TabularConfig(Config):
    """Gradient-boosted trees (XGBoost, hist)."""

    num_rounds: int = Field(default=200, ge=1)
    max_depth: int = Field(default=6, ge=1, le=16)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    min_child_weight: float = Field(default=20.0, ge=0)
    subsample: float = Field(default=0.8, gt=0, le=1)
    colsample_bytree: float = Field(default=0.6, gt=0, le=1)
    reg_lambda: float = Field(default=1.0, ge=0)
    max_bin: int = Field(default=256, ge=2)


class NeuralConfig(Config):
    """A multi-layer perceptron over standardised numbers and category embeddings (PyTorch)."""

    num_epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    """Rows per worker and step."""
    hidden: tuple[int, ...] = (128, 64)
    embedding_dim: int = Field(default=8, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)


class LoraConfig(Config):
    """Low-rank adapters: what is learned beside weights that stay as they are."""

    rank: int = Field(default=16, ge=1, le=512)
    alpha: float = Field(default=32.0, gt=0)
    """What the adapter adds is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("all-linear",)
    """Names of the layers that get one; `all-linear` is every linear layer but the last."""


def _usual_rate(settings: dict[str, Any]) -> float:
    """settings: those before it."""
    return 2e-5 if settings.get("method") == "full" else 1e-3


class LlmConfig(Config):
    """Fine-tuning a language model to answer rows of text."""

    base_model: str
    """Name of weights in the workspace (configs/weights/)."""
    prompt: str
    """Path of what it is told of a row (configs/prompts/), with {name} for each feature; the base
    model's chat template spells it."""
    method: Literal["lora", "qlora", "full"] = "lora"
    """`qlora`: LoRA beside weights in 4 bits, needs a GPU and bitsandbytes. `full`: all weights,
    needs a GPU."""
    lora: LoraConfig = LoraConfig()
    """Of `lora` and `qlora`."""
    sequence_tokens: int = Field(default=512, ge=8)
    """Tokens of a packed sequence. Rows that are longer are left out, and told."""
    num_steps: int = Field(default=60, ge=1)
    """Optimizer steps of the whole fit, over as many passes as they take."""
    batch_size: int = Field(default=4, ge=1)
    """Sequences per worker and step."""
    micro_batch_size: int = Field(default=1, ge=1)
    """Sequences in one forward pass; a step's gradients are the sum over them, whatever this is."""
    learning_rate: float = Field(default_factory=_usual_rate, gt=0)
    """Unset: 1e-3, or 2e-5 with `full`, whose steps move every weight."""
    weight_decay: float = Field(default=0.0, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that the fit starts from; with `full` of the computing alone, as weights that
    are learned stay in float32. bfloat16 on a GPU; few CPUs compute it well."""
    merge: bool = False
    """True puts whole weights with the adapter in them into the bundle as well (`merged/`), for
    engines that load no adapters."""

    @model_validator(mode="after")
    def _no_word_without_effect(self) -> Self:
        if self.method == "full" and self.lora != LoraConfig():
            raise ValueError("`lora` has no effect with method 'full': remove it")
        if self.merge and self.method != "lora":
            raise ValueError(
                f"`merge` is for method 'lora': {self.method!r} has "
                + ("no adapter" if self.method == "full" else "weights in 4 bits, which would lose")
            )
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`batch_size` {self.batch_size} is no multiple of `micro_batch_size` "
                f"{self.micro_batch_size}"
            )
        return self


class TrainConfig(Config):
    section = "training"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Also the MLflow experiment and the bundle's name."""
    snapshot: str
    """Path of the snapshot config; its newest built snapshot is used."""
    family: Literal["tabular", "neural", "llm"]
    features: tuple[str | dict[str, str], ...] = Field(min_length=1)
    """Column names, or {name: expression over columns}. Text becomes a category; for `llm` they are
    what its prompt shows."""
    seed: int = 7
    checkpoint_every: int = Field(default=50, ge=1)
    """Boosting rounds, epochs for the neural family, or steps for llm, between checkpoints: the
    work a lost worker can cost."""
    workers: TrainWorkersConfig = TrainWorkersConfig()
    tabular: TabularConfig | None = None
    neural: NeuralConfig | None = None
    llm: LlmConfig | None = None

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        for other in ("tabular", "neural", "llm"):
            if other != self.family and getattr(self, other) is not None:
                raise ValueError(f"`{other}` has no effect with family {self.family!r}: remove it")
        return self

    @model_validator(mode="after")
    def _llm_fits(self) -> Self:
        if self.family != "llm":
            return self
        if self.llm is None:
            raise ValueError("family 'llm' needs `llm`, with `base_model` and `prompt`")
        if self.llm.method != "lora" and not self.workers.use_gpu:
            raise ValueError(
                f"`llm.method` {self.llm.method!r} needs a GPU: set workers.use_gpu, or run with "
                "RAYAPP_ENVIRONMENT=gpu"
            )
        return self

    @property
    def family_config(self) -> TabularConfig | NeuralConfig | LlmConfig:
        """The chosen family's own settings, defaults where the YAML is silent."""
        if self.llm is not None:
            return self.llm
        if self.family == "tabular":
            return self.tabular or TabularConfig()
        return self.neural or NeuralConfig()


def require_task(config: TrainConfig, task: Task) -> None:
    """Raises ConfigError where the family cannot learn what the snapshot asks."""
    if (config.family == "llm") != (task == "text"):
        raise ConfigError(
            f"family {config.family!r} does not learn task {task!r} of {config.snapshot}",
            "the llm family learns task text, and no other does",
        )


def require_prompt(config: TrainConfig, prompt: Prompt, names: Iterable[str]) -> None:
    """Raises ConfigError where the prompt does not show just what the model is to be told of a row.
    names: of the features."""
    if prompt.places != set(names):
        raise ConfigError(
            f"prompt {prompt.name!r} shows {sorted(prompt.places)}, `features` of {config.name} "
            f"are {sorted(names)}",
            "they must be the same",
        )


def require_adapter(config: TrainConfig) -> None:
    """Raises ConfigError where what comes out of the training could not be released."""
    if config.llm is not None and config.llm.method == "full":
        raise ConfigError(
            f"training {config.name} has `llm.method: full`, which makes whole weights; released "
            "are adapters, which engines load beside others",
            "set `method: lora`; or train and evaluate without a release, and add the weights by a "
            "config of configs/weights/",
        )
