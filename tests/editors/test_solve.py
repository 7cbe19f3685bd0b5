"""The ridge solve against a dense one in double precision, and its adjoint against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editors.second_moment import LowRank
from editors.solve import NormalEquations, Regulariser, ridge_solve

# Fewer tokens than inputs, as many, more; and one of each.
SHAPES = [(5, 12, 4), (12, 12, 4), (30, 12, 4), (1, 12, 3), (7, 1, 2)]


def problem(tokens: int, d_in: int, d_out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Regulariser]:
    generator = torch.Generator().manual_seed(tokens)
    keys = torch.randn(tokens, d_in, generator=generator, dtype=dtype)
    values = torch.randn(tokens, d_out, generator=generator, dtype=dtype)
    moment = torch.randn(3 * d_in, d_in, generator=generator, dtype=dtype)
    return keys, values, Regulariser.damped(moment.T @ moment / len(moment))


def dense(keys: Tensor, values: Tensor, matrix: Tensor, strength: Tensor) -> Tensor:
    keys, values, matrix, strength = (t.double() for t in (keys, values, matrix, strength))
    return torch.linalg.solve(keys.T @ keys + strength * matrix, keys.T @ values)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strength", [0.01, 1.0, 50.0])
def test_shift_is_the_dense_solution(shape: tuple[int, int, int], strength: float) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-4)):
        keys, values, regulariser = problem(*shape, dtype)
        solution = ridge_solve(keys, values, regulariser, torch.tensor(strength, dtype=dtype))
        expected = dense(keys, values, regulariser.matrix, solution.strength)
        torch.testing.assert_close(solution.shift.double(), expected, rtol=tolerance, atol=tolerance)
        # The system that was factored is the smaller of the two.
        assert len(solution.factor) == min(shape[0], shape[1])


def low_rank(d_in: int, rank: int = 3) -> LowRank:
    generator = torch.Generator().manual_seed(d_in)
    return LowRank(torch.randn(d_in, rank, generator=generator), torch.tensor(0.5))


@pytest.mark.parametrize("shape", [*SHAPES, (3, 12, 4), (6, 12, 4), (7, 12, 4)], ids=str)
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("rank", [0, 3])
def test_rows_in_batches_give_the_same_shift(shape: tuple[int, int, int], pieces: int, rank: int) -> None:
    """Whether the system that is solved is one over rows or one over inputs."""
    keys, values, _ = problem(*shape, torch.float32)
    stay = low_rank(shape[1], rank)
    equations = NormalEquations(shape[1], shape[2])
    for some_keys, some_values in zip(keys.chunk(pieces), values.chunk(pieces), strict=False):
        equations.add(some_keys, some_values, weight=2.0)
    # Two rows as they are weigh what one of twice the weight does.
    twice = torch.cat([keys, keys]), torch.cat([values, values])
    expected = dense(*twice, stay.matrix, torch.tensor(1.5))
    shift = equations.solve(stay, torch.tensor(1.5))
    torch.testing.assert_close(shift.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [8, 3])
def test_rows_without_values_are_asked_to_stay(rows: int) -> None:
    keys, values, _ = problem(8, 24, 4, torch.float32)
    stay = low_rank(24)
    free, bound = NormalEquations(24, 4), NormalEquations(24, 4)
    for equations in (free, bound):
        equations.add(keys[:rows], values[:rows])
    bound.add(keys[rows:], weight=1e4)
    moved = [(keys[rows:] @ e.solve(stay, torch.tensor(0.1))).norm() for e in (free, bound)]
    assert moved[1] <= 0.01 * moved[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adjoint_against_finite_differences(shape: tuple[int, int, int]) -> None:
    keys, values, regulariser = problem(*shape, torch.float64)
    strength = torch.tensor(0.7, dtype=torch.float64)
    weights = torch.randn(shape[1], shape[2], dtype=torch.float64, generator=torch.Generator().manual_seed(9))

    def loss(values: Tensor, log_strength: Tensor) -> float:
        return float((weights * dense(keys, values, regulariser.matrix, log_strength.exp())).sum())

    solution = ridge_solve(keys, values, regulariser, strength)
    by_values, by_strength = solution.adjoint(weights)
    step = 1e-5
    for row, column in [(0, 0), (shape[0] - 1, shape[2] - 1), (shape[0] // 2, 0)]:
        bump = torch.zeros_like(values)
        bump[row, column] = step
        difference = loss(values + bump, strength.log()) - loss(values - bump, strength.log())
        assert float(by_values[row, column]) == pytest.approx(difference / (2 * step), rel=1e-6, abs=1e-9)
    up, down = (loss(values, strength.log() + s) for s in (step, -step))
    assert float(by_strength) == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)


def test_more_weight_on_what_must_stay_moves_less() -> None:
    keys, values, regulariser = problem(5, 12, 4, torch.float64)
    moved = [
        float((s.T @ regulariser.matrix @ s).trace())
        for s in (
            ridge_solve(keys, values, regulariser, torch.tensor(x, dtype=torch.float64)).shift
            for x in (1e-6, 0.1, 10.0)
        )
    ]
    assert moved[0] > moved[1] > moved[2]
    exact = ridge_solve(keys, values, regulariser, torch.tensor(1e-9, dtype=torch.float64)).shift
    torch.testing.assert_close(keys @ exact, values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokens", [3, 30])
def test_what_is_not_finite_is_refused(tokens: int) -> None:
    keys, values, regulariser = problem(tokens, 12, 4, torch.float32)
    keys[1, 2] = torch.nan
    with pytest.raises(ValueError, match="singular or not finite"):
        ridge_solve(keys, values, regulariser, torch.tensor(1.0))


def test_a_regulariser_that_is_not_finite_is_refused() -> None:
    keys, values, regulariser = problem(3, 12, 4, torch.float32)
    broken = Regulariser.damped(regulariser.matrix * torch.nan)
    with pytest.raises(ValueError, match="singular or not finite"):
        ridge_solve(keys, values, broken, torch.tensor(1.0))


def test_a_singular_system_is_refused() -> None:
    keys, values, regulariser = problem(30, 12, 4, torch.float32)
    keys[:, 4] = 0
    nothing = Regulariser(torch.zeros_like(regulariser.matrix))
    with pytest.raises(ValueError, match="singular or not finite"):
        ridge_solve(keys, values, nothing, torch.tensor(1.0))


def test_damping_makes_any_second_moment_usable() -> None:
    """Keys of one example, and of none at all, give second moments of rank one and zero."""
    keys, values, _ = problem(3, 12, 4, torch.float32)
    for moment in (keys[:1].T @ keys[:1], torch.zeros(12, 12)):
        solution = ridge_solve(keys, values, Regulariser.damped(moment), torch.tensor(1.0))
        assert torch.isfinite(solution.shift).all()
