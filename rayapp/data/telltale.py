"""The guard that measures: a feature that alone ranks the label too well is refused.

It finds what no contract says: a column that was filled in after the outcome. Its counterpart that
reads contracts is in leakage.py.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayapp.data.read import sample_view
from rayapp.errors import LeakageRefused
from rayapp.schemas.data import Snapshot, Task
from rayapp.schemas.model import Feature
from rayapp.transforms import Expression, feature_table

Floats64 = npt.NDArray[np.float64]

_SAMPLE_ROWS = 50_000
_NUM_BINS = 64
_NUM_FOLDS = 5
_PRIOR_ROWS = 20.0


def refuse_suspicious_features(
    features: Sequence[Feature], snapshot: Snapshot, limit: float
) -> None:
    """Raises LeakageRefused that names every feature whose score is over the limit. An answer in
    words has no rank, so what a prompt may hold is the contract's to say."""
    if snapshot.task == "text":
        return
    columns = sorted({n for f in features for n in Expression.parse(f.expression).columns})
    table = sample_view(snapshot, "train", [*columns, snapshot.label], _SAMPLE_ROWS)
    found = suspicious_features(table, features, snapshot.label, snapshot.task, limit)
    if found:
        listed = ", ".join(f"{name} ({score:.3f})" for name, score in found)
        measure = "|Spearman correlation|" if snapshot.task == "regression" else "AUC"
        raise LeakageRefused(
            f"too good to be true: alone, {listed} ranks the label with {measure} over the limit "
            f"{limit}",
            "mark the column knownAt: outcome in its contract or, if you can explain it, raise "
            f"view.max_single_feature_auc in the snapshot config of {snapshot.name}",
        )


def suspicious_features(
    table: pa.Table, features: Sequence[Feature], label: str, task: Task, limit: float
) -> list[tuple[str, float]]:
    """Features that alone rank the label better than `limit`, best first, with their score.

    Score: AUC (the best over classes against the rest), or |Spearman correlation| for a
    regression. Numbers count as they are and in quantile bins, so that a leak that is not monotone
    or lies in missing values is seen too; categories by the label's mean in other folds.
    """
    targets = _targets(table.column(label).combine_chunks(), task)
    values = feature_table(features, table)
    scores = [
        (name, max(_score(values.column(name).combine_chunks(), y_N, task) for y_N in targets))
        for name in values.column_names
    ]
    return sorted([(n, s) for n, s in scores if s > limit], key=lambda pair: -pair[1])


def _targets(label: pa.Array, task: Task) -> list[Floats64]:
    if task != "multiclass":
        return [pc.cast(label, pa.float64()).to_numpy(zero_copy_only=False)]
    return [
        pc.cast(pc.cast(pc.equal(label, name), pa.int8()), pa.float64()).to_numpy(
            zero_copy_only=False
        )
        for name in pc.unique(label)
    ]


def _score(values: pa.Array, y_N: Floats64, task: Task) -> float:
    kind = values.type
    if pa.types.is_string(kind):
        encoded = values.dictionary_encode().indices
        code_N = pc.fill_null(encoded, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return _association(_means_elsewhere(code_N + 1, y_N), y_N, task)
    if pa.types.is_timestamp(kind):
        values = pc.cast(values, pa.int64())
    x_N = pc.fill_null(pc.cast(values, pa.float64(), safe=False), np.nan).to_numpy(
        zero_copy_only=False
    )
    present_N = ~np.isnan(x_N)
    plain = _association(x_N[present_N], y_N[present_N], task)
    return max(plain, _association(_means_elsewhere(_bins(x_N, present_N), y_N), y_N, task))


def _bins(x_N: Floats64, present_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Quantile bins from 1; 0 is missing."""
    code_N = np.zeros(len(x_N), np.int64)
    if present_N.any():
        cuts = np.unique(np.quantile(x_N[present_N], np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
        code_N[present_N] = np.searchsorted(cuts, x_N[present_N], side="right") + 1
    return code_N


def _means_elsewhere(code_N: npt.NDArray[np.int64], y_N: Floats64) -> Floats64:
    """Each row's mean label among rows of its code in the other folds, drawn towards the overall
    mean, so that a code that occurs once says nothing."""
    fold_N = np.arange(len(code_N)) % _NUM_FOLDS
    num_codes = int(code_N.max(initial=0)) + 1
    place_N = fold_N * num_codes + code_N
    shape = (_NUM_FOLDS, num_codes)
    counts = np.bincount(place_N, minlength=shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(place_N, weights=y_N, minlength=shape[0] * shape[1]).reshape(shape)
    elsewhere = counts.sum(axis=0) - counts
    prior = (sums.sum() - sums.sum(axis=1, keepdims=True)) / np.maximum(
        counts.sum() - counts.sum(axis=1, keepdims=True), 1
    )
    means = (sums.sum(axis=0) - sums + _PRIOR_ROWS * prior) / (elsewhere + _PRIOR_ROWS)
    found: Floats64 = means[fold_N, code_N]
    return found


def _association(x_N: Floats64, y_N: Floats64, task: Task) -> float:
    """AUC turned the better way round, or |Spearman correlation|; 0 where undefined."""
    if len(x_N) < 2 or y_N.min() == y_N.max() or x_N.min() == x_N.max():
        return 0.0
    rank_N = _ranks(x_N)
    if task == "regression":
        return abs(float(np.corrcoef(rank_N, _ranks(y_N))[0, 1]))
    positive_N = y_N > 0
    num_positive, num_negative = int(positive_N.sum()), int((~positive_N).sum())
    lead = rank_N[positive_N].sum() - num_positive * (num_positive + 1) / 2
    auc = float(lead / (num_positive * num_negative))
    return max(auc, 1 - auc)


def _ranks(x_N: Floats64) -> Floats64:
    """From 1; equal values share the mean of their ranks. scipy.stats has it too, for two seconds
    of imports in every training job."""
    _, place_N, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    found: Floats64 = (np.cumsum(counts) - (counts - 1) / 2)[place_N]
    return found
