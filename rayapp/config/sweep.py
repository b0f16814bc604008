"""configs/sweeps/*.yaml: a search over one training config."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config


class UniformSpace(Config):
    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high or (self.kind == "log_uniform" and self.low <= 0):
            raise ValueError(
                f"needs low < high, and low > 0 for log_uniform; got {self.low}, {self.high}"
            )
        return self


class IntegerSpace(Config):
    kind: Literal["integer"]
    low: int
    high: int
    """Included."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"needs low < high; got {self.low}, {self.high}")
        return self


class ChoiceSpace(Config):
    kind: Literal["choice"]
    values: tuple[str | int | float, ...] = Field(min_length=1)


Space = Annotated[UniformSpace | IntegerSpace | ChoiceSpace, Field(discriminator="kind")]


class SweepConfig(Config):
    section = "sweep"
    training: str
    """Path of the training config whose family settings are searched."""
    space: dict[str, Space] = Field(min_length=1)
    """Keys of the family's settings, for example max_depth."""
    num_trials: int = Field(default=8, ge=1)
    num_concurrent: int = Field(default=2, ge=1)
    budget_s: float = Field(gt=0)
    """CPU-seconds (GPU-seconds with GPU workers) that the trials together may use."""
    grace_reports: int = Field(default=2, ge=1)
    """Reports before ASHA may stop a trial."""
    reduction_factor: int = Field(default=3, ge=2)
    num_reports: int = Field(default=5, ge=1)
    """Times each full trial reports its tune-split metric."""
    max_rows: int | None = Field(default=None, ge=100)
    """Training rows per trial (a deterministic sample); None uses all."""
    seed: int = 7
