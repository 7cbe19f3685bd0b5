"""The regularised least-squares step that turns wanted value changes into one weight shift."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editors.second_moment import LowRank


class UnsolvableError(ValueError):
    """A least-squares system is singular or not finite."""


@dataclass(frozen=True)
class Regulariser:
    """A symmetric positive definite `matrix` C (d_in, d_in), with its inverse when it is first needed."""

    matrix: Tensor

    @cached_property
    def inverse(self) -> Tensor:
        """C^-1 (d_in, d_in); ValueError where C is singular or not finite."""
        return torch.cholesky_inverse(_cholesky(self.matrix))

    @classmethod
    def damped(cls, second_moment: Tensor, damping: float = 1e-3) -> Regulariser:
        """C + damping * mean(diag C) * I: positive definite whatever the rank of C."""
        mean = second_moment.diagonal().mean()
        # Inputs that are all zero, or none at all, leave no scale to go by.
        mean = torch.where(mean == 0, torch.ones_like(mean), mean)
        identity = torch.eye(len(second_moment), dtype=second_moment.dtype, device=second_moment.device)
        return cls(second_moment + damping * mean * identity)


@dataclass(frozen=True)
class RidgeSolution:
    """S = argmin |K S - V|^2 + strength * tr(S' C S), and what its adjoint needs.

    `shift` is S (d_in, d_out). With C = I this is MALMEN's update (Tan et al. 2024); with C the second
    moment of inputs that must keep their outputs, tr(S' C S) is the mean squared change of those outputs.
    """

    shift: Tensor
    keys: Tensor
    regulariser: Regulariser
    strength: Tensor
    factor: Tensor  # Cholesky factor of K'K + strength C, or of strength I + K C^-1 K' (the smaller one)

    @property
    def over_tokens(self) -> bool:
        """Whether the smaller system was the one over tokens."""
        return self.factor.shape[0] == self.keys.shape[0] and len(self.keys) < self.keys.shape[1]

    def solve(self, right: Tensor) -> Tensor:
        """(K'K + strength C)^-1 applied to `right` (d_in, columns)."""
        if not self.over_tokens:
            return torch.cholesky_solve(right, self.factor)
        # Woodbury: A^-1 R = (P R - P K' (strength I + K P K')^-1 K P R) / strength, with P = C^-1.
        projected = self.regulariser.inverse @ right
        correction = torch.cholesky_solve(self.keys @ projected, self.factor)
        return (projected - self.regulariser.inverse @ (self.keys.T @ correction)) / self.strength

    def adjoint(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of a loss with respect to V and to log(strength), from `gradient` = dL/dS.

        M = (K'K + strength C)^-1 dL/dS ;  dL/dV = K M ;  dL/dlog(strength) = -strength <M, C S>.

        Returns:
            (tokens, d_out) and a scalar.
        """
        solved = self.solve(gradient)
        by_strength = -self.strength * (solved * (self.regulariser.matrix @ self.shift)).sum()
        return self.keys @ solved, by_strength


def ridge_solve(keys: Tensor, values: Tensor, regulariser: Regulariser, strength: Tensor) -> RidgeSolution:
    """Solve for the shift that gives `keys` (tokens, d_in) the changes `values` (tokens, d_out).

    Works in tokens x tokens or inputs x inputs, whichever is smaller.

    `strength` is a scalar > 0.

    Raises:
        ValueError: the system is not positive definite, or not finite.
    """
    if len(keys) < keys.shape[1]:
        spread = regulariser.inverse @ keys.T  # P K'
        system = keys @ spread
        system.diagonal().add_(strength)
        factor = _cholesky(system)
        shift = spread @ torch.cholesky_solve(values, factor)
    else:
        factor = _cholesky(keys.T @ keys + strength * regulariser.matrix)
        shift = torch.cholesky_solve(keys.T @ values, factor)
    return RidgeSolution(shift, keys, regulariser, strength, factor)


class NormalEquations:
    """A least-squares step over any number of rows, which come a batch at a time.

    While there are few rows they are kept, and the system to solve is one over rows; K'K (d_in, d_in) and
    K'V (d_in, d_out) take their place as soon as that is smaller.
    """

    def __init__(self, d_in: int, d_out: int, device: torch.device | None = None) -> None:
        self._few = d_in // 2
        self._keys = [torch.zeros(0, d_in, device=device)]
        self._values = [torch.zeros(0, d_out, device=device)]
        self._gram: Tensor | None = None
        self._target = torch.zeros(0, d_out, device=device)

    def add(self, keys: Tensor, values: Tensor | None = None, weight: float = 1.0) -> None:
        """Ask of `keys` (rows, d_in) the changes `values` (rows, d_out); without them, no change."""
        if values is None:
            values = keys.new_zeros(len(keys), self._target.shape[1])
        self._keys.append(weight**0.5 * keys)
        self._values.append(weight**0.5 * values)
        if self._gram is not None or sum(map(len, self._keys)) > self._few:
            self._fold()

    def _fold(self) -> None:
        keys, values = torch.cat(self._keys), torch.cat(self._values)
        if self._gram is None:
            self._gram = keys.new_zeros(keys.shape[1], keys.shape[1])
            self._target = keys.new_zeros(keys.shape[1], values.shape[1])
        self._gram.addmm_(keys.T, keys)
        self._target.addmm_(keys.T, values)
        self._keys, self._values = [keys[:0]], [values[:0]]

    def solve(self, regulariser: LowRank, strength: Tensor) -> Tensor:
        """S = (K'K + strength C)^-1 K'V (d_in, d_out), the shift of `ridge_solve`.

        Over rows it is R' (R R' + strength c I)^-1 [V; 0] with R = [K; sqrt(strength) F'] and C = F F' + c I.

        Raises:
            ValueError: the system is not positive definite, or not finite.
        """
        if self._gram is not None:
            return torch.cholesky_solve(self._target, _cholesky(self._gram + strength * regulariser.matrix))
        keys, values = torch.cat(self._keys), torch.cat(self._values)
        rows = torch.cat([keys, strength.sqrt() * regulariser.factors.T.float()])
        system = rows @ rows.T
        system.diagonal().add_(strength * regulariser.rest)
        right = torch.cat([values, values.new_zeros(len(rows) - len(values), values.shape[1])])
        return rows.T @ torch.cholesky_solve(right, _cholesky(system))


def _cholesky(system: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed) or not torch.isfinite(factor).all():
        raise UnsolvableError(
            "the least-squares system is singular or not finite: are the model's weights finite?"
        )
    return factor
