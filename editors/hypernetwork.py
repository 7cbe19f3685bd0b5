"""The residual low-rank network of MEND, identity at its start (Mitchell et al. 2022, section 3.1, Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRankResidualBlock(nn.Module):
    """h + ReLU(s * (U V h + b) + o), with a scale s and an offset o of its own for every edited matrix."""

    def __init__(self, width: int, rank: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        # Scaled by 1/sqrt(width), so that V h is of order one for inputs of order one at any width.
        self.down = nn.Parameter(torch.randn(width, rank, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(members, width))
        self.offset = nn.Parameter(torch.zeros(members, width))

    def forward(self, hidden: Tensor, member: int) -> Tensor:
        """(rows, width) to (rows, width), for the edited matrix number `member`."""
        mixed = hidden @ self.down @ self.up + self.bias
        # clamp, not relu: at the start the argument is exactly 0, where relu would pass no gradient.
        return hidden + (self.scale[member] * mixed + self.offset[member]).clamp(min=0)


class HyperNetwork(nn.Module):
    """Maps normalised [key; gradient] rows of one shape of matrix to pseudo-keys and pseudo-gradients.

    Args:
        d_in, d_out: shape of the edited matrices that share this network.
        members: how many they are.
    """

    def __init__(self, d_in: int, d_out: int, members: int, rank: int, depth: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.d_in, self.width = d_in, d_in + d_out
        rank = min(rank, self.width)
        self.blocks = nn.ModuleList(
            LowRankResidualBlock(self.width, rank, members, generator) for _ in range(depth)
        )

    def forward(self, rows: Tensor, member: int) -> tuple[Tensor, Tensor]:
        """(tokens, d_in + d_out) to pseudo-keys (tokens, d_in) and pseudo-gradients (tokens, d_out)."""
        for block in self.blocks:
            rows = block(rows, member)
        return rows[:, : self.d_in], rows[:, self.d_in :]
