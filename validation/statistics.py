"""Estimates with their 95 % intervals: Wilson for proportions, the bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate, its confidence limits and the number of observations behind it.

    All three figures are NaN where nothing was observed, or where an observation is itself not a number.
    """

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Interval:
    """Share of successes with its Wilson score interval; with n = 0 the share is NaN and the interval [0, 1].

    Raises:
        ValueError: successes is not between 0 and n.
    """
    from scipy.stats import binomtest

    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} is not a proportion")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    limits = binomtest(successes, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Interval(successes / n, float(limits.low), float(limits.high), n)


def bootstrap_mean(values: ArrayLike, seed: int = 0) -> Interval:
    """Mean with its percentile bootstrap interval."""
    return bootstrap((values,), np.mean, seed)


def bootstrap_quantile(values: ArrayLike, quantile: float, seed: int = 0) -> Interval:
    """Quantile (0 to 1; between two observations the higher) with its percentile bootstrap interval."""

    def statistic(sample: NDArray[np.float64], axis: int = -1) -> Any:
        return np.quantile(sample, quantile, axis=axis, method="higher")

    return bootstrap((values,), statistic, seed)


def bootstrap_ratio_of_sums(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> Interval:
    """Sum of the numerators over that of the (positive) denominators, rows resampled as pairs."""

    def statistic(top: NDArray[np.float64], bottom: NDArray[np.float64], axis: int = -1) -> Any:
        return top.sum(axis=axis) / bottom.sum(axis=axis)

    return bootstrap((numerators, denominators), statistic, seed)


def bootstrap(samples: Sequence[ArrayLike], statistic: Callable[..., Any], seed: int) -> Interval:
    """A statistic of one or more paired samples, with the percentile bootstrap interval of resampled rows.

    Constant samples give an interval of no width and a single row gives its own value: how little that says
    is what a gate's minimum number of rows is for. An infinite value leaves the interval open above.

    Args:
        samples: arrays of one length, row i of each belonging together.
        statistic: called as `statistic(*samples, axis=-1)`, vectorised over the other axes.
        seed: the same seed gives the same interval.
    """
    from scipy.stats import bootstrap as scipy_bootstrap

    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    n = len(arrays[0])
    if n == 0 or any(np.isnan(array).any() for array in arrays):
        return Interval(float("nan"), float("nan"), float("nan"), n)
    value = float(statistic(*arrays, axis=-1))
    if not all(np.isfinite(array).all() for array in arrays):
        return Interval(value, value, float("inf"), n)
    # Resampling could only return the estimate itself, and SciPy warns of a degenerate distribution.
    if all(np.ptp(array) == 0 for array in arrays):
        return Interval(value, value, value, n)
    limits = scipy_bootstrap(
        arrays,
        statistic,
        n_resamples=RESAMPLES,
        # Bounds the memory: 500 resamples of a few thousand rows are some tens of megabytes.
        batch=500,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(limits.low), float(limits.high), n)
