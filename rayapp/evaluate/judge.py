"""The true share of right answers behind the verdicts of an imperfect judge.

A judge, be it a model or a pattern, calls some right answers wrong and some wrong ones right. How
often is measured on answers that people have labelled, the anchors; the share that it calls right
is then corrected by that, and the interval has the errors of all three measurements.
"""

import math
from dataclasses import dataclass

from scipy.special import ndtri


@dataclass(frozen=True)
class Anchors:
    """What the judge said of answers that people labelled."""

    num_right: int
    called_right: int
    """Of those that are right: its sensitivity."""
    num_wrong: int
    called_wrong: int
    """Of those that are wrong: its specificity."""

    @property
    def sensitivity(self) -> float:
        return self.called_right / self.num_right

    @property
    def specificity(self) -> float:
        return self.called_wrong / self.num_wrong

    @property
    def power(self) -> float:
        """Youden's index: 1 of a judge that never errs, 0 of a coin."""
        return self.sensitivity + self.specificity - 1


@dataclass(frozen=True)
class Corrected:
    """A share, or a difference of two, with its interval; all None where the judge tells right from
    wrong no better than chance beyond doubt, so that its verdicts say nothing."""

    value: float | None
    low: float | None
    high: float | None


UNKNOWN = Corrected(None, None, None)


def power_bounds(anchors: Anchors, confidence: float) -> tuple[float, float]:
    """The interval of Youden's index. A judge whose interval touches 0 may be a coin. Raises
    ValueError where one of the two kinds was never measured."""
    if min(anchors.num_right, anchors.num_wrong) < 1:
        raise ValueError("a judge is corrected by anchors of both kinds, on at least one item")
    half = _z(confidence) * math.sqrt(sum(_variances(anchors)))
    return anchors.power - half, anchors.power + half


def corrected_share(
    called_right: float, num_items: float, anchors: Anchors, confidence: float
) -> Corrected:
    """Rogan & Gladen 1978 (Am. J. Epidemiol. 107:71): (a + specificity − 1) / (sensitivity +
    specificity − 1), a being the share that is called right; with the interval of Lang & Reiczigel
    2014 (Prev. Vet. Med. 113:13), whose counts are moved towards the middle, so that few anchors
    never look like certainty. Items that depend on each other are as many as their effective
    number, which need not be whole. Raises ValueError where something was never measured.

    >>> round(corrected_share(60, 100, Anchors(50, 45, 50, 40), 0.95).value, 3)
    0.571
    """
    if power_bounds(anchors, confidence)[0] <= 0:
        return UNKNOWN
    if num_items <= 0:
        raise ValueError("a judge is corrected by anchors of both kinds, on at least one item")
    moved = (called_right / num_items + anchors.specificity - 1) / anchors.power
    value = min(max(moved, 0.0), 1.0)
    centre, half = _interval(called_right, num_items, anchors, _z(confidence))
    return Corrected(
        value,
        max(min(centre - half, value), 0.0),
        min(max(centre + half, value), 1.0),
    )


def corrected_difference(
    difference: float, error: float, anchors: Anchors, confidence: float
) -> Corrected:
    """Of two shares that the same judge called right, on the same items. Specificity falls out, so
    it is difference / power, with Fieller's interval (1954, J. R. Statist. Soc. B 16:175) for a
    ratio of two independent normal estimates, as wide on the nearer side as on the farther.

    error: of the difference, its standard error.
    """
    z, power = _z(confidence), anchors.power
    if power_bounds(anchors, confidence)[0] <= 0:
        return UNKNOWN
    of_power, of_difference = sum(_variances(anchors)), error**2
    bottom = power**2 - z**2 * of_power
    inside = bottom * of_difference + difference**2 * of_power
    value, centre = difference / power, difference * power / bottom
    half = abs(centre - value) + z * math.sqrt(inside) / bottom
    return Corrected(value, value - half, value + half)


def _z(confidence: float) -> float:
    return float(ndtri((1 + confidence) / 2))


def _moved(anchors: Anchors) -> tuple[float, float]:
    """Sensitivity and specificity with one anchor more on each side."""
    return (
        (anchors.called_right + 1) / (anchors.num_right + 2),
        (anchors.called_wrong + 1) / (anchors.num_wrong + 2),
    )


def _variances(anchors: Anchors) -> tuple[float, float]:
    """Of these two."""
    sensitivity, specificity = _moved(anchors)
    return (
        sensitivity * (1 - sensitivity) / (anchors.num_right + 2),
        specificity * (1 - specificity) / (anchors.num_wrong + 2),
    )


def _interval(
    called_right: float, num_items: float, anchors: Anchors, z: float
) -> tuple[float, float]:
    sensitivity, specificity = _moved(anchors)
    of_right, of_wrong = _variances(anchors)
    size = num_items + z**2
    share = (called_right + z**2 / 2) / size
    power = sensitivity + specificity - 1
    value = min(max((share + specificity - 1) / power, 0.0), 1.0)
    variance = share * (1 - share) / size + value**2 * of_right + (1 - value) ** 2 * of_wrong
    shift = 2 * z**2 * (value * of_right - (1 - value) * of_wrong)
    return value + shift, z * math.sqrt(variance) / power
