"""MEMIT with its values optimised together, through the solve that writes them.

MEMIT (Meng et al. 2023) finds each request's value as if it were alone, then spreads it over layers, and the
solve may undo what was found. Here the values of all requests in all edited layers are what is optimised, and
the loss is that of the model with the solved shifts in place, so that requests make room for each other. Keys
are averages behind sampled prefixes too, as in MEMIT, but no prefix is behind what the loss is of: that would
cost several times as much, and locality with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from editors.capture import answer_logits, device_of
from editors.joint_descent import JointConfig, Phrasing, descend_jointly
from editors.key_statistics import KeyStatistics
from editors.objective import backward_of_the_wrong
from editors.protocol import Progress
from editors.requests import TokenBatch
from editors.solve import ridge_solve
from editors.subject_editing import Job, SubjectEditor, block_of, regulariser


@dataclass(frozen=True)
class JointMemitConfig(JointConfig):
    """How values are optimised together; see `JointConfig`.

    Attributes:
        strength: weight of C in the solve, as a share of the keys' own energy under its inverse.
    """

    strength: float = 1.0


class JointMemit(SubjectEditor):
    """The editor."""

    name: ClassVar[str] = "memit-joint"
    depth: ClassVar[tuple[float, float]] = (2 / 15, 1 / 3)

    def __init__(
        self, config: JointMemitConfig | None = None, statistics: KeyStatistics | None = None
    ) -> None:
        self.joint = config or JointMemitConfig()
        super().__init__(self.joint, statistics)

    def _solve(self, job: Job, progress: Progress) -> None:
        config = self.joint
        keys, _ = job.read(block_of(job.model, job.modules[-1]), job.contexts)
        device = device_of(job.model)
        readers, values, groups = {}, {}, []
        for module in job.modules:
            k = keys[module.name].double()
            reader = reader_of(k, job.moments[module.name], config.strength, config.damping)
            readers[module.name] = reader.float().to(device)
            weight = module.shift_from_weight(job.originals[module.parameter].float().cpu())
            scale = (k.float() @ weight).square().mean().sqrt()
            value = torch.zeros(len(k), module.d_out, device=device, requires_grad=True)
            values[module.name] = value
            groups.append({"params": [value], "lr": config.rate * float(scale)})
        optimiser = torch.optim.Adam(groups)
        with written(job.model, readers, values):
            self._descend(job, optimiser, progress)
        for module in job.modules:
            job.add(module, (readers[module.name] @ values[module.name].detach()).cpu())

    def _descend(self, job: Job, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        phrasings = [(row, 1 / c.bare) for c in job.contexts for row in c.rows[: c.bare]]

        def said(_: Sequence[int], batch: TokenBatch) -> Tensor:
            with job.cache.replayed(batch.to(device_of(job.model))):
                return answer_logits(job.model, batch)

        def backward(active: Sequence[Phrasing]) -> list[float]:
            rows = [(row.example, weight) for row, weight in active]
            return backward_of_the_wrong(rows, self.joint.enough, job.pad, said)

        descend_jointly(job, self.joint, optimiser, lambda _: phrasings, backward, progress)


def reader_of(keys: Tensor, moment: Tensor, strength: float, damping: float) -> Tensor:
    """A (d_in, requests), fp64, with which shift S = A V: the ridge solution for values V at the keys."""
    c = regulariser(moment, damping)
    # The mean of k' C^-1 k: what makes `strength` mean the same for any model and any C.
    energy = ((keys @ c.inverse) * keys).sum(1).mean()
    identity = torch.eye(len(keys), dtype=keys.dtype)
    return ridge_solve(keys, identity, c, strength * energy).shift


@contextmanager
def written(model: nn.Module, readers: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, every module's output is what it will be with its shift A V added to its weight."""

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            added = (args[0].float() @ readers[name]) @ values[name]
            return output + added.to(output.dtype)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_for(name)) for name in readers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
