"""How often gates are wrong, by simulation: models whose difference is known, judged many times."""

import math

import numpy as np
from gate_case import evaluation_of, verdict_of

from rayapp.evaluate.estimates import Influences, differences, estimates
from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.statistics import Bools, Floats
from rayapp.schemas.release import SliceEvaluation


def _two_models(
    rng: np.random.Generator, num_rows: int, noise: float = 0.5
) -> tuple[Floats, Floats, Floats]:
    """Labels and two scores that are equally good and differ by independent noise."""
    y_N = (rng.random(num_rows) < 0.3).astype(np.float64)
    shared_N = y_N * 1.2 + rng.normal(size=num_rows) - 1
    a_N, b_N = (1 / (1 + np.exp(-shared_N - rng.normal(0, noise, num_rows))) for _ in range(2))
    return y_N, a_N, b_N


def _compared(name: str, y_N: Floats, own_N: Floats, champion_N: Floats) -> SliceEvaluation:
    pair = [np.stack([1 - s, s], axis=1) for s in (own_N, champion_N)]
    own, champion = (Statistics.from_batch("binary", y_N, s) for s in pair)
    auc, other = (
        {"auc": s.influences(y_N, p)["auc"]} for s, p in zip((own, champion), pair, strict=True)
    )
    influences = Influences.from_batch(auc, other)
    return SliceEvaluation(
        slice=name,
        num_rows=len(y_N),
        estimates=estimates(own, influences, 0.95),
        differences=differences(own, champion, influences, 0.95),
    )


def test_an_equally_good_candidate_rarely_fails_even_without_a_margin() -> None:
    """1,000 bootstrap repetitions; α is 2.5 % on the side that fails."""
    rng = np.random.default_rng(7)
    population = _two_models(rng, 50_000)
    failed = 0
    for _ in range(1000):
        drawn = rng.integers(0, 50_000, 250)
        part = _compared("", *(column[drawn] for column in population))
        verdict = verdict_of(evaluation_of(part), kind="champion", metric="auc", margin=0)
        failed += verdict.value == "fail"
    assert failed / 1000 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1000)


def test_the_champion_against_itself_always_passes() -> None:
    rng = np.random.default_rng(7)
    y_N, score_N, _ = _two_models(rng, 1000)
    for _ in range(100):
        drawn = rng.integers(0, 1000, 1000)
        part = _compared("", y_N[drawn], score_N[drawn], score_N[drawn])
        verdict = verdict_of(evaluation_of(part), kind="champion", metric="auc", margin=0)
        assert verdict.value == "pass"


def test_a_candidate_trained_on_shuffled_labels_fails() -> None:
    rng = np.random.default_rng(9)
    y_N, champion_N, _ = _two_models(rng, 5000)
    part = _compared("", y_N, rng.permutation(champion_N), champion_N)
    floor = verdict_of(evaluation_of(part), kind="floor", metric="auc", limit=0.7)
    champion = verdict_of(evaluation_of(part), kind="champion", metric="auc", margin=0.005)
    assert (floor.value, champion.value) == ("fail", "fail")


def test_a_two_point_loss_on_one_slice_is_found() -> None:
    """Noise that costs 0.02 of AUC in one of twelve slices; the others stay as they are."""
    rng = np.random.default_rng(10)
    y_N, champion_N, candidate_N = _two_models(rng, 60_000, noise=0.05)
    slice_N = np.arange(60_000) % 12
    hurt: Bools = slice_N == 3
    logit_N = np.log(candidate_N / (1 - candidate_N)) + rng.normal(0, 0.42, 60_000) * hurt
    candidate_N = 1 / (1 + np.exp(-logit_N))
    parts = [
        _compared(f"carrier={k}", y_N[rows], candidate_N[rows], champion_N[rows])
        for k in range(12)
        for rows in [slice_N == k]
    ]
    loss = -parts[3].differences[0].value
    assert 0.015 < loss < 0.025
    overall = _compared("", y_N, candidate_N, champion_N)
    evaluation = evaluation_of(overall, *parts)
    assert verdict_of(evaluation, kind="champion", metric="auc", margin=0.005).value == "pass"
    verdict = verdict_of(evaluation, kind="slices", metric="auc", margin=0.005)
    assert verdict.value == "fail"
    assert "carrier=3 (" in verdict.reason
    verdict = verdict_of(evaluation, kind="slices", metric="auc", margin=0.02)
    assert verdict.value != "pass"
