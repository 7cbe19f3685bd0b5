"""Second moments of layer inputs: what an edit must not disturb, as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def second_moment(rows: Tensor) -> Tensor:
    """Mean of u u' over the rows u of `rows` (rows, dim): (dim, dim); zero without rows."""
    return rows.T @ rows / max(len(rows), 1)


def compress(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest `factors @ factors.T + rest * I` with `rank` factors: (dim, rank) and a scalar.

    The rest is the mean of the eigenvalues left out, so the trace is kept.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    first = max(len(values) - rank, 0)
    rest = values[:first].mean().clamp_min(0) if first else values.new_zeros(())
    weights = (values[first:] - rest).clamp_min(0).sqrt()
    return (vectors[:, first:] * weights).float(), rest.float()


def expand(factors: Tensor, rest: Tensor) -> Tensor:
    """The matrix that `compress` kept: (dim, dim)."""
    factors = factors.float()
    return factors @ factors.T + rest.float() * torch.eye(len(factors), device=factors.device)
