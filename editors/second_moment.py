"""Second moments of layer inputs: what an edit must not disturb, as a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def second_moment(rows: Tensor) -> Tensor:
    """Mean of u u' over the rows u of `rows` (rows, dim): (dim, dim); zero without rows."""
    return rows.T @ rows / max(len(rows), 1)


def compress(matrix: Tensor, rank: int) -> LowRank:
    """The nearest `factors @ factors.T + rest * I` with `rank` factors.

    The rest is the mean of the eigenvalues left out, so the trace is kept.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    first = max(len(values) - rank, 0)
    rest = values[:first].mean().clamp_min(0) if first else values.new_zeros(())
    weights = (values[first:] - rest).clamp_min(0).sqrt()
    return LowRank((vectors[:, first:] * weights).float(), rest.float())


@dataclass(frozen=True)
class LowRank:
    """A symmetric matrix `factors @ factors.T + rest * I`, never written out: (dim, rank) and a scalar."""

    factors: Tensor
    rest: Tensor

    @property
    def matrix(self) -> Tensor:
        """The matrix itself: (dim, dim)."""
        factors = self.factors.float()
        return factors @ factors.T + self.rest.float() * torch.eye(len(factors), device=factors.device)

    def plus(self, other: LowRank, weight: float) -> LowRank:
        """The sum of this matrix and `weight` > 0 times another of its size."""
        factors = torch.cat([self.factors.float(), weight**0.5 * other.factors.float()], 1)
        return LowRank(factors, self.rest.float() + weight * other.rest.float())

    def damped(self, damping: float = 1e-3) -> LowRank:
        """The matrix with `damping` times the mean of its diagonal added there, or times 1 if that is 0."""
        mean = self.factors.float().square().sum() / len(self.factors) + self.rest.float()
        return LowRank(
            self.factors, self.rest + damping * torch.where(mean == 0, torch.ones_like(mean), mean)
        )
