"""What a cascade of two models gives for each limit on the first one's error: how many rows go on,
how good the answers are, and what they cost. Pure, over rows that both have scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayapp.evaluate.estimates import Influences, differences, estimates
from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.statistics import Floats
from rayapp.families.scores import unsure_rows
from rayapp.schemas.data import Task
from rayapp.schemas.release import Difference, Estimate


@dataclass(frozen=True)
class CascadePoint:
    """escalated_share: of the rows, those that go on. differences: cascade − champion alone, paired
    on the same rows."""

    max_error: float
    escalated_share: float
    usd_per_1000_rows: float
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class ScoredTwice:
    """The same rows by both models. Shape suffixes: N rows, K classes. Prices: of 1000 rows."""

    task: Task
    y_N: Floats
    first_NK: Floats
    champion_NK: Floats
    first_usd: float
    champion_usd: float

    def at(self, max_error: float, confidence: float = 0.95) -> CascadePoint:
        unsure = unsure_rows(np.asarray(self.first_NK, np.float32), max_error)
        merged_NK = np.array(self.first_NK, np.float64)
        merged_NK[unsure] = self.champion_NK[unsure]
        share = len(unsure) / len(self.y_N)
        own = Statistics.from_batch(self.task, self.y_N, merged_NK)
        champion = Statistics.from_batch(self.task, self.y_N, self.champion_NK)
        influences = Influences.from_batch(
            own.influences(self.y_N, merged_NK),
            champion.influences(self.y_N, self.champion_NK),
        )
        return CascadePoint(
            max_error,
            share,
            self.first_usd + share * self.champion_usd,
            estimates(own, influences, confidence),
            differences(own, champion, influences, confidence),
        )

    def along(self, max_errors: Sequence[float], confidence: float = 0.95) -> list[CascadePoint]:
        return [self.at(max_error, confidence) for max_error in max_errors]
