"""Values of the metrics against scikit-learn's. Here and not among the unit tests because importing
scikit-learn takes longer than all of those."""

import numpy as np
import pytest
from sklearn import metrics as sk

from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.statistics import Floats
from rayapp.schemas.data import Task


def _binary(rng: np.random.Generator, num_rows: int, signal: float) -> tuple[Floats, Floats]:
    y_N = (rng.random(num_rows) < 0.25).astype(np.float64)
    score_N = 1 / (1 + np.exp(1.5 - signal * y_N - rng.normal(size=num_rows)))
    score_N = score_N.astype(np.float32).astype(np.float64)
    return y_N, np.stack([1 - score_N, score_N], axis=1)


def _multiclass(rng: np.random.Generator, num_rows: int) -> tuple[Floats, Floats]:
    y_N = rng.integers(0, 3, num_rows).astype(np.float64)
    logit_NK = rng.normal(size=(num_rows, 3)) + 1.2 * np.eye(3)[y_N.astype(int)]
    scores_NK = np.exp(logit_NK)
    return y_N, scores_NK / scores_NK.sum(axis=1, keepdims=True)


def _regression(rng: np.random.Generator, num_rows: int) -> tuple[Floats, Floats]:
    y_N = rng.normal(50, 10, num_rows)
    return y_N, (y_N + rng.normal(1, 5, num_rows))[:, None]


def _rows(task: Task, num_rows: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    if task == "binary":
        return _binary(rng, num_rows, 1.0)
    return _multiclass(rng, num_rows) if task == "multiclass" else _regression(rng, num_rows)


def test_binary_values_agree_with_scikit_learn() -> None:
    y_N, scores_NK = _rows("binary", 5000)
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
    y_N, scores_NK = _rows("multiclass", 3000)
    values = Statistics.from_batch("multiclass", y_N, scores_NK).values()
    expected = sk.roc_auc_score(y_N, scores_NK, multi_class="ovr")
    assert values["auc"] == pytest.approx(expected, abs=2e-4)
    assert values["log_loss"] == pytest.approx(sk.log_loss(y_N, scores_NK), rel=1e-9)
    assert values["accuracy"] == pytest.approx((scores_NK.argmax(axis=1) == y_N).mean())

    y_N, scores_NK = _rows("regression", 3000)
    values = Statistics.from_batch("regression", y_N, scores_NK).values()
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(y_N, scores_NK[:, 0]))
    assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(y_N, scores_NK[:, 0]))
    assert values["r2"] == pytest.approx(sk.r2_score(y_N, scores_NK[:, 0]))
    assert values["bias"] == pytest.approx((scores_NK[:, 0] - y_N).mean())
