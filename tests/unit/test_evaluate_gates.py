"""Gates: each passes on evidence, fails on evidence, and otherwise says what is missing."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayapp.config.load import load
from rayapp.config.release import PolicyConfig
from rayapp.errors import ConfigError
from rayapp.evaluate.estimates import Influences, differences, estimates
from rayapp.evaluate.evidence import holm
from rayapp.evaluate.gates import check_policy, decide
from rayapp.evaluate.metrics import Statistics
from rayapp.evaluate.statistics import Bools, Floats
from rayapp.schemas.release import (
    Difference,
    Estimate,
    Evaluation,
    Latency,
    SliceEvaluation,
    Verdict,
)

MARGIN = 0.01


def _policy(**gate: Any) -> PolicyConfig:
    return PolicyConfig.model_validate({"gates": {"gate": gate}})


def _part(
    name: str = "",
    auc: tuple[float | None, float | None, float | None] = (0.8, 0.79, 0.81),
    difference: tuple[float, float, float] | None = None,
    num_rows: int = 1000,
    metric: str = "auc",
) -> SliceEvaluation:
    value, low, high = auc
    found = ()
    if difference is not None:
        a, b, c = difference
        found = (
            Difference(metric=metric, value=a, low=b, high=c, num_rows=num_rows, confidence=0.95),
        )
    estimate = Estimate(
        metric=metric, value=value, low=low, high=high, num_rows=num_rows, confidence=0.95
    )
    return SliceEvaluation(slice=name, num_rows=num_rows, estimates=(estimate,), differences=found)


def _evaluation(
    overall: SliceEvaluation,
    *slices: SliceEvaluation,
    champion: str | None = "release",
    p95_ms: float = 2.0,
    num_calls: int = 300,
) -> Evaluation:
    return Evaluation(
        run_id="run",
        snapshot_id="snapshot",
        split="test",
        task="binary",
        bundle_digest="digest",
        champion=champion,
        overall=overall,
        slices=slices,
        curves=(),
        label_shares=(),
        latency=Latency(p50_ms=1, p95_ms=p95_ms, p99_ms=3, num_calls=num_calls),
    )


def _verdict(evaluation: Evaluation, **gate: Any) -> Verdict:
    return decide(evaluation, _policy(**gate))[0]


# Floors and ceilings


@pytest.mark.parametrize(
    ("kind", "limit", "expected"),
    [
        ("floor", 0.78, "pass"),
        ("floor", 0.79, "pass"),
        ("floor", 0.82, "fail"),
        ("floor", 0.805, "inconclusive"),
        ("ceiling", 0.82, "pass"),
        ("ceiling", 0.78, "fail"),
        ("ceiling", 0.795, "inconclusive"),
    ],
)
def test_limits_are_three_valued(kind: str, limit: float, expected: str) -> None:
    verdict = _verdict(_evaluation(_part()), kind=kind, metric="auc", limit=limit)
    assert verdict.value == expected
    assert f"{limit:g}" in verdict.reason


def test_needed_rows_are_those_at_which_the_interval_clears_the_limit() -> None:
    verdict = _verdict(_evaluation(_part()), kind="floor", metric="auc", limit=0.795)
    assert verdict.value == "inconclusive"
    assert verdict.needs_rows == pytest.approx(4000, abs=1)
    half = 0.01 / math.sqrt(4.001)
    again = _evaluation(_part(auc=(0.8, 0.8 - half, 0.8 + half), num_rows=4001))
    assert _verdict(again, kind="floor", metric="auc", limit=0.795).value == "pass"


def test_a_value_exactly_at_the_limit_says_that_rows_do_not_help() -> None:
    verdict = _verdict(_evaluation(_part()), kind="floor", metric="auc", limit=0.8)
    assert verdict.value == "inconclusive"
    assert verdict.needs_rows is None
    assert "no number of rows" in verdict.reason


def test_no_interval_is_never_a_pass() -> None:
    for auc in [(0.99, None, None), (None, None, None)]:
        verdict = _verdict(
            _evaluation(_part(auc=auc, num_rows=12)), kind="floor", metric="auc", limit=0.5
        )
        assert verdict.value == "inconclusive"
        assert "12" in verdict.reason


def test_a_higher_policy_confidence_widens_the_interval() -> None:
    gate = {"kind": "floor", "metric": "auc", "limit": 0.789}
    policy = PolicyConfig.model_validate({"confidence": 0.999, "gates": {"g": gate}})
    assert decide(_evaluation(_part()), policy)[0].value == "inconclusive"
    assert _verdict(_evaluation(_part()), **gate).value == "pass"


@given(
    st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0, 1), st.floats(0.001, 0.5)
)
def test_a_higher_floor_is_never_easier(
    value: float, down: float, up: float, limit: float, step: float
) -> None:
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    evaluation = _evaluation(_part(auc=(value, value - down, value + up)))
    low = _verdict(evaluation, kind="floor", metric="auc", limit=limit)
    high = _verdict(evaluation, kind="floor", metric="auc", limit=limit + step)
    assert order[high.value] <= order[low.value]


# Champion


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ((0.0, -0.005, 0.005), "pass"),
        ((0.0, 0.0, 0.0), "pass"),
        ((-0.05, -0.06, -0.04), "fail"),
        ((-0.01, -0.02, 0.0), "inconclusive"),
    ],
)
def test_champion_is_non_inferiority(difference: tuple[float, float, float], expected: str) -> None:
    evaluation = _evaluation(_part(difference=difference))
    assert _verdict(evaluation, kind="champion", metric="auc", margin=MARGIN).value == expected


def test_champion_knows_which_direction_is_better() -> None:
    worse = _part(metric="log_loss", difference=(0.05, 0.04, 0.06))
    verdict = _verdict(_evaluation(worse), kind="champion", metric="log_loss", margin=MARGIN)
    assert verdict.value == "fail"
    assert "worse" in verdict.reason
    better = _part(metric="log_loss", difference=(-0.05, -0.06, -0.04))
    verdict = _verdict(_evaluation(better), kind="champion", metric="log_loss", margin=MARGIN)
    assert verdict.value == "pass"


def test_without_a_champion_there_is_nothing_to_be_worse_than() -> None:
    evaluation = _evaluation(_part(), champion=None)
    for gate in ({"kind": "champion"}, {"kind": "slices"}):
        verdict = _verdict(evaluation, metric="auc", margin=MARGIN, **gate)
        assert verdict.value == "pass"
        assert "no champion" in verdict.reason


def test_a_champion_without_a_difference_is_inconclusive() -> None:
    verdict = _verdict(_evaluation(_part()), kind="champion", metric="auc", margin=MARGIN)
    assert verdict.value == "inconclusive"


# Slices and gaps


def test_slices_fail_by_name_and_leave_small_ones_unjudged() -> None:
    evaluation = _evaluation(
        _part(),
        _part("carrier=AA", difference=(0.0, -0.005, 0.005)),
        _part("carrier=UA", difference=(-0.05, -0.06, -0.04)),
        _part("carrier=HA", difference=(-0.5, -0.6, -0.4), num_rows=20),
    )
    verdict = _verdict(evaluation, kind="slices", metric="auc", margin=MARGIN, min_rows=500)
    assert verdict.value == "fail"
    assert "carrier=UA (0.0500 worse)" in verdict.reason
    assert "carrier=AA" not in verdict.reason
    assert "too small to judge: carrier=HA" in verdict.reason


def test_slices_pass_only_when_each_shows_it() -> None:
    good = _part("carrier=AA", difference=(0.0, -0.005, 0.005))
    open_ = _part("carrier=B6", difference=(0.0, -0.03, 0.03))
    gate = {"kind": "slices", "metric": "auc", "margin": MARGIN}
    assert _verdict(_evaluation(_part(), good), **gate).value == "pass"
    verdict = _verdict(_evaluation(_part(), good, open_), **gate)
    assert verdict.value == "inconclusive"
    assert verdict.needs_rows == pytest.approx(9000, abs=1)


def test_slices_that_are_all_too_small_are_inconclusive() -> None:
    part = _part("carrier=AA", difference=(0.0, 0.0, 0.0), num_rows=10)
    verdict = _verdict(_evaluation(_part(), part), kind="slices", metric="auc", margin=MARGIN)
    assert verdict.value == "inconclusive"


def test_holm_is_the_textbook_procedure() -> None:
    p_values = {"a": 0.001, "b": 0.014, "c": 0.02, "d": 0.9}
    assert holm(p_values, 0.05) == ["a", "b", "c"]
    assert holm({"a": 0.001, "b": 0.03, "c": 0.04, "d": 0.9}, 0.05) == ["a"]


@pytest.mark.parametrize(
    ("limit", "expected"), [(0.2, "pass"), (0.05, "fail"), (0.1, "inconclusive")]
)
def test_gap_is_three_valued(limit: float, expected: str) -> None:
    evaluation = _evaluation(
        _part(),
        _part("origin=JFK", auc=(0.85, 0.84, 0.86)),
        _part("origin=LGA", auc=(0.80, 0.79, 0.81)),
        _part("origin=EWR", auc=(0.75, 0.74, 0.76)),
        _part("month=1", auc=(0.1, 0.09, 0.11)),
        _part("origin=XXX", auc=(0.1, 0.0, 0.9), num_rows=20),
    )
    verdict = _verdict(evaluation, kind="gap", metric="auc", column="origin", limit=limit)
    assert verdict.value == expected
    assert "origin=JFK" in verdict.reason
    assert "origin=EWR" in verdict.reason


def test_a_gap_needs_two_slices() -> None:
    evaluation = _evaluation(_part(), _part("origin=JFK"))
    verdict = _verdict(evaluation, kind="gap", metric="auc", column="origin", limit=0.5)
    assert verdict.value == "inconclusive"


# Latency, acceptance, policy


def test_latency_needs_calls_enough_for_its_percentile() -> None:
    gate = {"kind": "latency", "p95_ms": 5.0}
    assert _verdict(_evaluation(_part(), p95_ms=4), **gate).value == "pass"
    assert _verdict(_evaluation(_part(), p95_ms=6), **gate).value == "fail"
    assert _verdict(_evaluation(_part(), p95_ms=4, num_calls=20), **gate).value == "inconclusive"


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"kind": "floor", "metric": "acu", "limit": 0.7}, "no metric 'acu'"),
        ({"kind": "ceiling", "metric": "rmse", "limit": 1}, "no metric 'rmse'"),
        ({"kind": "floor", "metric": "log_loss", "limit": 1}, "better when lower"),
        ({"kind": "ceiling", "metric": "auc", "limit": 1}, "better when higher"),
        ({"kind": "champion", "metric": "label_rate", "margin": 0.1}, "neither direction"),
        ({"kind": "gap", "metric": "auc", "column": "dest", "limit": 0.1}, "'dest' is not a slice"),
    ],
)
def test_a_gate_that_cannot_be_judged_is_refused_before_any_compute(
    gate: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        check_policy(_policy(**gate), "binary", ("origin", {"month": "text(month)"}))


def test_a_slice_gate_without_slices_is_refused() -> None:
    policy = _policy(kind="slices", metric="auc", margin=0.1)
    with pytest.raises(ConfigError, match="slices is empty"):
        check_policy(policy, "binary", ())
    check_policy(policy, "binary", ({"month": "text(month)"},))


def test_the_flight_delay_policy_suits_its_task() -> None:
    check_policy(load(PolicyConfig, "configs/policies/flight_delay.yaml"), "binary", ("origin",))


# The gates on simulated models


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
        verdict = _verdict(_evaluation(part), kind="champion", metric="auc", margin=0)
        failed += verdict.value == "fail"
    assert failed / 1000 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 1000)


def test_the_champion_against_itself_always_passes() -> None:
    rng = np.random.default_rng(7)
    y_N, score_N, _ = _two_models(rng, 1000)
    for _ in range(100):
        drawn = rng.integers(0, 1000, 1000)
        part = _compared("", y_N[drawn], score_N[drawn], score_N[drawn])
        verdict = _verdict(_evaluation(part), kind="champion", metric="auc", margin=0)
        assert verdict.value == "pass"


def test_a_candidate_trained_on_shuffled_labels_fails() -> None:
    rng = np.random.default_rng(9)
    y_N, champion_N, _ = _two_models(rng, 5000)
    part = _compared("", y_N, rng.permutation(champion_N), champion_N)
    floor = _verdict(_evaluation(part), kind="floor", metric="auc", limit=0.7)
    champion = _verdict(_evaluation(part), kind="champion", metric="auc", margin=0.005)
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
    evaluation = _evaluation(overall, *parts)
    assert _verdict(evaluation, kind="champion", metric="auc", margin=0.005).value == "pass"
    verdict = _verdict(evaluation, kind="slices", metric="auc", margin=0.005)
    assert verdict.value == "fail"
    assert "carrier=3 (" in verdict.reason
    verdict = _verdict(evaluation, kind="slices", metric="auc", margin=0.02)
    assert verdict.value != "pass"
