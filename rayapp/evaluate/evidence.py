"""The arithmetic of evidence that the gates share: intervals at a policy's confidence, losses
against an opponent, and tests over many slices. Pure, like the gates."""

import math
from collections.abc import Mapping, Sequence

from scipy.special import ndtr, ndtri

from rayapp.schemas.release import Difference, Estimate, SliceEvaluation


def interval_at(
    part: SliceEvaluation, metric: str, confidence: float
) -> tuple[float, float, float] | None:
    """Value, low and high at the policy's confidence; None where the evaluation has no interval."""
    found: Estimate | None = next((e for e in part.estimates if e.metric == metric), None)
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    stretch = z_score(confidence) / z_score(found.confidence)
    value = found.value
    return value, value - (value - found.low) * stretch, value + (found.high - value) * stretch


def loss_at(
    differences: Sequence[Difference],
    metric: str,
    confidence: float,
    higher_is_better: bool | None,
) -> tuple[float, float] | None:
    """How much worse than the opponent (negative: better), and the half width of the interval."""
    found: Difference | None = next((d for d in differences if d.metric == metric), None)
    if found is None:
        return None
    half = (found.high - found.low) / 2 * z_score(confidence) / z_score(found.confidence)
    return (-found.value if higher_is_better else found.value), half


def growth_to_clear(value: float, bound: float, limit: float, is_share: bool) -> float:
    """How many times as many rows would bring the bound of an interval to the limit, with the same
    value. Its distance shrinks with √rows; that of a score interval's bound p, which shares have,
    is as √(p (1 − p) / rows), so it shrinks faster near 0 and 1 (Wilson 1927, JASA 22:209)."""
    growth = ((bound - value) / (limit - value)) ** 2
    if not is_share or not (0 < limit < 1 and 0 < bound < 1):
        return growth
    return growth * limit * (1 - limit) / (bound * (1 - bound))


def gap_between(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> tuple[float, float, float]:
    """a − b with its interval from the two intervals of independent rows (MOVER: Zou & Donner
    2008, Statist. Med. 27:1693)."""
    value = a[0] - b[0]
    low = value - math.hypot(a[0] - a[1], b[2] - b[0])
    return value, low, value + math.hypot(a[2] - a[0], b[0] - b[1])


def holm(p_values: Mapping[str, float], alpha: float) -> list[str]:
    """The hypotheses that Holm's step-down procedure rejects, smallest p first."""
    rejected: list[str] = []
    for name in sorted(p_values, key=lambda n: p_values[n]):
        if p_values[name] > alpha / (len(p_values) - len(rejected)):
            break
        rejected.append(name)
    return rejected


def p_value(excess: float, error: float) -> float:
    """One-sided: how likely an excess like this is where the true one is 0."""
    if error == 0:
        return 0.0 if excess > 0 else 1.0
    return float(ndtr(-excess / error))


def z_score(confidence: float) -> float:
    return float(ndtri((1 + confidence) / 2))
