"""Statistics of columns that can be made block by block and merged, with one exact result.

Sums are rational numbers, not floats, so that neither the number of blocks nor their order can
change a bit of a bundle. Quantiles come from a sketch: counts per bucket, where a bucket is a
floating-point number with its low bits cut off, of the value's distance from the mean. A cut is
therefore off by at most 0.2 % of its own distance from the mean.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
_DROPPED_BITS = 14  # of float32's 23-bit mantissa: 9 remain, and at most 2**18 buckets exist
_HALF = 26  # bits of a float64's 53-bit mantissa that are summed at a time, so that int64 holds


def exact_sum(x_N: Numbers) -> Fraction:
    """The sum without rounding. Every value must be finite, and there are at most 2**26 of them."""
    if not x_N.size:
        return Fraction(0)
    fraction_N, exponent_N = np.frexp(x_N)
    mantissa_N = (fraction_N * 2.0**53).astype(np.int64)
    exponents, group_N = np.unique(exponent_N, return_inverse=True)
    high = np.bincount(group_N, weights=mantissa_N >> _HALF)
    low = np.bincount(group_N, weights=mantissa_N & ((1 << _HALF) - 1))
    total = Fraction(0)
    for exponent, h, m in zip(exponents.tolist(), high.tolist(), low.tolist(), strict=True):
        total += Fraction((int(h) << _HALF) + int(m)) * Fraction(2) ** (exponent - 53)
    return total


@dataclass(frozen=True)
class NumberSummary:
    """low and high are None while no value was seen."""

    num_values: int
    num_missing: int
    total: Fraction
    low: float | None
    high: float | None

    @classmethod
    def of(cls, x_N: Numbers) -> "NumberSummary":
        """A value that is not finite counts as missing, as it does when it is encoded."""
        known = x_N[np.isfinite(x_N)]
        low, high = (float(known.min()), float(known.max())) if known.size else (None, None)
        return cls(known.size, x_N.size - known.size, exact_sum(known), low, high)

    def merge(self, other: "NumberSummary") -> "NumberSummary":
        lows = [v for v in (self.low, other.low) if v is not None]
        highs = [v for v in (self.high, other.high) if v is not None]
        return NumberSummary(
            self.num_values + other.num_values,
            self.num_missing + other.num_missing,
            self.total + other.total,
            min(lows, default=None),
            max(highs, default=None),
        )

    @property
    def mean(self) -> float:
        return float(self.total / self.num_values) if self.num_values else 0.0

    @property
    def span(self) -> float:
        """high − low, or 1 where that is nothing to divide by."""
        if self.low is None or self.high is None:
            return 1.0
        return (self.high - self.low) or 1.0


@dataclass(frozen=True)
class CategorySummary:
    counts: Counter[str]
    num_missing: int

    def merge(self, other: "CategorySummary") -> "CategorySummary":
        return CategorySummary(self.counts + other.counts, self.num_missing + other.num_missing)


@dataclass(frozen=True)
class Spread:
    """The second look at a number, once its mean is known. buckets: key → rows."""

    squares: Fraction
    buckets: Counter[int]

    @classmethod
    def of(cls, x_N: Numbers, summary: NumberSummary) -> "Spread":
        distance_N = x_N[np.isfinite(x_N)] - summary.mean
        scaled_N = (distance_N / summary.span).astype(np.float32)
        keys, counts = np.unique(_ordered(scaled_N) >> _DROPPED_BITS, return_counts=True)
        buckets = Counter(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
        return cls(exact_sum(distance_N * distance_N), buckets)

    def merge(self, other: "Spread") -> "Spread":
        return Spread(self.squares + other.squares, self.buckets + other.buckets)

    def std(self, summary: NumberSummary) -> float:
        """The population's standard deviation; 1 where it is zero, for it is a divisor."""
        if not summary.num_values:
            return 1.0
        return float(np.sqrt(float(self.squares / summary.num_values))) or 1.0

    def bins(
        self, summary: NumberSummary, num_bins: int
    ) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """(edges, counts) of about `num_bins` bins of equal weight; counts is one shorter.

        A bin is [edge, next edge), the last one closed; no value of the data lies on an inner edge
        unless its neighbours are as close as the sketch is coarse.
        """
        if summary.low is None or summary.high is None:
            return (), ()
        keys = np.array(sorted(self.buckets), dtype=np.int64)
        running = np.cumsum([self.buckets[key] for key in keys.tolist()])
        wanted = np.arange(1, num_bins) * summary.num_values / num_bins
        at = np.unique(np.searchsorted(running, wanted))
        at = at[at < len(keys) - 1]
        gap = (_value(keys[at] + 1) + _value(keys[at + 1])) / 2  # bucket's end, next one's start
        cuts = summary.mean + summary.span * gap
        keep = np.diff(cuts, prepend=summary.low) > 0
        edges = (summary.low, *cuts[keep].tolist(), summary.high)
        counts = np.diff(np.concatenate([[0], running[at[keep]], [summary.num_values]]))
        return edges, tuple(int(c) for c in counts)


def _ordered(x_N: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Integers in the order of the floats: sign and magnitude turned into two's complement."""
    bits_N = (x_N + np.float32(0)).view(np.int32)  # + 0 turns −0 into 0
    return bits_N ^ ((bits_N >> 31) & np.int32(0x7FFFFFFF))


def _value(key_K: npt.NDArray[np.int64]) -> Numbers:
    """The smallest scaled distance whose bucket is `key`; inverse of _ordered."""
    bits_K = (key_K << _DROPPED_BITS).astype(np.int32)
    return (bits_K ^ ((bits_K >> 31) & np.int32(0x7FFFFFFF))).view(np.float32).astype(np.float64)


Summary = NumberSummary | CategorySummary


def merge_all(blocks: Sequence[dict[str, Summary]]) -> dict[str, Summary]:
    """One summary per feature from one dictionary per block."""
    return reduce(
        lambda a, b: {name: a[name].merge(b[name]) for name in a},  # type: ignore[arg-type]
        blocks,
    )


def merge_spreads(blocks: Sequence[dict[str, Spread]]) -> dict[str, Spread]:
    return reduce(lambda a, b: {name: a[name].merge(b[name]) for name in a}, blocks)
