"""The metrics that steer a fit and a sweep."""

import numpy as np
import pytest

from rayapp.families.scores import goal, roc_auc, tune_metrics


def test_multiclass_and_regression() -> None:
    scores_NK = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
    metrics = tune_metrics("multiclass", scores_NK, np.array([0, 1], dtype=np.float32))
    assert metrics["accuracy"] == 0.5
    assert metrics["log_loss"] == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2, rel=1e-6)
    value_N1 = np.array([[1.0], [3.0]], dtype=np.float32)
    metrics = tune_metrics("regression", value_N1, np.array([1, 0], dtype=np.float32))
    assert metrics == pytest.approx({"rmse": np.sqrt(4.5), "mae": 1.5})


def test_one_class_only_has_no_auc() -> None:
    scores_NK = np.array([[0.7, 0.3]], dtype=np.float32)
    assert roc_auc(scores_NK[:, 1], np.array([1])) is None
    assert "auc" not in tune_metrics("binary", scores_NK, np.array([1.0], dtype=np.float32))
    assert tune_metrics("binary", scores_NK[:0], np.empty(0, np.float32)) == {}


def test_goals() -> None:
    assert goal("binary") == ("auc", "max")
    assert goal("text") == ("answer_loss", "min")
    assert goal("multiclass")[1] == goal("regression")[1] == "min"
