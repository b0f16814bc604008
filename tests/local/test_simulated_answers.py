"""Intervals over answers in words, by simulation: they cover the truth as often as they say, and
those that forget what depends on what do not."""

import numpy as np
import pytest

from rayapp.evaluate.items import (
    Measured,
    clustered_error,
    difference,
    estimate,
    exponential_of,
    mean_of,
    ratio_of,
)
from rayapp.evaluate.judge import Anchors, corrected_difference, corrected_share
from rayapp.evaluate.metrics import METRICS
from rayapp.evaluate.tries import tries_of

NUM_DRAWS, CONFIDENCE = 400, 0.9
ENOUGH, TOO_MUCH = 0.9 - 0.045, 0.9 + 0.045  # 3 standard errors
NUM_ITEMS, NUM_SAMPLES = 150, 5


def covers(name: str, measured: Measured, clusters_N: np.ndarray, truth: float) -> bool:
    found = estimate(
        "m" if name == "exact_match" else name, METRICS[name], measured, clusters_N, CONFIDENCE
    )
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


def test_samples_of_an_item_depend_on_each_other() -> None:
    """Items are easy or hard: with the item as the unit intervals cover, with the answer they do
    not."""
    rng = np.random.default_rng(3)
    by_item = by_answer = 0
    for _ in range(NUM_DRAWS):
        p_N = rng.beta(0.6, 0.6, NUM_ITEMS)
        right_NK = (rng.random((NUM_ITEMS, NUM_SAMPLES)) < p_N[:, None]).astype(np.float64)
        by_item += covers("exact_match", mean_of(right_NK.mean(axis=1)), np.arange(NUM_ITEMS), 0.5)
        flat_N = right_NK.ravel()
        by_answer += covers("exact_match", mean_of(flat_N), np.arange(len(flat_N)), 0.5)
    assert ENOUGH <= by_item / NUM_DRAWS <= TOO_MUCH
    assert by_answer / NUM_DRAWS < ENOUGH - 0.1


def test_items_of_a_document_depend_on_each_other() -> None:
    rng = np.random.default_rng(4)
    clusters_N = np.repeat(np.arange(60), 4)
    clustered = alone = 0
    for _ in range(NUM_DRAWS):
        p_N = np.repeat(rng.beta(0.8, 0.8, 60), 4)
        measured = mean_of((rng.random(240) < p_N).astype(np.float64))
        clustered += covers("exact_match", measured, clusters_N, 0.5)
        alone += covers("exact_match", measured, np.arange(240), 0.5)
    assert ENOUGH <= clustered / NUM_DRAWS <= TOO_MUCH
    assert alone / NUM_DRAWS < ENOUGH - 0.05


@pytest.mark.parametrize("k", [2, 5])
def test_tries_cover_what_k_answers_would_do(k: int) -> None:
    """p uniform: ∫ p^k = 1 / (k + 1), and for one of k the same from the other side."""
    rng = np.random.default_rng(5)
    truths = {f"m_pass_at_{k}": k / (k + 1), f"m_pass_all_{k}": 1 / (k + 1)}
    covered = dict.fromkeys(truths, 0)
    for _ in range(NUM_DRAWS):
        right_N = rng.binomial(8, rng.random(NUM_ITEMS))
        for name, values_N in tries_of("m", right_N, 8, k).items():
            covered[name] += covers(
                "exact_match", mean_of(values_N), np.arange(NUM_ITEMS), truths[name]
            )
    for name, times in covered.items():
        assert ENOUGH <= times / NUM_DRAWS <= TOO_MUCH, name


def test_loss_and_perplexity_cover_long_answers_and_short_ones() -> None:
    """Longer answers surprise less a token, so a mean over items would have another truth."""
    rng = np.random.default_rng(6)

    def drawn(num_items: int) -> tuple[np.ndarray, np.ndarray]:
        tokens_N = 1.0 + rng.poisson(12, num_items)
        return rng.gamma(2.0, 1 / (1 + 0.1 * tokens_N)) * tokens_N, tokens_N

    nats_N, tokens_N = drawn(2_000_000)
    truth = nats_N.sum() / tokens_N.sum()
    covered = dict.fromkeys(("answer_loss", "perplexity"), 0)
    for _ in range(NUM_DRAWS):
        loss = ratio_of(*drawn(NUM_ITEMS))
        clusters_N = np.arange(NUM_ITEMS)
        covered["answer_loss"] += covers("answer_loss", loss, clusters_N, truth)
        covered["perplexity"] += covers(
            "perplexity", exponential_of(loss), clusters_N, float(np.exp(truth))
        )
    for name, times in covered.items():
        assert ENOUGH <= times / NUM_DRAWS <= TOO_MUCH, name


def test_paired_differences_are_narrow_where_both_find_the_same_items_hard() -> None:
    rng = np.random.default_rng(8)
    covered, widths, unpaired = 0, [], []
    for _ in range(NUM_DRAWS):
        p_N = rng.beta(0.6, 0.6, NUM_ITEMS)
        better_N = np.minimum(p_N + 0.1 * (p_N < 0.9), 1)
        truth_N = better_N - p_N
        own, base = (mean_of(rng.binomial(NUM_SAMPLES, p) / NUM_SAMPLES) for p in (better_N, p_N))
        found = difference("m", own, base, np.arange(NUM_ITEMS), CONFIDENCE)
        assert found is not None
        covered += found.low <= float(truth_N.mean()) <= found.high
        widths.append(found.high - found.low)
        errors = [m.influence_N.var(ddof=1) / NUM_ITEMS for m in (own, base)]
        unpaired.append(2 * 1.645 * np.sqrt(sum(errors)))
    assert covered / NUM_DRAWS >= ENOUGH  # the items of each draw are its truth: more than enough
    assert np.mean(widths) < 0.6 * np.mean(unpaired)


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_a_judge_is_corrected_with_the_errors_of_its_own_measurement(truth: float) -> None:
    """An interval of the verdicts alone has another truth, and one that takes the judge's measured
    errors for the true ones is too narrow."""
    rng = np.random.default_rng(12)
    sensitivity, specificity = 0.85, 0.75
    called = truth * sensitivity + (1 - truth) * (1 - specificity)
    covered = naive = 0
    for _ in range(NUM_DRAWS):
        anchors = Anchors(
            60, int(rng.binomial(60, sensitivity)), 60, int(rng.binomial(60, specificity))
        )
        num_called = int(rng.binomial(400, called))
        found = corrected_share(num_called, 400, anchors, CONFIDENCE)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
        naive += abs(num_called / 400 - truth) <= 1.645 * np.sqrt(called * (1 - called) / 400)
    assert ENOUGH <= covered / NUM_DRAWS <= 0.98
    assert naive / NUM_DRAWS < ENOUGH


@pytest.mark.parametrize("change", [0.0, 0.3])
def test_two_models_before_one_judge_differ_by_as_much_as_they_do(change: float) -> None:
    """Few anchors, so that not knowing the judge's errors is most of the doubt."""
    rng = np.random.default_rng(13)
    sensitivity, specificity = 0.85, 0.75
    covered = naive = 0
    for _ in range(NUM_DRAWS):
        anchors = Anchors(
            40, int(rng.binomial(40, sensitivity)), 40, int(rng.binomial(40, specificity))
        )
        is_right = rng.random((2, 400)) < np.array([[0.5 + change], [0.5]])
        called = rng.random((2, 400)) < np.where(is_right, sensitivity, 1 - specificity)
        own, base = (mean_of(row.astype(np.float64)) for row in called)
        error, _ = clustered_error(own.influence_N - base.influence_N, np.arange(400))
        found = corrected_difference(own.value - base.value, error, anchors, CONFIDENCE)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= change <= found.high
        naive += abs(own.value - base.value - change) <= 1.645 * error
    assert covered / NUM_DRAWS >= ENOUGH
    assert change == 0 or naive / NUM_DRAWS < ENOUGH


def test_a_judge_that_guesses_says_nothing() -> None:
    found = corrected_share(50, 100, Anchors(20, 12, 20, 10), 0.95)
    assert (found.value, found.low, found.high) == (None, None, None)
    with pytest.raises(ValueError, match="anchors of both kinds"):
        corrected_share(50, 100, Anchors(20, 12, 0, 0), 0.95)


def test_a_judge_without_errors_changes_nothing_but_the_doubt() -> None:
    found = corrected_share(300, 400, Anchors(50, 50, 50, 50), 0.95)
    assert found.value == 0.75
    assert found.low is not None
    assert found.low < 0.75 - 1.96 * np.sqrt(0.75 * 0.25 / 400)
