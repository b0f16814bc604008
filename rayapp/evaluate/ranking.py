"""Metrics of a ranking by score (AUC, average precision, calibration error) from a RankTable, each
with its influence function: what one row adds to the value, times the number of rows.

Shape suffixes: N rows, U occupied score bins (ascending), G calibration groups.
"""

import numpy as np

from rayapp.evaluate.statistics import SCORE_UNIT, Bools, Floats, Ints, RankTable

NUM_CALIBRATION_GROUPS = 15


def auc(table: RankTable) -> float:
    """Mann-Whitney: ties count half. Equals the area under the empirical ROC curve."""
    outranked_U, _ = table.placements()
    return float(table.positives_U @ outranked_U) / table.num_positives


def auc_influence(table: RankTable, is_positive_N: Bools, place_N: Ints) -> Floats:
    """(V10 − auc)/share of positives, or (V01 − auc)/share of negatives: DeLong et al. 1988."""
    value = auc(table)
    num_rows = table.num_positives + table.num_negatives
    outranked_U, outranking_U = table.placements()
    positive_U = (outranked_U - value) * num_rows / table.num_positives
    negative_U = (outranking_U - value) * num_rows / table.num_negatives
    return np.where(is_positive_N, positive_U[place_N], negative_U[place_N])


def average_precision(table: RankTable) -> float:
    """Sum over thresholds of precision × rise in recall (Manning et al. 2008, IIR, 8.4)."""
    positives_U, rows_U = table.at_least()
    return float(table.positives_U @ (positives_U / rows_U)) / table.num_positives


def average_precision_influence(table: RankTable, is_positive_N: Bools, place_N: Ints) -> Floats:
    """Derivative of E[precision(S) | positive] in the direction of one row.

    With T(s), F(s) the shares of positives, of rows, scored ≥ s, and p the share of positives, the
    value is E[1{y=1} T(S)/F(S)]/p. A row at s adds its own precision, raises T (if positive) and F
    for all thresholds ≤ s, and raises p. Compared with a bootstrap in the tests.
    """
    share = table.num_positives / (table.num_positives + table.num_negatives)
    positives_U, rows_U = table.at_least()
    precision_U = positives_U / rows_U
    raised_U = np.cumsum(table.positives_U / rows_U)
    diluted_U = np.cumsum(table.positives_U * precision_U / rows_U)
    own_U = precision_U + raised_U - average_precision(table)
    return (np.where(is_positive_N, own_U[place_N], 0.0) - diluted_U[place_N]) / share


def _group_residuals(table: RankTable) -> tuple[Ints, Floats]:
    """Each bin's group [U], and per group observed − predicted positives [G]."""
    group_U = table.groups(NUM_CALIBRATION_GROUPS)
    residual_U = table.positives_U - table.score_U * SCORE_UNIT
    residual_G = np.bincount(group_U, residual_U, minlength=NUM_CALIBRATION_GROUPS)
    return group_U, np.asarray(residual_G, dtype=np.float64)


def calibration_error(table: RankTable) -> float:
    """Expected calibration error (Naeini et al. 2015, AAAI) over 15 equal-mass groups."""
    _, residual_G = _group_residuals(table)
    return float(np.abs(residual_G).sum()) / int(table.rows_U.sum())


def calibration_influence(
    table: RankTable, is_positive_N: Bools, score_N: Floats, place_N: Ints
) -> Floats:
    """±(y − p) with the sign of the row's group; the borders of the groups are taken as fixed."""
    group_U, residual_G = _group_residuals(table)
    sign_N = np.sign(residual_G)[group_U[place_N]]
    return sign_N * (is_positive_N - score_N) - calibration_error(table)


def calibration_noise(table: RankTable) -> float:
    """The calibration error that chance alone gives a perfectly calibrated model on these rows:
    the mean absolute value of each group's binomial error, √(2/π)·σ (Bröcker 2012, QJRMS)."""
    group_U = table.groups(NUM_CALIBRATION_GROUPS)
    rows_G = np.bincount(group_U, table.rows_U, minlength=NUM_CALIBRATION_GROUPS)
    scores_G = np.bincount(group_U, table.score_U * SCORE_UNIT, minlength=NUM_CALIBRATION_GROUPS)
    mean_G = scores_G / np.maximum(rows_G, 1)
    spread_G = np.sqrt(np.clip(rows_G * mean_G * (1 - mean_G), 0, None))
    return float(np.sqrt(2 / np.pi) * spread_G.sum() / rows_G.sum())
