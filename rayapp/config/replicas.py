"""How many replicas there are, and those that hold the models of a pool."""

from collections.abc import Set
from typing import Self

from pydantic import Field, model_validator

from rayapp.config.load import Config

SCALING = (
    *("target_busy_share", "target_ongoing_requests"),
    *("upscale_delay_s", "downscale_delay_s"),
)
"""Settings of how many replicas there are between the fewest and the most."""


def check_replicas(minimum: int, maximum: int, given: Set[str]) -> None:
    """given: the settings that are not left to their defaults. Raises ValueError."""
    if minimum > maximum:
        raise ValueError(f"`min_replicas` {minimum} is more than `max_replicas` {maximum}")
    idle = [name for name in SCALING if name in given]
    if minimum == maximum and idle:
        raise ValueError(
            f"`{idle[0]}` has no effect where `min_replicas` and `max_replicas` are both {minimum}"
        )


class PoolConfig(Config):
    """Replicas that hold many models, apart from the gateway: for models that need a GPU, much
    memory or batches of their own, and for more models than one process holds. A request pays for
    the way there and back."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=2, ge=1)
    num_cpus: float = Field(default=0.5, ge=0)
    """Reserved for each replica, whether it uses them or not: jobs cannot have these. Likewise
    num_gpus."""
    num_gpus: float = Field(default=0, ge=0)
    max_model_bytes: int = Field(default=1024**3, ge=1024)
    """Models that a replica holds at a time, by the size of their files; a tenth of it is for
    newcomers, which have to be asked for more than others to stay."""
    max_loads: int = Field(default=2, ge=1)
    """Models that a replica loads at a time."""
    max_batch_rows: int = Field(default=256, ge=1)
    """Rows of one model call; requests that arrive together share it."""
    batch_wait_ms: float = Field(default=0, ge=0)
    """How long an idle model waits for more rows; 0 takes what has arrived by then."""
    max_calls: int = Field(default=8, ge=1)
    """Calls that a gateway replica has under way for one model; what arrives meanwhile shares the
    next."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Calls that a replica takes at a time."""
    retry_share: float = Field(default=0.1, ge=0, le=1)
    """Of the requests, so many may be asked again of another replica when one is dead or full."""
    hedge_after_ms: float | None = Field(default=None, gt=0)
    """A request that has no answer after so long is asked a second time; the first answer
    counts."""
    hedge_share: float = Field(default=0.05, gt=0, le=1)
    """Of the requests, so many may be."""
    target_busy_share: float = Field(default=0.6, gt=0, le=1)
    """Share of one core above which a replica should have company, and share of the time in its
    calls above which a model should have another copy."""
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Calls in a replica's hands above which it should have company."""
    upscale_delay_s: float = Field(default=5, ge=0)
    """So long more replicas must have been wanted before there are more."""
    downscale_delay_s: float = Field(default=120, ge=0)
    """So long fewer must have been enough before there are fewer."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.hedge_after_ms is None and "hedge_share" in self.model_fields_set:
            raise ValueError("`hedge_share` has no effect without `hedge_after_ms`")
        given = self.model_fields_set
        if self.max_replicas > 1:  # it also says how many of them hold a model
            given = given - {"target_busy_share"}
        check_replicas(self.min_replicas, self.max_replicas, given)
        return self
