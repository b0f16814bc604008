"""Errors over items, and several tries at one: known values, and what must hold of any."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayapp.config.grading import SamplesConfig
from rayapp.config.release import EvaluationConfig
from rayapp.errors import ConfigError
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.items import (
    calibration_of,
    clustered_error,
    clusters_of,
    difference,
    estimate,
    exponential_of,
    mean_of,
    ratio_of,
)
from rayapp.evaluate.metrics import METRICS
from rayapp.evaluate.tries import pass_all, pass_at
from rayapp.schemas.release import Estimate

VALUES = arrays(np.float64, st.integers(2, 40), elements=st.floats(-10, 10))


@given(st.integers(1, 7), st.data())
def test_tries_are_means_over_every_choice_of_samples(
    num_samples: int, data: st.DataObject
) -> None:
    right = data.draw(st.lists(st.booleans(), min_size=num_samples, max_size=num_samples))
    k = data.draw(st.integers(1, num_samples))
    chosen = list(combinations(right, k))
    assert pass_at(sum(right), num_samples, k) == pytest.approx(np.mean([any(c) for c in chosen]))
    assert pass_all(sum(right), num_samples, k) == pytest.approx(np.mean([all(c) for c in chosen]))


@given(st.integers(0, 20), st.integers(1, 19))
def test_more_tries_find_more_and_hold_less(num_right: int, k: int) -> None:
    assert pass_at(num_right, 20, k) <= pass_at(num_right, 20, k + 1)
    assert pass_all(num_right, 20, k) >= pass_all(num_right, 20, k + 1)


@given(VALUES)
def test_a_cluster_for_each_item_is_the_error_of_independent_ones(values_N: np.ndarray) -> None:
    measured = mean_of(values_N)
    error, size = clustered_error(measured.influence_N, np.arange(len(values_N)))
    assert size == len(values_N)
    assert error == pytest.approx(values_N.std(ddof=1) / np.sqrt(size), abs=1e-9)


@given(VALUES, st.integers(2, 5))
def test_copies_of_an_item_tell_nothing_more(values_N: np.ndarray, times: int) -> None:
    once, _ = clustered_error(mean_of(values_N).influence_N, np.arange(len(values_N)))
    copied_N = np.repeat(values_N, times)
    clusters_N = np.repeat(np.arange(len(values_N)), times)
    again, size = clustered_error(mean_of(copied_N).influence_N, clusters_N)
    assert again == pytest.approx(once, abs=1e-9)
    assert size == len(values_N)


def test_one_cluster_tells_nothing() -> None:
    measured = mean_of(np.arange(50.0))
    assert clustered_error(measured.influence_N, np.zeros(50, np.int64)) == (np.inf, 1)
    of = METRICS["exact_match"]
    assert estimate("m", of, measured, np.zeros(50, np.int64), 0.9).low is None
    assert difference("m", measured, measured, np.zeros(50, np.int64), 0.9) is None


def test_an_item_without_a_document_stands_alone() -> None:
    assert clusters_of(["a", None, "a", None, "b"]).tolist() == [0, 1, 0, 2, 3]


def test_a_ratio_and_its_influence() -> None:
    measured = ratio_of(np.array([2.0, 1.0, 3.0]), np.array([2.0, 2.0, 2.0]))
    assert measured.value == 1
    assert measured.influence_N.tolist() == [0, -0.5, 0.5]
    assert exponential_of(measured).influence_N == pytest.approx(np.e * measured.influence_N)


def calibration(confidence: float, num_right: int, num_items: int = 300) -> Estimate:
    confidence_NK = np.full((num_items, 1), confidence)
    is_right_NK = (np.arange(num_items) < num_right)[:, None]
    measured = calibration_of(confidence_NK, is_right_NK)
    assert measured.influence_N.mean() == pytest.approx(0, abs=1e-5)
    told = METRICS["calibration_error"]
    return estimate("calibration_error", told, measured, np.arange(num_items), 0.95)


def test_who_is_as_sure_as_it_is_right_is_calibrated_and_who_is_surer_is_not() -> None:
    true, sure = calibration(0.8, 240), calibration(0.9, 150)
    assert true.value == pytest.approx(0, abs=1e-3)
    assert true.low == 0
    assert sure.value is not None
    assert sure.value == pytest.approx(0.4, abs=1e-3)
    assert sure.low is not None
    assert sure.high is not None
    assert 0.3 < sure.low < sure.value < sure.high < 0.5
    few = calibration(0.9, 10, num_items=20)
    assert few.high is None  # no evidence


@pytest.mark.parametrize(
    ("share_right", "num_items", "upper"),
    [
        (0.9, 215, 0.10),
        (0.9, 600, 0.06),
        (0.9, 1000, 0.04),
        (0.8, 215, 0.12),
        (0.8, 600, 0.07),
        (0.8, 1000, 0.06),
        (0.8, 2000, 0.04),
    ],
)
def test_how_many_items_it_takes_to_tell_that_a_model_is_calibrated(
    share_right: float, num_items: int, upper: float
) -> None:
    """As docs/how-to/route-by-cost.md has it: a model's probabilities are exactly true."""
    rng = np.random.default_rng(1)
    told = METRICS["calibration_error"]
    found = []
    for _ in range(40):
        confidence_N = rng.beta(share_right / (1 - share_right), 1, num_items)
        is_right_N = rng.random(num_items) < confidence_N
        measured = calibration_of(confidence_N[:, None], is_right_N[:, None])
        high = estimate("calibration_error", told, measured, np.arange(num_items), 0.95).high
        assert high is not None
        found.append(high)
    assert np.mean(found) == pytest.approx(upper, abs=0.006)


def test_samples_of_an_item_count_once_for_its_calibration() -> None:
    confidence_NK, is_right_NK = np.full((50, 1), 0.9), np.arange(50)[:, None] < 30
    once = calibration_of(confidence_NK, is_right_NK)
    thrice = calibration_of(confidence_NK.repeat(3, 1), is_right_NK.repeat(3, 1))
    assert thrice.value == pytest.approx(once.value)
    assert thrice.influence_N == pytest.approx(once.influence_N)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"per_item": 3, "tries": [4]}, "4 is above `per_item` 3"),
        ({"per_item": 3, "tries": [2, 2]}, "twice"),
        ({"per_item": 3, "tries": [2], "success": []}, "has no effect"),
        ({"per_item": 1, "tries": [1]}, "greater than or equal to 2"),
        ({"per_item": 3, "tries": [2], "temperature": 0}, "greater than 0"),
    ],
)
def test_samples_without_an_effect_are_errors(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SamplesConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("graders", "success", "says"),
    [
        ({}, "polite", "'polite' grades no answer"),
        ({}, "answer_loss", "grades no answer"),
        ({"exact_match_pass_at_2": {"kind": "exact"}}, "exact_match", "rename the grader"),
    ],
)
def test_success_must_be_a_grade(graders: dict[str, object], success: str, says: str) -> None:
    samples = {"per_item": 3, "tries": [2], "success": [success]}
    config = EvaluationConfig.model_validate({"samples": samples, "graders": graders})
    with pytest.raises(ConfigError, match=says):
        declared_metrics(config, "text")


@pytest.mark.parametrize(
    "settings", [{"cluster_by": "x"}, {"samples": {"per_item": 2, "tries": [2]}}]
)
def test_scores_have_no_samples(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="no effect with task binary"):
        declared_metrics(EvaluationConfig.model_validate(settings), "binary")
