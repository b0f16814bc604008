"""How who answers is chosen where no rule says so: by shares, by cost, or by the first model's
own doubt."""

from collections.abc import Collection, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from rayapp.config.load import Config
from rayapp.config.routing import CHAMPION, Share, Target
from rayapp.schemas.release import HIGHER_IS_BETTER
from rayapp.schemas.traffic import NANO

Price = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of a thousand rows, in US dollars; to a millionth."""


def row_nano_usd(usd_per_1000_rows: float) -> int:
    """What one row costs."""
    return round(usd_per_1000_rows * NANO / 1000)


class ArmConfig(Target):
    share: Share
    """Of all units. The same unit stays with its arm; a larger share only adds units to it."""


class SplitConfig(Config):
    """Units are divided between the champion and other releases by a salted hash."""

    salt: str = Field(min_length=1)
    """Another salt divides anew, independently of the old one."""
    arms: dict[str, ArmConfig] = Field(min_length=1)
    """By name, as the prediction log has it. What they leave stays with the champion."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        check_shares({name: arm.share for name, arm in self.arms.items()})
        return self


def check_shares(shares: Mapping[str, float]) -> None:
    """Of a split's arms, by name. Raises ValueError."""
    total = sum(shares.values())
    if total > 1 + 1e-9:
        raise ValueError(f"the shares of `arms` are {total:g} together, at most 1 is possible")
    if CHAMPION in shares:
        raise ValueError("an arm of `arms` cannot be named champion: that is who gets the rest")


def check_candidates(names: Collection[str]) -> None:
    """Of an objective's. Raises ValueError."""
    if CHAMPION in names:
        raise ValueError("none of `candidates` can be named champion: it is one by itself")


class CandidateConfig(Target):
    """One that may answer instead of the champion, at a price of its own."""

    usd_per_1000_rows: Price


class ObjectiveLimits(Config):
    """What whoever answers must be, whatever is answered."""

    max_p95_ms: float = Field(gt=0)
    """Of a request, from the choice to its answer. One that fails took longer than any limit."""
    metric: str
    """Of the evaluation, over all rows."""
    min_quality: float
    """The worse end of the metric's confidence interval must not be worse than this: for a metric
    where less is better, the most that it may be."""
    explore: Share = 0.05
    """Of all units: they get one of those that are good enough, and quick enough or not measured
    yet, each with the same chance, so that all of them stay measured."""
    min_answers: int = Field(default=100, ge=20)
    """Of the window; with fewer nothing is known of a candidate's p95."""
    window_s: float = Field(default=600, gt=0)
    """What was answered longer ago does not count."""


class ObjectiveConfig(ObjectiveLimits):
    """The cheapest of the champion and the candidates answers that is quick enough by what this
    gateway measures, and good enough by the evaluation that its release was sealed with."""

    candidates: dict[str, CandidateConfig] = Field(min_length=1)
    """By name, as the prediction log has it in `arm`."""

    @model_validator(mode="after")
    def _with_effect(self) -> Self:
        if self.metric not in HIGHER_IS_BETTER:
            raise ValueError(
                f"`metric` {self.metric!r} is none that can be better or worse; there are "
                f"{', '.join(HIGHER_IS_BETTER)}"
            )
        check_candidates(self.candidates)
        targets = [(one.endpoint, one.release) for one in self.candidates.values()]
        if len(set(targets)) < len(targets):
            raise ValueError("two of `candidates` are the same")
        return self


class CascadeConfig(Config):
    """A cheaper model answers first; the champion answers the rows of which it is not sure."""

    first: CandidateConfig
    max_error: float = Field(gt=0, lt=1)
    """A row goes on to the champion where the first model's answer is wrong with a higher
    probability than this, by its own probabilities: 1 − that of the likeliest class."""
    max_calibration_error: float = Field(default=0.05, gt=0, le=1)
    """The upper end of the interval of `calibration_error` in the evaluation of the first model's
    release must not exceed it: else its probabilities say too little of its errors, and the
    champion answers everything."""
