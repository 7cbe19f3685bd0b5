from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.statistics import (
    bootstrap_mean,
    bootstrap_quantile,
    bootstrap_ratio_of_sums,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (interval.value, interval.n) == (successes / n, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_nothing_observed_says_nothing() -> None:
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high, nothing.n) == (0.0, 1.0, 0)
    assert math.isnan(bootstrap_mean([]).low)
    assert bootstrap_quantile([], 0.95).n == 0


@pytest.mark.parametrize(("successes", "n"), [(2, 1), (-1, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(successes, n)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_estimate(counts: tuple[int, int]) -> None:
    interval = wilson(*counts)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high - interval.low > 0


def test_bootstrap_of_the_mean_agrees_with_theory() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    interval = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.03
    )


def test_bootstrap_of_a_quantile_and_of_a_ratio() -> None:
    values = np.arange(1001) / 1000
    assert bootstrap_quantile(values, 0.95).value == pytest.approx(0.95)
    ratio = bootstrap_ratio_of_sums([3.0, 1.0, 4.0], [1.0, 1.0, 2.0])
    assert ratio.value == 2.0
    assert 1.0 <= ratio.low < 2.0 < ratio.high <= 3.0


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.1, 0.9, 0.4, 0.7, 0.2]
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)


@pytest.mark.parametrize("values", [[0.0], [0.3, 0.3, 0.3], [math.inf, 1.0], [math.inf, math.inf]])
def test_degenerate_samples_are_silent(values: list[float]) -> None:
    interval = bootstrap_mean(values)
    assert interval.low == interval.value == interval.high


def test_an_infinite_value_leaves_the_interval_open() -> None:
    interval = bootstrap_quantile([0.0] * 99 + [math.inf], 0.95)
    assert (interval.value, interval.high) == (0.0, math.inf)


def test_one_missing_value_spoils_the_figure() -> None:
    assert math.isnan(bootstrap_mean([1.0, math.nan, 1.0]).value)
