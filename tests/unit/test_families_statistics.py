"""Statistics of columns: the same bits whatever the blocks, and right."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayapp.families.statistics import (
    NumberSummary,
    Spread,
    exact_sum,
    merge_all,
    merge_spreads,
)

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)


@given(st.lists(finite, max_size=40))
def test_exact_sum_is_the_rational_sum(values: list[float]) -> None:
    assert exact_sum(np.array(values, dtype=np.float64)) == sum(map(Fraction, values))


@given(st.lists(finite | st.just(math.nan), min_size=1, max_size=60), st.integers(1, 7))
def test_blocks_change_nothing(values: list[float], num_blocks: int) -> None:
    x_N = np.array(values, dtype=np.float64)
    parts = np.array_split(x_N, num_blocks)
    whole = NumberSummary.of(x_N)
    merged = merge_all([{"x": NumberSummary.of(part)} for part in reversed(parts)])["x"]
    assert merged == whole
    spread = Spread.of(x_N, whole)
    spreads = merge_spreads([{"x": Spread.of(part, whole)} for part in parts])["x"]
    assert spreads.std(whole) == spread.std(whole)
    assert spreads.bins(whole, 20) == spread.bins(whole, 20)


@pytest.mark.parametrize(
    "x_N",
    [
        np.random.default_rng(1).normal(1013, 3, 20_000),
        np.random.default_rng(2).lognormal(0, 3, 20_000),
        np.random.default_rng(3).integers(0, 24, 20_000).astype(float),
        np.random.default_rng(4).choice([0.0, 0.0, 0.0, 1.0], 20_000),
        np.full(100, 5.0),
    ],
    ids=["offset", "skewed", "whole", "flag", "constant"],
)
def test_bins_hold_the_rows_they_say(x_N: np.ndarray) -> None:
    summary = NumberSummary.of(x_N)
    spread = Spread.of(x_N, summary)
    edges, counts = spread.bins(summary, 20)
    assert len(edges) == len(counts) + 1
    assert sum(counts) == len(x_N)
    assert summary.mean == pytest.approx(x_N.mean(), rel=1e-12)
    assert spread.std(summary) == pytest.approx(x_N.std() or 1.0, rel=1e-9)
    if x_N.std():
        found, _ = np.histogram(x_N, edges)
        assert np.abs(found - counts).max() <= 0.001 * len(x_N)


def test_missing_and_infinite_are_counted_apart() -> None:
    summary = NumberSummary.of(np.array([1.0, math.nan, math.inf, 3.0]))
    assert (summary.num_values, summary.num_missing, summary.low, summary.high) == (
        2,
        2,
        1.0,
        3.0,
    )


def test_a_column_without_values_has_no_bins() -> None:
    summary = NumberSummary.of(np.array([math.nan]))
    spread = Spread.of(np.array([math.nan]), summary)
    assert spread.bins(summary, 20) == ((), ())
    assert (summary.mean, spread.std(summary)) == (0.0, 1.0)
