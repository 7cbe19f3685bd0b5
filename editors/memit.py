"""MEMIT: all requests in one least-squares change of the MLP output maps of several early layers.

Meng et al., "Mass-Editing Memory in a Transformer" (ICLR 2023), section 4 and algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from editors.key_statistics import KeyStatistics
from editors.protocol import Progress
from editors.solve import ridge_solve
from editors.subject_editing import Job, SubjectConfig, SubjectEditor, regulariser, spread_residual


@dataclass(frozen=True)
class MemitConfig(SubjectConfig):
    """How MEMIT edits; see `SubjectConfig`.

    Attributes:
        strength: weight of ordinary text against the edits, per input of a layer. The paper's 15,000 for
            GPT-J's 16,384 inputs is 0.9, its 20,000 for the 6,400 of GPT-2 XL is 3.
        damping: added to the diagonal of C, as a share of its mean. Statistics of a few thousand tokens leave
            directions unseen, in which a change would otherwise cost nothing.
    """

    strength: float = 0.3
    damping: float = 0.1


class Memit(SubjectEditor):
    """The editor."""

    name: ClassVar[str] = "memit"
    depth: ClassVar[tuple[float, float]] = (1 / 7, 2 / 7)

    def __init__(self, config: MemitConfig | None = None, statistics: KeyStatistics | None = None) -> None:
        self.memit = config or MemitConfig()
        super().__init__(self.memit, statistics)

    def _solve(self, job: Job, progress: Progress) -> None:
        spread_residual(job, self.config.value, self.shift_for, progress)

    def shift_for(self, keys: Tensor, residual: Tensor, moment: Tensor) -> Tensor:
        """R K' (c C + K K')^-1, transposed (equation 14): (d_in, d_out), fp64."""
        c = torch.tensor(self.memit.strength * keys.shape[1], dtype=keys.dtype)
        return ridge_solve(keys, residual, regulariser(moment, self.memit.damping), c).shift
