"""Metrics: merging changes no bit, intervals cover the truth, few rows promise nothing."""

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_rows import binary_rows, rows_of

from rayapp.evaluate.estimates import Influences, differences, estimates, measure, wilson
from rayapp.evaluate.metrics import METRICS, Statistics, metrics_of
from rayapp.evaluate.statistics import Moments, as_float, exact_sum
from rayapp.schemas.data import Task


@given(st.permutations(range(12)), st.lists(st.floats(-1e300, 1e300), min_size=12, max_size=12))
def test_exact_sum_is_the_rounded_true_sum_in_any_order(
    order: list[int], values: list[float]
) -> None:
    total = exact_sum(np.array(values))
    assert exact_sum(np.array(values)[order]) == total
    assert as_float(total) == math.fsum(values)


def test_exact_sum_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not finite"):
        exact_sum(np.array([1.0, np.nan]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_moments_are_those_of_numpy(values: list[float]) -> None:
    moments = Moments.from_batch(np.array(values))
    scale = max(abs(v) for v in values) ** 2 + 1
    assert moments.mean == pytest.approx(np.mean(values), abs=1e-9 * scale)
    assert moments.variance == pytest.approx(np.var(values, ddof=1), abs=1e-9 * scale)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["binary", "multiclass", "regression"]),
    st.integers(0, 10_000),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_any_blocks_in_any_order_give_the_same_bits(task: Task, seed: int, cuts: list[int]) -> None:
    y_N, scores_NK = rows_of(task, 200, seed)
    whole = Statistics.from_batch(task, y_N, scores_NK)
    order = np.random.default_rng(seed).permutation(200)
    blocks = [b for b in np.split(order, sorted(cuts)) if len(b)]
    merged = reduce(
        lambda a, b: a.merge(b),
        [Statistics.from_batch(task, y_N[b], scores_NK[b]) for b in blocks],
    )
    assert merged.values() == whole.values()
    parts = [Influences.from_batch(merged.influences(y_N[b], scores_NK[b]), None) for b in blocks]
    influences = reduce(lambda a, b: a.merge(b), parts)
    assert estimates(merged, influences, 0.95) == measure(task, y_N, scores_NK, 0.95)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_each_task_gives_the_metrics_of_the_table(task: Task) -> None:
    y_N, scores_NK = rows_of(task, 500)
    assert [e.metric for e in measure(task, y_N, scores_NK, 0.9)] == list(metrics_of(task))
    assert all(METRICS[name].meaning for name in metrics_of(task))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_influence_averages_to_zero_and_predicts_the_effect_of_more_rows(task: Task) -> None:
    """Doubling one hundredth of the rows moves the value by the mean of their influence."""
    y_N, scores_NK = rows_of(task, 4000)
    stats = Statistics.from_batch(task, y_N, scores_NK)
    influences = stats.influences(y_N, scores_NK)
    more = Statistics.from_batch(task, y_N[:40], scores_NK[:40])
    after = stats.merge(more).values()
    for name, before in stats.values().items():
        influence_N = influences[name]
        assert influence_N.mean() == pytest.approx(0, abs=1e-9 * (1 + np.abs(influence_N).max()))
        if name == "calibration_error":  # its group borders move too, which influence leaves out
            continue
        predicted = influence_N[:40].mean() * 40 / 4040
        moved = after[name]
        assert before is not None
        assert moved is not None
        scale = influence_N.std() / np.sqrt(4000)
        assert moved - before == pytest.approx(predicted, abs=0.03 * scale)


def test_auc_error_is_delongs() -> None:
    y_N, scores_NK = rows_of("binary", 1500)
    positive, negative = scores_NK[y_N == 1, 1], scores_NK[y_N == 0, 1]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    delong = wins.mean(axis=1).var(ddof=1) / len(positive)
    delong += wins.mean(axis=0).var(ddof=1) / len(negative)
    influence_N = Statistics.from_batch("binary", y_N, scores_NK).influences(y_N, scores_NK)["auc"]
    assert influence_N.std() / np.sqrt(1500) == pytest.approx(np.sqrt(delong), rel=5e-3)


def test_few_rows_have_a_value_but_no_interval() -> None:
    p_N = np.array([0.1, 0.2, 0.8, 0.9])
    found = measure("binary", np.array([0.0, 0, 1, 1]), np.stack([1 - p_N, p_N], axis=1), 0.95)
    auc = {e.metric: e for e in found}["auc"]
    assert auc.value == 1
    assert auc.low is None


def test_a_perfect_ranking_is_not_certainty() -> None:
    y_N = np.repeat([0.0, 1.0], [80, 20])
    p_N = np.linspace(0.01, 0.99, 100)
    auc = measure("binary", y_N, np.stack([1 - p_N, p_N], axis=1), 0.95)[0]
    assert auc.value == 1
    assert auc.low is not None
    assert auc.low < 0.9


def test_one_class_leaves_ranked_metrics_undefined() -> None:
    p_N = np.full(50, 0.3)
    found = {
        e.metric: e.value
        for e in measure("binary", np.zeros(50), np.stack([1 - p_N, p_N], axis=1), 0.95)
    }
    assert found["auc"] is None
    assert found["average_precision"] is None
    assert found["brier"] == pytest.approx(0.09)


def test_a_constant_label_leaves_r2_undefined() -> None:
    found = {e.metric: e.value for e in measure("regression", np.ones(50), np.ones((50, 1)), 0.95)}
    assert found["r2"] is None
    assert found["rmse"] == 0


def test_wilson_is_the_textbook_interval() -> None:
    low, high = wilson(0.1, float(np.sqrt(0.09 / 50)), 50, 0.95)
    assert (low, high) == pytest.approx((0.0435, 0.2136), abs=1e-4)


def test_a_model_against_itself_differs_by_nothing() -> None:
    y_N, scores_NK = rows_of("binary", 400)
    stats = Statistics.from_batch("binary", y_N, scores_NK)
    own = stats.influences(y_N, scores_NK)
    found = differences(stats, stats, Influences.from_batch(own, own), 0.95)
    assert {d.metric for d in found} == set(metrics_of("binary")) - {"label_rate"}
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in found)


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    rng = np.random.default_rng(8)
    y_N, scores_NK = binary_rows(rng, 2000, 1.0)
    other_N = np.clip(scores_NK[:, 1] * (1 + rng.normal(0, 0.05, 2000)), 0, 1)
    other_NK = np.stack([1 - other_N, other_N], axis=1)
    own, other = (Statistics.from_batch("binary", y_N, s) for s in (scores_NK, other_NK))
    pair = Influences.from_batch(own.influences(y_N, scores_NK), other.influences(y_N, other_NK))
    difference = differences(own, other, pair, 0.95)[0]
    alone = estimates(own, pair, 0.95)[0]
    assert alone.high is not None
    assert alone.low is not None
    assert difference.high - difference.low < (alone.high - alone.low) / 3
