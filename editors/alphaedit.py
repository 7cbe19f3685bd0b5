"""AlphaEdit: MEMIT's change, kept to directions in which ordinary text has next to no keys.

Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models" (ICLR 2025), section 3.
All corrections are solved together from the base here, so there are no earlier edits to keep (K_p is empty).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editors.key_statistics import KeyStatistics
from editors.protocol import Progress
from editors.solve import Regulariser, ridge_solve
from editors.subject_editing import Job, SubjectConfig, SubjectEditor, regulariser, spread_residual


@dataclass(frozen=True)
class AlphaEditConfig(SubjectConfig):
    """How AlphaEdit edits; see `SubjectConfig`.

    Attributes:
        null_share: most of the trace of C that the directions open to edits hold; the paper's fixed
            eigenvalue of 0.01 means something else on every model.
        strength: ridge, as a multiple of the energy that an ordinary key has in those directions.
    """

    null_share: float = 0.1
    strength: float = 1.0


class AlphaEdit(SubjectEditor):
    """The editor."""

    name: ClassVar[str] = "alphaedit"
    depth: ClassVar[tuple[float, float]] = (1 / 7, 2 / 7)

    def __init__(
        self, config: AlphaEditConfig | None = None, statistics: KeyStatistics | None = None
    ) -> None:
        self.alphaedit = config or AlphaEditConfig()
        super().__init__(self.alphaedit, statistics)

    def _solve(self, job: Job, progress: Progress) -> None:
        spread_residual(job, self.config.value, self.shift_for, progress)

    def shift_for(self, keys: Tensor, residual: Tensor, moment: Tensor) -> Tensor:
        """R K' P (K K' P + L2 I)^-1, transposed (equation 14 without K_p): (d_in, d_out), fp64.

        With P = U U', that is U applied to the ridge solution for the keys' coordinates U'k.
        """
        basis, energy = null_space(moment, self.alphaedit.null_share)
        ridge = Regulariser(torch.eye(basis.shape[1], dtype=keys.dtype))
        strength = torch.as_tensor(self.alphaedit.strength * energy, dtype=keys.dtype)
        return basis @ ridge_solve(keys @ basis, residual, ridge, strength).shift


def null_space(moment: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Orthonormal directions (d_in, m) with the least of C, together at most `share` of its trace.

    There is always one. The second is what an ordinary key's squared length is within them.
    """
    values, vectors = torch.linalg.eigh(regulariser(moment).matrix)
    held = values.clamp_min(0).cumsum(0)
    count = max(int((held <= share * held[-1]).sum()), 1)
    return vectors[:, :count], held[count - 1]
