"""ROME: one rank-one change of one MLP's output map for each request.

Meng et al., "Locating and Editing Factual Associations in GPT" (NeurIPS 2022), section 3.1, with the
consistent keys of C-ROME (Gupta et al. 2024): the key averaged over the contexts is used on both sides of
equation 2. With the prompt's own key on one side, as in the first code, a change can overshoot until the
model is disabled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from editors.key_statistics import KeyStatistics
from editors.protocol import Progress
from editors.subject_editing import Job, SubjectConfig, SubjectEditor, regulariser
from editors.value_optimisation import ValueConfig


@dataclass(frozen=True)
class RomeConfig(SubjectConfig):
    """How ROME edits; see `SubjectConfig`. Its values are sized by the MLP's output, not by the block's."""

    value: ValueConfig = field(
        default_factory=lambda: ValueConfig(steps=16, rate=0.5, clamp=4.0, weight_decay=0.02, prefixes=2)
    )


class Rome(SubjectEditor):
    """The editor. Requests are applied in sequence, each to the model that the earlier ones left."""

    name: ClassVar[str] = "rome"
    depth: ClassVar[tuple[float, float]] = (1 / 6, 1 / 6)

    def __init__(self, config: RomeConfig | None = None, statistics: KeyStatistics | None = None) -> None:
        super().__init__(config or RomeConfig(), statistics)

    def _solve(self, job: Job, progress: Progress) -> None:
        if len(job.modules) != 1:
            raise ValueError(f"ROME edits one module, `modules` names {len(job.modules)}")
        (module,) = job.modules
        inverse = regulariser(job.moments[module.name]).inverse
        done = 0
        for chunk in job.chunks(self.config.value.chunk):
            deltas = job.values(module.name, chunk, self.config.value).double()
            keys, _ = job.read(module.name, chunk)
            added = torch.zeros(module.d_in, module.d_out, dtype=torch.float64)
            for key, delta in zip(keys[module.name].double(), deltas, strict=True):
                # v* - W k, with W as this chunk's earlier requests left it.
                residual = delta - key @ added
                direction = inverse @ key  # C^-1 k*
                added += torch.outer(direction, residual) / (key @ direction)
            job.add(module, added)
            done += len(chunk)
            progress(done, len(job.contexts), "edited")
