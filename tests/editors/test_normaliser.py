"""Running statistics against numpy, however the rows were cut into batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from editors.normaliser import RunningMoments

ROWS = np.random.default_rng(0).normal([3.0, -200.0, 1e-3], [1.0, 50.0, 1e-3], size=(24, 3))


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 24), max_size=30), scale=st.sampled_from([1e-9, 1.0, 1e6]))
@example(cuts=list(range(25)), scale=1.0)  # one row at a time
@example(cuts=[], scale=1.0)
def test_any_split_into_batches_gives_the_whole(cuts: list[int], scale: float) -> None:
    moments = RunningMoments(3)
    data = ROWS * scale
    edges = [0, *sorted(cuts), 24]
    for first, last in itertools.pairwise(edges):
        moments.update(torch.tensor(data[first:last]))
    assert int(moments.count) == 24
    np.testing.assert_allclose(moments.mean.numpy(), data.mean(0), rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(moments.deviation.numpy(), data.std(0, ddof=1), rtol=1e-6)
    expected = (data - data.mean(0)) / data.std(0, ddof=1)
    np.testing.assert_allclose(moments(torch.tensor(data)).numpy(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2), min_size=0, max_size=6),
    cut=st.integers(0, 6),
)
def test_never_nan(rows: list[list[float]], cut: int) -> None:
    moments = RunningMoments(2)
    for part in (rows[:cut], rows[cut:]):
        moments.update(torch.tensor(part, dtype=torch.float32).reshape(-1, 2))
    assert torch.isfinite(moments.deviation).all()
    assert (moments.deviation > 0).all()
    for probe in (torch.tensor(rows, dtype=torch.float32).reshape(-1, 2), torch.zeros(1, 2)):
        assert torch.isfinite(moments(probe)).all()


def test_half_precision_stays_finite() -> None:
    moments = RunningMoments(2)
    moments.update(torch.tensor([[1.0, 300.0], [2.0, -300.0]], dtype=torch.bfloat16))
    normalised = moments(torch.tensor([[3.0, 0.0]], dtype=torch.bfloat16))
    assert normalised.dtype == torch.bfloat16
    assert torch.isfinite(normalised).all()


def test_before_two_rows_nothing_is_scaled() -> None:
    moments = RunningMoments(2)
    row = torch.tensor([[3.0, -4.0]])
    assert torch.equal(moments(row), row)
    moments.update(row)
    assert torch.equal(moments.deviation, torch.ones(2, dtype=torch.float64))
    assert torch.equal(moments(row), torch.zeros(1, 2))


@pytest.mark.parametrize("others", [True, False], ids=["beside others", "alone"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678, 1e-6])
def test_a_constant_dimension_is_left_at_its_scale(constant: float, others: bool) -> None:
    """Rounding in the statistics must not pass for variance, and blow a new value up."""
    moments = RunningMoments(2 if others else 1)
    rows = torch.full((50, 2 if others else 1), constant)
    if others:
        rows[:, 1] = torch.linspace(-1, 1, 50)
    for row in rows.split(7):
        moments.update(row)
    probe = rows[:1].clone()
    probe[0, 0] += 0.5
    assert float(moments(probe)[0, 0]) == pytest.approx(0.5, rel=1e-2)
