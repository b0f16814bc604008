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


@dataclass(frozen=True)
class Corrected:
    """A share with its interval; low and high None where the judge tells right from wrong no better
    than chance beyond doubt, so that its verdicts say nothing."""

    value: float | None
    low: float | None
    high: float | None


def corrected_share(
    called_right: int, num_items: int, anchors: Anchors, confidence: float
) -> Corrected:
    """Rogan & Gladen 1978 (Am. J. Epidemiol. 107:71): (a + specificity − 1) / (sensitivity +
    specificity − 1), a being the share that is called right; with the interval of Lang & Reiczigel
    2014 (Prev. Vet. Med. 113:13), whose counts are moved towards the middle, so that few anchors
    never look like certainty. Raises ValueError where something was never measured.

    >>> round(corrected_share(60, 100, Anchors(50, 45, 50, 40), 0.95).value, 3)
    0.571
    """
    if min(num_items, anchors.num_right, anchors.num_wrong) < 1:
        raise ValueError("a judge is corrected by anchors of both kinds, on at least one item")
    z = float(ndtri((1 + confidence) / 2))
    sensitivity = anchors.called_right / anchors.num_right
    specificity = anchors.called_wrong / anchors.num_wrong
    power = sensitivity + specificity - 1
    if power <= z * math.sqrt(sum(_variances(anchors))):
        return Corrected(None, None, None)
    value = min(max((called_right / num_items + specificity - 1) / power, 0.0), 1.0)
    centre, half = _interval(called_right, num_items, anchors, z)
    return Corrected(
        value,
        max(min(centre - half, value), 0.0),
        min(max(centre + half, value), 1.0),
    )


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


def _interval(called_right: int, num_items: int, anchors: Anchors, z: float) -> tuple[float, float]:
    sensitivity, specificity = _moved(anchors)
    of_right, of_wrong = _variances(anchors)
    size = num_items + z**2
    share = (called_right + z**2 / 2) / size
    power = sensitivity + specificity - 1
    value = min(max((share + specificity - 1) / power, 0.0), 1.0)
    variance = share * (1 - share) / size + value**2 * of_right + (1 - value) ** 2 * of_wrong
    shift = 2 * z**2 * (value * of_right - (1 - value) * of_wrong)
    return value + shift, z * math.sqrt(variance) / power
