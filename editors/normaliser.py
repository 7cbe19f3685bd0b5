"""Running mean and standard deviation of editor inputs, kept with the editor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Per-dimension running mean and variance, merged batch by batch (Chan, Golub and LeVeque, 1983).

    A batch of one row is as good as any: it adds no variance of its own.
    """

    count: Tensor
    mean: Tensor
    sum_of_squares: Tensor  # of deviations from the mean

    def __init__(self, dim: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device=device))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64, device=device))
        self.register_buffer("sum_of_squares", torch.zeros(dim, dtype=torch.float64, device=device))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Merge `rows` (rows, dim) into the statistics."""
        n = rows.shape[0]
        if n == 0:
            return
        rows = rows.double()
        mean = rows.mean(0)
        sum_of_squares = (rows - mean).square().sum(0)
        total = self.count + n
        difference = mean - self.mean
        self.sum_of_squares += sum_of_squares + difference.square() * (self.count * n / total)
        self.mean += difference * (n / total)
        self.count.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation (dim,); 1 before two rows were seen, and for dimensions that never vary."""
        if self.count < 2:
            return torch.ones_like(self.mean)
        variance = self.sum_of_squares / (self.count - 1)
        # A dimension that hardly varies would be blown up to noise; leave it at its own scale.
        floor = 1e-12 * variance.mean().clamp_min(1e-30)
        return torch.where(variance > floor, variance, torch.ones_like(variance)).sqrt()

    def forward(self, rows: Tensor) -> Tensor:
        """`rows` (rows, dim) with zero mean and unit variance under the running statistics."""
        return ((rows - self.mean.to(rows.dtype)) / self.deviation.to(rows.dtype)).to(rows.dtype)
