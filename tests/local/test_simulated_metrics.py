"""Intervals and their errors, by simulation: they cover the truth as often as they say."""

from typing import Any

import numpy as np
import pytest
from scored_rows import binary_rows, rows_of

from rayapp.evaluate.estimates import measure
from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.ranking import average_precision, calibration_error, calibration_noise
from rayapp.evaluate.statistics import RankTable


def test_average_precision_error_is_the_bootstraps() -> None:
    y_N, scores_NK = rows_of("binary", 1000)
    rng = np.random.default_rng(5)
    draws = [rng.integers(0, 1000, 1000) for _ in range(300)]
    values = [average_precision(RankTable.from_batch(y_N[d] == 1, scores_NK[d, 1])) for d in draws]
    stats = Statistics.from_batch("binary", y_N, scores_NK)
    influence_N = stats.influences(y_N, scores_NK)["average_precision"]
    assert influence_N.std() / np.sqrt(1000) == pytest.approx(np.std(values), rel=0.1)


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(11)
    names = ("auc", "average_precision", "log_loss", "brier", "accuracy")
    truth: dict[str, Any] = {
        e.metric: e.value for e in measure("binary", *binary_rows(rng, 200_000, 1.0), 0.9)
    }
    covered = dict.fromkeys(names, 0)
    for _ in range(200):
        found: dict[str, Any] = {
            e.metric: e for e in measure("binary", *binary_rows(rng, 300, 1.0), 0.9)
        }
        for name in names:
            covered[name] += found[name].low <= truth[name] <= found[name].high
    for name in names:
        assert 0.84 <= covered[name] / 200 <= 0.96, name  # 0.9 ± 3 standard errors


def test_calibration_interval_reaches_zero_for_a_calibrated_model() -> None:
    rng = np.random.default_rng(2)
    reached = 0
    for _ in range(100):
        p_N = rng.beta(2, 5, 1000)
        y_N = (rng.random(1000) < p_N).astype(np.float64)
        found = measure("binary", y_N, np.stack([1 - p_N, p_N], axis=1), 0.95)
        low = {e.metric: e.low for e in found}["calibration_error"]
        reached += low == 0
    assert reached >= 95


def test_calibration_noise_is_what_chance_gives() -> None:
    rng = np.random.default_rng(4)
    p_N = rng.beta(2, 5, 3000)
    tables = [RankTable.from_batch(rng.random(3000) < p_N, p_N) for _ in range(60)]
    found = [calibration_error(table) for table in tables]
    assert np.mean(found) == pytest.approx(calibration_noise(tables[0]), rel=0.1)
