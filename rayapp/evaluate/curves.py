"""The points of the report's plots, from the same merged statistics as the figures."""

import numpy as np

from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.ranking import NUM_CALIBRATION_GROUPS
from rayapp.evaluate.statistics import SCORE_UNIT, Floats, GroupSums, Ints, RankTable, as_float
from rayapp.schemas.release import Curve

NUM_POINTS = 200
NUM_SCORE_BINS = 40
NUM_ACTUAL_GROUPS = 20
MAX_CONFUSION_CLASSES = 30


def curves(own: Statistics, champion: Statistics | None) -> tuple[Curve, ...]:
    """Plots of the candidate, and of the champion where the two belong in one picture."""
    if own.task == "regression":
        return ()
    found = [_calibration("calibration", own.tables[-1])]
    if champion is not None:
        found.append(_calibration("calibration_champion", champion.tables[-1]))
    if own.task == "multiclass":
        return (*found, *_confusion(own))
    for suffix, stats in (("", own), ("_champion", champion)):
        if stats is not None and stats.num_rarer > 0:
            found.append(roc(f"roc{suffix}", stats.tables[0]))
            found.append(precision_recall(f"precision_recall{suffix}", stats.tables[0]))
    return (*found, *_scores(own.tables[0]))


def roc(name: str, table: RankTable) -> Curve:
    """x: false positive rate, y: true positive rate, from the strictest threshold down."""
    positives_U, rows_U = table.at_least()
    true_U = np.append(positives_U, 0)[::-1] / table.num_positives
    false_U = np.append(rows_U - positives_U, 0)[::-1] / table.num_negatives
    return _curve(name, false_U, true_U)


def precision_recall(name: str, table: RankTable) -> Curve:
    positives_U, rows_U = table.at_least()
    recall_U = positives_U[::-1] / table.num_positives
    return _curve(name, recall_U, (positives_U / rows_U)[::-1])


def _calibration(name: str, table: RankTable) -> Curve:
    """x: mean prediction, y: observed rate, weight: rows, per equal-mass group."""
    group_U = table.groups(NUM_CALIBRATION_GROUPS)
    rows_G = np.bincount(group_U, table.rows_U)
    scores_G = np.bincount(group_U, table.score_U * SCORE_UNIT)
    positives_G = np.bincount(group_U, table.positives_U)
    full_G = rows_G > 0
    return Curve(
        name=name,
        x=_points(scores_G[full_G] / rows_G[full_G]),
        y=_points(positives_G[full_G] / rows_G[full_G]),
        weight=tuple(float(w) for w in rows_G[full_G]),
    )


def _scores(table: RankTable) -> tuple[Curve, Curve]:
    """How the predicted probabilities spread: x the bin's middle, y the rows of each class."""
    mean_U = table.score_U * SCORE_UNIT / table.rows_U
    bin_U = np.minimum((mean_U * NUM_SCORE_BINS).astype(np.int64), NUM_SCORE_BINS - 1)
    middle = _points((np.arange(NUM_SCORE_BINS) + 0.5) / NUM_SCORE_BINS)
    negatives = np.bincount(bin_U, table.negatives_U, minlength=NUM_SCORE_BINS)
    positives = np.bincount(bin_U, table.positives_U, minlength=NUM_SCORE_BINS)
    return (
        Curve(name="scores_negative", x=middle, y=_points(negatives)),
        Curve(name="scores_positive", x=middle, y=_points(positives)),
    )


def _confusion(stats: Statistics) -> tuple[Curve, ...]:
    """x: true class, y: predicted class, weight: rows."""
    num_classes = len(stats.confusion)
    if num_classes > MAX_CONFUSION_CLASSES:
        return ()
    true, predicted = np.divmod(np.arange(num_classes**2), num_classes)
    weight = tuple(float(w) for w in stats.confusion.ravel())
    return (Curve(name="confusion", x=_points(true), y=_points(predicted), weight=weight),)


def score_group(stats: Statistics, score_N: Floats) -> Ints:
    """The group of each regression score: equal widths over mean ± 2.5 standard deviations."""
    variance = max(stats.mean("score_squared") - stats.mean("score") ** 2, 0.0)
    spread = 5.0 * float(np.sqrt(variance)) or 1.0
    share_N = (score_N - stats.mean("score")) / spread + 0.5
    return np.asarray(
        np.clip(share_N * NUM_ACTUAL_GROUPS, 0, NUM_ACTUAL_GROUPS - 1), dtype=np.int64
    )


def predicted_against_actual(groups: GroupSums) -> Curve:
    """x: mean prediction, y: mean label, weight: rows, per group of the prediction."""
    full = [g for g, rows in enumerate(groups.rows) if rows]
    return Curve(
        name="predicted_vs_actual",
        x=tuple(as_float(groups.scores[g]) / groups.rows[g] for g in full),
        y=tuple(as_float(groups.labels[g]) / groups.rows[g] for g in full),
        weight=tuple(float(groups.rows[g]) for g in full),
    )


def _curve(name: str, x: Floats, y: Floats) -> Curve:
    """At most NUM_POINTS of the points, evenly spread along x + y, ends included."""
    if len(x) > NUM_POINTS:
        way = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
        wanted = np.searchsorted(way, np.linspace(0, way[-1], NUM_POINTS - 1))
        kept = np.unique(np.append(wanted, len(x) - 1))
        x, y = x[kept], y[kept]
    return Curve(name=name, x=_points(x), y=_points(y))


def _points(values: Floats | Ints) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)
