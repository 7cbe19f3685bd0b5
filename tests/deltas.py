"""Deltas of the tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from editors.delta import Delta, LowRank
from tasks.models import ModelFolder

MATRIX = "model.layers.1.mlp.down_proj.weight"


def low_rank(rank: int = 2, seed: int = 0) -> LowRank:
    """A shift of the matrix."""
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(48, rank, generator=generator), torch.randn(rank, 96, generator=generator))


def dense(seed: int) -> torch.Tensor:
    """A shift of the matrix that changes every answer."""
    return torch.randn(48, 96, generator=torch.Generator().manual_seed(seed))


def save_delta(base: ModelFolder, folder: Path, seed: int = 0, **manifest: Any) -> Path:
    """A delta over the base, in this folder."""
    Delta({MATRIX: low_rank(seed=seed)}, {"base_digest": base.digest, **manifest}).save(folder)
    return folder
