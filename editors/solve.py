"""The regularised least-squares step that turns wanted value changes into one weight shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RidgeSolution:
    """S = argmin |K S - V|^2 + strength * tr(S' C S), and what its adjoint needs.

    `shift` is S (d_in, d_out). With C = I this is MALMEN's update (Tan et al. 2024, Eq. 5); with C the
    second moment of inputs that must keep their outputs, tr(S' C S) is the mean squared change of those
    outputs, which is what locality asks for.
    """

    shift: Tensor
    keys: Tensor
    second_moment: Tensor
    strength: Tensor
    factor: Tensor  # Cholesky factor of K'K + strength * C, (d_in, d_in)

    def adjoint(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of a loss with respect to V and to log(strength), from `gradient` = dL/dS.

        M = (K'K + strength C)^-1 dL/dS ;  dL/dV = K M ;  dL/dlog(strength) = -strength <M, C S>.

        Returns:
            (tokens, d_out) and a scalar.
        """
        solved = torch.cholesky_solve(gradient, self.factor)
        by_strength = -self.strength * (solved * (self.second_moment @ self.shift)).sum()
        return self.keys @ solved, by_strength


def ridge_solve(keys: Tensor, values: Tensor, second_moment: Tensor, strength: Tensor) -> RidgeSolution:
    """Solve for the shift that gives `keys` (tokens, d_in) the changes `values` (tokens, d_out).

    Args:
        second_moment: C (d_in, d_in), symmetric positive definite.
        strength: scalar > 0.

    Raises:
        ValueError: the system is not positive definite, or not finite.
    """
    system = keys.T @ keys + strength * second_moment
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed or not torch.isfinite(factor).all():
        raise ValueError("the least-squares system is singular or not finite; raise its strength")
    shift = torch.cholesky_solve(keys.T @ values, factor)
    return RidgeSolution(shift, keys, second_moment, strength, factor)


def damped(second_moment: Tensor, damping: float = 1e-3) -> Tensor:
    """C + damping * mean(diag C) * I: positive definite whatever the rank of C."""
    mean = second_moment.diagonal().mean().clamp_min(torch.finfo(second_moment.dtype).tiny)
    return second_moment + damping * mean * torch.eye(len(second_moment), dtype=second_moment.dtype)
