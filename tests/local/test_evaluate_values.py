"""Values of the metrics against scikit-learn's. Here and not among the unit tests because importing
scikit-learn takes longer than all of those."""

import numpy as np
import pytest
from scored_rows import rows_of
from sklearn import metrics as sk

from rayapp.evaluate.metrics import Statistics


def test_binary_values_agree_with_scikit_learn() -> None:
    y_N, scores_NK = rows_of("binary", 5000)
    p_N = scores_NK[:, 1]
    stats = Statistics.from_batch("binary", y_N, scores_NK)
    values = stats.values()
    bound = stats.tables[0].tie_bound
    assert bound < 2e-4
    assert values["auc"] == pytest.approx(sk.roc_auc_score(y_N, p_N), abs=bound)
    assert values["average_precision"] == pytest.approx(
        sk.average_precision_score(y_N, p_N), abs=1e-3
    )
    assert values["log_loss"] == pytest.approx(sk.log_loss(y_N, p_N), rel=1e-12)
    assert values["brier"] == pytest.approx(sk.brier_score_loss(y_N, p_N), rel=1e-12)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(y_N, p_N >= 0.5), rel=1e-12)
    assert values["label_rate"] == pytest.approx(y_N.mean())
    assert values["predicted_mean"] == pytest.approx(p_N.mean())


def test_tied_scores_agree_with_scikit_learn_exactly() -> None:
    rng = np.random.default_rng(3)
    y_N = (rng.random(2000) < 0.3).astype(np.float64)
    p_N = np.clip((rng.integers(1, 8, 2000) + y_N) / 10, 0, 1)
    values = Statistics.from_batch("binary", y_N, np.stack([1 - p_N, p_N], axis=1)).values()
    assert values["auc"] == pytest.approx(sk.roc_auc_score(y_N, p_N), rel=1e-12)
    assert values["average_precision"] == pytest.approx(
        sk.average_precision_score(y_N, p_N), rel=1e-12
    )


def test_multiclass_and_regression_values_agree_with_scikit_learn() -> None:
    y_N, scores_NK = rows_of("multiclass", 3000)
    values = Statistics.from_batch("multiclass", y_N, scores_NK).values()
    expected = sk.roc_auc_score(y_N, scores_NK, multi_class="ovr")
    assert values["auc"] == pytest.approx(expected, abs=2e-4)
    assert values["log_loss"] == pytest.approx(sk.log_loss(y_N, scores_NK), rel=1e-9)
    assert values["accuracy"] == pytest.approx((scores_NK.argmax(axis=1) == y_N).mean())

    y_N, scores_NK = rows_of("regression", 3000)
    values = Statistics.from_batch("regression", y_N, scores_NK).values()
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(y_N, scores_NK[:, 0]))
    assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(y_N, scores_NK[:, 0]))
    assert values["r2"] == pytest.approx(sk.r2_score(y_N, scores_NK[:, 0]))
    assert values["bias"] == pytest.approx((scores_NK[:, 0] - y_N).mean())
