"""How far live features have moved from the training rows, one number per column."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.errors import DataError
from rayapp.schemas.data import ColumnProfile, Profile
from rayapp.schemas.record import Record

Floats = npt.NDArray[np.float64]
_SMALLEST_SHARE = 1e-4  # an empty bin would make the index infinite
_RARE_SHARE = 0.01
"""Categories rarer than this in training are one bin with the unknown ones: hundreds of bins that
hold less than a row each would look like drift whatever came."""


class Drift(Record):
    """psi: population stability index, 0 for the same distribution; by custom below 0.1 is stable
    and above 0.25 is drift. num_rows: the live rows it was measured on."""

    column: str
    psi: float
    num_rows: int


def drift(profile: Profile, live: pa.Table) -> tuple[Drift, ...]:
    """One Drift per column of the profile, in its order. Missing values are a bin of their own.

    live: computed features, named as the profile's columns are. Raises DataError for no rows or a
    column that is not there.

    >>> column = ColumnProfile(
    ...     name="x", type="number", edges=(0, 1, 2), counts=(50, 50), num_missing=0
    ... )
    >>> profile = Profile(num_rows=100, columns=(column,))
    >>> drift(profile, pa.table({"x": [0.5, 1.5]}))[0].psi
    0.0
    >>> round(drift(profile, pa.table({"x": [0.5, 0.5, 0.5, 1.5]}))[0].psi, 4)
    0.2747
    """
    if not live.num_rows:
        raise DataError("drift of no rows", "choose a window in which the endpoint answered")
    missing = [c.name for c in profile.columns if c.name not in live.column_names]
    if missing:
        raise DataError(
            f"drift: no column {missing[0]!r}, columns are {live.column_names}",
            "compute the features of the release that answered",
        )
    found = []
    for column in profile.columns:
        values = live.column(column.name)
        bins = _number_bins if column.type == "number" else _category_bins
        expected_B, live_B = bins(column, values)
        expected_B = np.append(expected_B, column.num_missing)
        index = psi(expected_B, np.append(live_B, live.num_rows - live_B.sum()))
        found.append(Drift(column=column.name, psi=index, num_rows=live.num_rows))
    return tuple(found)


def psi(expected_B: Floats, live_B: Floats) -> float:
    """Population stability index of two histograms over the same bins.

    >>> psi(np.array([1.0, 1.0]), np.array([5.0, 5.0]))
    0.0
    """
    share_B = np.maximum(expected_B / expected_B.sum(), _SMALLEST_SHARE)
    live_share_B = np.maximum(live_B / live_B.sum(), _SMALLEST_SHARE)
    return float(np.sum((live_share_B - share_B) * np.log(live_share_B / share_B)))


def _number_bins(column: ColumnProfile, values: pa.ChunkedArray) -> tuple[Floats, Floats]:
    """Values beyond the outer edges count to the outer bins. A number that is not finite is
    missing."""
    x_N = np.asarray(pc.cast(values, pa.float64()).to_numpy(), dtype=np.float64)
    bin_N = np.searchsorted(column.edges[1:-1], x_N[np.isfinite(x_N)], side="right")
    num_bins = max(len(column.counts), 1)
    expected_B = np.asarray(column.counts or (0,), dtype=np.float64)
    return expected_B, np.bincount(bin_N, minlength=num_bins).astype(np.float64)


def _category_bins(column: ColumnProfile, values: pa.ChunkedArray) -> tuple[Floats, Floats]:
    """The last value of a profile is the rest of the world; the rare join it."""
    counts_V = np.asarray(column.counts, dtype=np.float64)
    total = max(counts_V.sum() + column.num_missing, 1.0)
    common = [v for v in range(len(counts_V) - 1) if counts_V[v] / total >= _RARE_SHARE]
    expected_B = np.append(counts_V[common], counts_V.sum() - counts_V[common].sum())
    known = pa.array([column.values[v] for v in common], pa.string())
    texts = pc.drop_null(pc.cast(values, pa.string()))
    place_N = pc.fill_null(pc.index_in(texts, value_set=known), len(common)).to_numpy()
    return expected_B, np.bincount(place_N, minlength=len(common) + 1).astype(np.float64)
