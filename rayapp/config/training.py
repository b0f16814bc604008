"""configs/training/*.yaml: one model, how it is fitted, and on what."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config


class WorkersConfig(Config):
    """What Ray gives each training worker."""

    num_workers: int = Field(default=1, ge=1)
    use_gpu: bool = False
    """True asks for one GPU a worker; backend and device follow from the worker's own context."""
    cpus_per_worker: float = Field(default=1, gt=0)
    accelerator_type: str | None = None
    """For example H100. None takes any."""
    max_failures: int = Field(default=2, ge=0)
    """Times that a lost worker is replaced and the run goes on from its last checkpoint."""

    @property
    def each_needs(self) -> dict[str, float]:
        """What one worker reserves, by Ray's names of resources."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {})


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


class TrainConfig(Config):
    section = "training"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Also the MLflow experiment and the bundle's name."""
    snapshot: str
    """Path of the snapshot config; its newest built snapshot is used."""
    family: Literal["tabular", "neural"]
    features: tuple[str | dict[str, str], ...] = Field(min_length=1)
    """Column names, or {name: expression over columns}. Text becomes a category."""
    seed: int = 7
    checkpoint_every: int = Field(default=50, ge=1)
    """Boosting rounds, or epochs for the neural family, between checkpoints: the work a lost
    worker can cost."""
    workers: WorkersConfig = WorkersConfig()
    tabular: TabularConfig | None = None
    neural: NeuralConfig | None = None

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        other = {"tabular": "neural", "neural": "tabular"}[self.family]
        if getattr(self, other) is not None:
            raise ValueError(f"`{other}` has no effect with family {self.family!r}: remove it")
        return self

    @property
    def family_config(self) -> TabularConfig | NeuralConfig:
        """The chosen family's own settings, defaults where the YAML is silent."""
        if self.family == "tabular":
            return self.tabular or TabularConfig()
        return self.neural or NeuralConfig()
