"""Mergeable sufficient statistics: the same bits for one block or many, in any order.

Sums are exact integers and scores are counted in fixed bins, so `merge` loses nothing and
evaluations of the same rows have the same digest whatever the cluster looked like.

Shape suffixes: N rows, U occupied score bins (ascending), G calibration groups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BINS_PER_LOGIT = 1024
MAX_LOGIT = 20.0
"""Probabilities closer to 0 or 1 than e^-20 share the outermost bin."""
SCORE_UNIT = 2.0**-30
"""Sums of scores inside a bin are whole numbers of this, so that they merge exactly."""

_UNIT_BITS = 1126  # the smallest positive float64 is 2**-1074; its 53-bit mantissa starts here
_UNIT = 1 << _UNIT_BITS


def exact_sum(values_N: Floats) -> int:
    """The sum in units of 2**-1126, without rounding, so independent of order and grouping.

    A small superaccumulator: 53-bit mantissas are added per exponent (Neal 2015, "Fast exact
    summation using small and large superaccumulators", arXiv:1505.05571).
    Raises ValueError where a value is not finite.
    """
    values_N = np.asarray(values_N, dtype=np.float64)
    if not np.isfinite(values_N).all():
        raise ValueError("a sum over values that are not finite has no meaning")
    if len(values_N) == 0:
        return 0
    mantissa_N, exponent_N = np.frexp(values_N)
    whole_N = (mantissa_N * 2.0**53).astype(np.int64)
    lowest = int(exponent_N.min())
    place_N = exponent_N - lowest
    # Two halves of 27 bits: their sums stay exact in float64 for up to 2**26 rows of one block.
    high = np.bincount(place_N, weights=whole_N >> 27).tolist()
    low = np.bincount(place_N, weights=whole_N & (2**27 - 1)).tolist()
    halves = enumerate(zip(high, low, strict=True))
    total = sum(((int(h) << 27) + int(w)) << place for place, (h, w) in halves)
    return total << (lowest + _UNIT_BITS - 53)


def as_float(total: int) -> float:
    """The float64 nearest to an exact sum."""
    return total / _UNIT


@dataclass(frozen=True)
class Moments:
    """Count, exact sum and exact sum of squares of one number per row."""

    count: int
    total: int
    squares: int

    @classmethod
    def from_batch(cls, values_N: Floats) -> "Moments":
        return cls(len(values_N), exact_sum(values_N), exact_sum(np.square(values_N)))

    def merge(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def mean(self) -> float:
        return self.total / (self.count * _UNIT)

    @property
    def variance(self) -> float:
        """Unbiased sample variance. Needs two rows."""
        centred = self.count * self.squares * _UNIT - self.total**2
        return max(centred / (self.count * (self.count - 1) * _UNIT**2), 0.0)


@dataclass(frozen=True)
class RankTable:
    """Rows of a yes/no question counted by score. Only bins that hold rows are kept.

    Bins are 1/1024 wide in log-odds, so they are fine where rare events are decided. Rows of one
    bin count as tied; equal scores always are. The effect on AUC is below `tie_bound`.
    """

    bin_U: Ints
    positives_U: Ints
    negatives_U: Ints
    score_U: Ints
    """Sum of the scores in the bin, in SCORE_UNIT."""

    @classmethod
    def from_batch(cls, is_positive_N: Bools, score_N: Floats) -> "RankTable":
        """score_N: probabilities in [0, 1]."""
        bin_U, place_N = np.unique(score_bin(score_N), return_inverse=True)
        units_N = np.rint(np.asarray(score_N, dtype=np.float64) / SCORE_UNIT)
        return cls(
            bin_U,
            _count(place_N, is_positive_N, len(bin_U)),
            _count(place_N, ~is_positive_N, len(bin_U)),
            _count(place_N, units_N, len(bin_U)),
        )

    def merge(self, other: "RankTable") -> "RankTable":
        bin_U, place = np.unique(np.concatenate([self.bin_U, other.bin_U]), return_inverse=True)

        def added(mine: Ints, theirs: Ints) -> Ints:
            total = np.zeros(len(bin_U), dtype=np.int64)
            np.add.at(total, place, np.concatenate([mine, theirs]))
            return total

        return RankTable(
            bin_U,
            added(self.positives_U, other.positives_U),
            added(self.negatives_U, other.negatives_U),
            added(self.score_U, other.score_U),
        )

    def place(self, score_N: Floats) -> Ints:
        """Index into the table's arrays for rows that the table has counted."""
        return np.searchsorted(self.bin_U, score_bin(score_N)).astype(np.int64)

    @property
    def num_positives(self) -> int:
        return int(self.positives_U.sum())

    @property
    def num_negatives(self) -> int:
        return int(self.negatives_U.sum())

    @property
    def rows_U(self) -> Ints:
        return self.positives_U + self.negatives_U

    @property
    def tie_bound(self) -> float:
        """The most that binning can have moved AUC: half the share of tied pairs."""
        tied = float(self.positives_U.astype(np.float64) @ self.negatives_U)
        return tied / (2.0 * self.num_positives * self.num_negatives)

    def placements(self) -> tuple[Floats, Floats]:
        """Per bin: the share of negatives that a positive there outranks, and the share of
        positives that outrank a negative there. Ties count half (DeLong et al. 1988,
        Biometrics 44:837, V10 and V01; as midranks in Sun & Xu 2014, IEEE SPL 21:1389)."""
        below_U = np.cumsum(self.negatives_U) - self.negatives_U
        above_U = self.num_positives - np.cumsum(self.positives_U)
        return (
            (below_U + self.negatives_U / 2) / self.num_negatives,
            (above_U + self.positives_U / 2) / self.num_positives,
        )

    def at_least(self) -> tuple[Ints, Ints]:
        """Per bin: positives, and rows, whose score is in this bin or a higher one."""
        return _from_top(self.positives_U), _from_top(self.rows_U)

    def groups(self, num_groups: int) -> Ints:
        """Each bin's calibration group, [U]: equal-mass groups, a bin never torn apart."""
        rows_U = self.rows_U
        middle_U = np.cumsum(rows_U) - rows_U / 2
        group_U = np.minimum(middle_U * num_groups // rows_U.sum(), num_groups - 1)
        return np.asarray(group_U, dtype=np.int64)


def score_bin(score_N: Floats) -> Ints:
    """The bin of each probability; a larger score never has a smaller bin."""
    edge = 1.0 / (1.0 + np.exp(MAX_LOGIT))
    clipped_N = np.clip(np.asarray(score_N, dtype=np.float64), edge, 1.0 - edge)
    logit_N = np.log(clipped_N / (1.0 - clipped_N))
    return np.asarray(np.rint(logit_N * BINS_PER_LOGIT), dtype=np.int64)


def _count(place_N: Ints, weight_N: npt.NDArray[np.generic], size: int) -> Ints:
    counted: Ints = np.bincount(place_N, weights=weight_N, minlength=size).astype(np.int64)
    return counted


def _from_top(values_U: Ints) -> Ints:
    summed: Ints = np.cumsum(values_U[::-1])[::-1].astype(np.int64)
    return summed


@dataclass(frozen=True)
class GroupSums:
    """Rows, and exact sums of score and label, per group of a score's range."""

    rows: tuple[int, ...]
    scores: tuple[int, ...]
    labels: tuple[int, ...]

    @classmethod
    def from_batch(
        cls, group_N: Ints, score_N: Floats, label_N: Floats, num_groups: int
    ) -> "GroupSums":
        masks = [group_N == group for group in range(num_groups)]
        return cls(
            tuple(int(mask.sum()) for mask in masks),
            tuple(exact_sum(score_N[mask]) for mask in masks),
            tuple(exact_sum(label_N[mask]) for mask in masks),
        )

    def merge(self, other: "GroupSums") -> "GroupSums":
        def added(mine: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(a + b for a, b in zip(mine, theirs, strict=True))

        return GroupSums(
            added(self.rows, other.rows),
            added(self.scores, other.scores),
            added(self.labels, other.labels),
        )
