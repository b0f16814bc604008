"""Estimates over items that were answered in words: intervals and paired differences from each
item's influence on the metric, with standard errors clustered where items are not independent.

An item is one question, however many samples of its answer there are: samples of one item depend on
each other, so an item counts once, with their mean. Items that share a document depend on each
other too; a cluster is then the document (Miller 2024, "Adding Error Bars to Evals",
arXiv:2411.00640).

Shape suffixes: N items, K samples of each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from rayapp.evaluate.estimates import MIN_ROWS, student, wilson
from rayapp.evaluate.metrics import Metric
from rayapp.evaluate.ranking import calibration_error, calibration_influence, calibration_noise
from rayapp.evaluate.statistics import Bools, Floats, Ints, RankTable, as_float, exact_sum
from rayapp.schemas.release import Difference, Estimate


@dataclass(frozen=True)
class Measured:
    """A metric's value over items and each item's influence on it, whose mean is 0. noise: what
    chance alone adds to the value."""

    value: float
    influence_N: Floats
    noise: float = 0.0


def mean_of(values_N: Floats) -> Measured:
    value = as_float(exact_sum(values_N)) / len(values_N)
    return Measured(value, values_N - value)


def ratio_of(above_N: Floats, below_N: Floats) -> Measured:
    """Σ above / Σ below, with each item's influence by the delta method (Cochran 1977, "Sampling
    Techniques", ch. 6)."""
    value = as_float(exact_sum(above_N)) / as_float(exact_sum(below_N))
    return Measured(value, (above_N - value * below_N) / below_N.mean())


def exponential_of(measured: Measured) -> Measured:
    """e to the value, by the delta method."""
    value = math.exp(measured.value)
    return Measured(value, value * measured.influence_N)


def calibration_of(confidence_NK: Floats, is_right_NK: Bools) -> Measured:
    """How far it is from how likely a model finds its answers to how often they are right, as for
    scores of rows (evaluate.ranking). K samples of an item."""
    score_N, is_right_N = confidence_NK.ravel(), is_right_NK.ravel()
    table = RankTable.from_batch(is_right_N, score_N)
    each_N = calibration_influence(table, is_right_N, score_N, table.place(score_N))
    influence_N: Floats = each_N.reshape(confidence_NK.shape).mean(axis=1)
    return Measured(calibration_error(table), influence_N, calibration_noise(table))


def clusters_of(values: list[object]) -> Ints:
    """Each item's cluster, counted from 0. An item without a value is a cluster of its own."""
    named = [("", i) if value is None else ("of", value) for i, value in enumerate(values)]
    place = {name: i for i, name in enumerate(dict.fromkeys(named))}
    return np.array([place[name] for name in named], np.int64)


def clustered_error(influence_N: Floats, cluster_N: Ints) -> tuple[float, int]:
    """Standard error of the mean, and how many clusters it rests on: sums of influence per cluster
    vary as if drawn independently (Liang & Zeger 1986, Biometrika 73:13), with the correction
    G / (G − 1) for G clusters. With a cluster for each item it is the error of independent rows.
    """
    _, place_N = np.unique(cluster_N, return_inverse=True)
    sums_G = np.bincount(place_N, weights=influence_N)
    size = len(sums_G)
    if size < 2:
        return math.inf, size
    total = float(np.square(sums_G).sum()) * size / (size - 1)
    return math.sqrt(total) / len(influence_N), size


def estimate(
    name: str, metric: Metric, measured: Measured, cluster_N: Ints, confidence: float
) -> Estimate:
    """Without an interval where there are fewer than MIN_ROWS clusters: a gate cannot pass on
    it."""
    error, size = clustered_error(measured.influence_N, cluster_N)
    low = high = None
    if size >= MIN_ROWS:
        low, high = _bounds(name, metric, measured, error, size, confidence)
    return Estimate(
        metric=name,
        value=measured.value,
        low=low,
        high=high,
        num_rows=len(cluster_N),
        confidence=confidence,
    )


def _bounds(
    name: str, metric: Metric, measured: Measured, error: float, size: int, confidence: float
) -> tuple[float, float]:
    value = measured.value
    if metric.is_share:
        return wilson(value, error, size, confidence)
    half = student(confidence, size) * error
    if name == "perplexity":  # e to the bounds of the loss, which is nearer to normal
        return max(value * math.exp(-half / value), 1.0), value * math.exp(half / value)
    return max(value - measured.noise - half, 0.0), value + half  # no metric of answers is negative


def least_error(size: int, confidence: float) -> float:
    """Of a difference of shares over so many clusters, at least. Where few items differ, or none,
    those that were asked say no more than this of those that were not: half the width of the score
    interval of a share that is 0 (Wilson 1927)."""
    z = float(ndtri((1 + confidence) / 2))
    return z / (size + z**2)


def difference(
    name: str,
    own: Measured,
    base: Measured,
    cluster_N: Ints,
    confidence: float,
    is_share: bool = False,
) -> Difference | None:
    """own − base, paired by item; None where there are too few clusters for an interval."""
    error, size = clustered_error(own.influence_N - base.influence_N, cluster_N)
    if size < MIN_ROWS:
        return None
    if is_share:
        error = max(error, least_error(size, confidence))
    value = own.value - base.value
    half = student(confidence, size) * error
    return Difference(
        metric=name,
        value=value,
        low=value - half,
        high=value + half,
        num_rows=len(cluster_N),
        confidence=confidence,
    )


@dataclass(frozen=True)
class Items:
    """What `measures` takes, of the candidate, its base, and the champion where there is one."""

    candidate: Mapping[str, Floats]
    base: Mapping[str, Floats]
    champion: Mapping[str, Floats] | None
    cluster_N: Ints

    def take(self, rows_N: Bools) -> "Items":
        def taken(values: Mapping[str, Floats]) -> Mapping[str, Floats]:
            return {name: values_N[rows_N] for name, values_N in values.items()}

        return Items(
            taken(self.candidate),
            taken(self.base),
            None if self.champion is None else taken(self.champion),
            self.cluster_N[rows_N],
        )


NATS, TOKENS = "right_nats", "right_tokens"
BY_TOKENS = frozenset(("answer_loss", "perplexity", "answer_tokens"))
"""Metrics that compare models only where a token is the same to both."""
CONFIDENCE, IS_RIGHT = "confidence", "is_right"


def measures(values: Mapping[str, Floats]) -> dict[str, Measured]:
    """Every metric of answers. values: a number for each item, by the name of a metric that is
    their mean, or by NATS and TOKENS: the surprise of its right answer, and the tokens of that. By
    CONFIDENCE and IS_RIGHT, of each of its samples [N, K]: how likely the model finds it, and
    whether it is the right one."""
    means = {n: mean_of(of_N) for n, of_N in values.items() if n not in (CONFIDENCE, IS_RIGHT)}
    calibration = calibration_of(values[CONFIDENCE], values[IS_RIGHT] == 1)
    loss = ratio_of(values[NATS], values[TOKENS])
    of_all = {"answer_loss": loss, "perplexity": exponential_of(loss)}
    return means | of_all | {"calibration_error": calibration}
