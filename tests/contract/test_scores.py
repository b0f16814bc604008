"""The steering metrics against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from rayapp.families.scores import tune_metrics


@pytest.mark.parametrize("decimals", [1, 6])
def test_binary_metrics_agree(decimals: int) -> None:
    generator = np.random.default_rng(1)
    p_N = np.clip(generator.random(3000).round(decimals), 0.01, 0.99).astype(np.float32)
    y_N = (generator.random(3000) < p_N).astype(np.float32)
    metrics = tune_metrics("binary", np.stack([1 - p_N, p_N], axis=1), y_N)
    assert metrics["auc"] == pytest.approx(roc_auc_score(y_N, p_N), abs=1e-12)
    assert metrics["log_loss"] == pytest.approx(log_loss(y_N, p_N), abs=1e-6)
