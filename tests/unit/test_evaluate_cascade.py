"""The table by which a cascade's limit is chosen."""

import numpy as np
import pytest

from rayapp.evaluate.cascade import CascadePoint, ScoredTwice
from rayapp.evaluate.estimates import measure
from rayapp.schemas.release import Estimate


def scored(num_rows: int = 4000) -> ScoredTwice:
    """Labels by a known probability; the champion knows it, the first model half of its log-odds'
    terms, and both are calibrated."""
    rng = np.random.default_rng(5)
    seen_N, unseen_N = rng.normal(0, 2, num_rows), rng.normal(0, 1.5, num_rows)
    p_N = 1 / (1 + np.exp(-(seen_N + unseen_N)))
    y_N = (rng.random(num_rows) < p_N).astype(np.float64)
    # logistic-normal, by the usual approximation (MacKay 1992, Neural Computation 4:720)
    first_N = 1 / (1 + np.exp(-seen_N / np.sqrt(1 + np.pi * 1.5**2 / 8)))
    return ScoredTwice(
        "binary",
        y_N,
        np.stack([1 - first_N, first_N], axis=1),
        np.stack([1 - p_N, p_N], axis=1),
        first_usd=0.5,
        champion_usd=2.0,
    )


def value(point: CascadePoint, metric: str) -> float:
    return value_of(point.estimates, metric)


def test_a_stricter_limit_hands_on_more_costs_more_and_is_better() -> None:
    points = scored().along([0.5, 0.3, 0.1, 0.01])
    shares = [point.escalated_share for point in points]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert [p.usd_per_1000_rows for p in points] == [0.5 + 2.0 * share for share in shares]
    losses = [value(point, "log_loss") for point in points]
    assert losses == sorted(losses, reverse=True)


def test_the_ends_are_each_model_alone() -> None:
    rows = scored()
    none, everything = rows.along([0.5, 1e-12])
    assert none.estimates == measure("binary", rows.y_N, rows.first_NK, 0.95)
    assert everything.escalated_share > 0.999
    assert value(everything, "auc") == pytest.approx(
        value_of(measure("binary", rows.y_N, rows.champion_NK, 0.95), "auc"), abs=1e-4
    )


def value_of(estimates: tuple[Estimate, ...], metric: str) -> float:
    found = next(one for one in estimates if one.metric == metric)
    assert found.value is not None
    return found.value


def test_the_difference_to_the_champion_is_paired_and_shrinks() -> None:
    loose, strict = scored().along([0.4, 0.05])
    worse = {d.metric: d for d in loose.differences}["log_loss"]
    nearly = {d.metric: d for d in strict.differences}["log_loss"]
    assert worse.low > 0
    assert abs(nearly.value) < worse.value / 10
    assert nearly.high - nearly.low < worse.high - worse.low
