"""Gates: each passes on evidence, fails on evidence, and otherwise says what is missing."""

import math
from typing import Any

import pytest
from gate_case import evaluation_of, gate_policy, part_of, verdict_of
from hypothesis import given
from hypothesis import strategies as st

from rayapp.config.load import load
from rayapp.config.release import PolicyConfig
from rayapp.errors import ConfigError
from rayapp.evaluate.estimates import wilson
from rayapp.evaluate.evidence import holm
from rayapp.evaluate.gates import check_policy, decide
from rayapp.schemas.release import Verdict

MARGIN = 0.01


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
    verdict = verdict_of(evaluation_of(part_of()), kind=kind, metric="auc", limit=limit)
    assert verdict.value == expected
    assert f"{limit:g}" in verdict.reason


def test_needed_rows_are_those_at_which_the_interval_clears_the_limit() -> None:
    loss = part_of(metric="log_loss", auc=(0.8, 0.79, 0.81))
    verdict = verdict_of(evaluation_of(loss), kind="ceiling", metric="log_loss", limit=0.805)
    assert verdict.value == "inconclusive"
    assert verdict.needs_rows == pytest.approx(4000, abs=1)
    half = 0.01 / math.sqrt(4.001)
    again = part_of(metric="log_loss", auc=(0.8, 0.8 - half, 0.8 + half), num_rows=4001)
    verdict = verdict_of(evaluation_of(again), kind="ceiling", metric="log_loss", limit=0.805)
    assert verdict.value == "pass"


@pytest.mark.parametrize(("share", "limit"), [(0.0, 0.02), (0.05, 0.06), (0.6, 0.55), (1.0, 0.98)])
def test_needed_rows_of_a_share_are_by_its_score_interval(share: float, limit: float) -> None:
    """At the ends it shrinks with the rows, not with their root."""

    def of(num_rows: int) -> Verdict:
        bounds = wilson(share, math.sqrt(share * (1 - share) / num_rows), num_rows, 0.95)
        part = part_of(metric="accuracy", auc=(share, *bounds), num_rows=num_rows)
        return verdict_of(evaluation_of(part), kind="floor", metric="accuracy", limit=limit)

    needs_rows = of(36).needs_rows
    assert needs_rows is not None
    assert of(needs_rows - 1).value == "inconclusive"
    assert of(needs_rows + 1).value == ("pass" if share > limit else "fail")


def test_a_value_exactly_at_the_limit_says_that_rows_do_not_help() -> None:
    verdict = verdict_of(evaluation_of(part_of()), kind="floor", metric="auc", limit=0.8)
    assert verdict.value == "inconclusive"
    assert verdict.needs_rows is None
    assert "no number of such rows" in verdict.reason


def test_no_interval_is_never_a_pass() -> None:
    for auc in [(0.99, None, None), (None, None, None)]:
        verdict = verdict_of(
            evaluation_of(part_of(auc=auc, num_rows=12)), kind="floor", metric="auc", limit=0.5
        )
        assert verdict.value == "inconclusive"
        assert "12" in verdict.reason


def test_a_higher_policy_confidence_widens_the_interval() -> None:
    gate = {"kind": "floor", "metric": "auc", "limit": 0.789}
    policy = PolicyConfig.model_validate({"confidence": 0.999, "gates": {"g": gate}})
    assert decide(evaluation_of(part_of()), policy)[0].value == "inconclusive"
    assert verdict_of(evaluation_of(part_of()), **gate).value == "pass"


@given(
    st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0, 1), st.floats(0.001, 0.5)
)
def test_a_higher_floor_is_never_easier(
    value: float, down: float, up: float, limit: float, step: float
) -> None:
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    evaluation = evaluation_of(part_of(auc=(value, value - down, value + up)))
    low = verdict_of(evaluation, kind="floor", metric="auc", limit=limit)
    high = verdict_of(evaluation, kind="floor", metric="auc", limit=limit + step)
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
    evaluation = evaluation_of(part_of(difference=difference))
    assert verdict_of(evaluation, kind="champion", metric="auc", margin=MARGIN).value == expected


@pytest.mark.parametrize(
    ("margin", "says"),
    [(0.0, "none of the interval may be worse"), (0.003, "the interval may reach 0.003 worse")],
)
def test_a_difference_of_nothing_is_called_so(margin: float, says: str) -> None:
    evaluation = evaluation_of(part_of(difference=(0.0, -0.005, 0.005)))
    verdict = verdict_of(evaluation, kind="champion", metric="auc", margin=margin)
    assert verdict.value == "inconclusive"
    assert f"auc is as good as that of the champion, ± 0.0050 on the same rows; {says};" in (
        verdict.reason
    )


def test_champion_knows_which_direction_is_better() -> None:
    worse = part_of(metric="log_loss", difference=(0.05, 0.04, 0.06))
    verdict = verdict_of(evaluation_of(worse), kind="champion", metric="log_loss", margin=MARGIN)
    assert verdict.value == "fail"
    assert "worse" in verdict.reason
    better = part_of(metric="log_loss", difference=(-0.05, -0.06, -0.04))
    verdict = verdict_of(evaluation_of(better), kind="champion", metric="log_loss", margin=MARGIN)
    assert verdict.value == "pass"


def test_without_a_champion_there_is_nothing_to_be_worse_than() -> None:
    evaluation = evaluation_of(part_of(), champion=None)
    for gate in ({"kind": "champion"}, {"kind": "slices"}):
        verdict = verdict_of(evaluation, metric="auc", margin=MARGIN, **gate)
        assert verdict.value == "pass"
        assert "no champion" in verdict.reason


def test_a_champion_without_a_difference_is_inconclusive() -> None:
    verdict = verdict_of(evaluation_of(part_of()), kind="champion", metric="auc", margin=MARGIN)
    assert verdict.value == "inconclusive"


# Slices and gaps


def test_slices_fail_by_name_and_leave_small_ones_unjudged() -> None:
    evaluation = evaluation_of(
        part_of(),
        part_of("carrier=AA", difference=(0.0, -0.005, 0.005)),
        part_of("carrier=UA", difference=(-0.05, -0.06, -0.04)),
        part_of("carrier=HA", difference=(-0.5, -0.6, -0.4), num_rows=20),
    )
    verdict = verdict_of(evaluation, kind="slices", metric="auc", margin=MARGIN, min_rows=500)
    assert verdict.value == "fail"
    assert "carrier=UA (0.0500 worse)" in verdict.reason
    assert "carrier=AA" not in verdict.reason
    assert "too small to judge: carrier=HA" in verdict.reason


def test_slices_pass_only_when_each_shows_it() -> None:
    good = part_of("carrier=AA", difference=(0.0, -0.005, 0.005))
    open_ = part_of("carrier=B6", difference=(0.0, -0.03, 0.03))
    gate = {"kind": "slices", "metric": "auc", "margin": MARGIN}
    assert verdict_of(evaluation_of(part_of(), good), **gate).value == "pass"
    verdict = verdict_of(evaluation_of(part_of(), good, open_), **gate)
    assert verdict.value == "inconclusive"
    assert verdict.needs_rows == pytest.approx(9000, abs=1)


def test_slices_that_are_all_too_small_are_inconclusive() -> None:
    part = part_of("carrier=AA", difference=(0.0, 0.0, 0.0), num_rows=10)
    verdict = verdict_of(evaluation_of(part_of(), part), kind="slices", metric="auc", margin=MARGIN)
    assert verdict.value == "inconclusive"


def test_holm_is_the_textbook_procedure() -> None:
    p_values = {"a": 0.001, "b": 0.014, "c": 0.02, "d": 0.9}
    assert holm(p_values, 0.05) == ["a", "b", "c"]
    assert holm({"a": 0.001, "b": 0.03, "c": 0.04, "d": 0.9}, 0.05) == ["a"]


@pytest.mark.parametrize(
    ("limit", "expected"), [(0.2, "pass"), (0.05, "fail"), (0.1, "inconclusive")]
)
def test_gap_is_three_valued(limit: float, expected: str) -> None:
    evaluation = evaluation_of(
        part_of(),
        part_of("origin=JFK", auc=(0.85, 0.84, 0.86)),
        part_of("origin=LGA", auc=(0.80, 0.79, 0.81)),
        part_of("origin=EWR", auc=(0.75, 0.74, 0.76)),
        part_of("month=1", auc=(0.1, 0.09, 0.11)),
        part_of("origin=XXX", auc=(0.1, 0.0, 0.9), num_rows=20),
    )
    verdict = verdict_of(evaluation, kind="gap", metric="auc", column="origin", limit=limit)
    assert verdict.value == expected
    assert "origin=JFK" in verdict.reason
    assert "origin=EWR" in verdict.reason


def test_a_gap_needs_two_slices() -> None:
    evaluation = evaluation_of(part_of(), part_of("origin=JFK"))
    verdict = verdict_of(evaluation, kind="gap", metric="auc", column="origin", limit=0.5)
    assert verdict.value == "inconclusive"


# Latency, acceptance, policy


def test_latency_needs_calls_enough_for_its_percentile() -> None:
    gate = {"kind": "latency", "p95_ms": 5.0}
    assert verdict_of(evaluation_of(part_of(), p95_ms=4), **gate).value == "pass"
    assert verdict_of(evaluation_of(part_of(), p95_ms=6), **gate).value == "fail"
    assert (
        verdict_of(evaluation_of(part_of(), p95_ms=4, num_calls=20), **gate).value == "inconclusive"
    )


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
        check_policy(gate_policy(**gate), "binary", ("origin", {"month": "text(month)"}))


def test_a_slice_gate_without_slices_is_refused() -> None:
    policy = gate_policy(kind="slices", metric="auc", margin=0.1)
    with pytest.raises(ConfigError, match="slices is empty"):
        check_policy(policy, "binary", ())
    check_policy(policy, "binary", ({"month": "text(month)"},))


def test_the_flight_delay_policy_suits_its_task() -> None:
    check_policy(load(PolicyConfig, "configs/policies/flight_delay.yaml"), "binary", ("origin",))
