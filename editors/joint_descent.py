"""Gradient descent on the vectors of all requests at once, in place in the model: memit-joint and patcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from editors.objective import as_many_as_fit, log_probabilities, weighted_backward
from editors.protocol import Progress
from editors.requests import Example
from editors.subject import Placed
from editors.subject_editing import Job, SubjectConfig

# A phrasing, and its weight in the loss.
Phrasing = tuple[Placed, float]
# For how many steps a phrasing that is right is left alone.
_REST = 2


@dataclass(frozen=True)
class JointConfig(SubjectConfig):
    """How the vectors are descended; see `SubjectConfig`.

    Attributes:
        steps: most steps of Adam.
        rate: most that a step changes a vector, as a share of what the layer typically writes at subjects.
        damping: added to the diagonal of a second moment, as a share of its mean.
        enough: loss in nats a token at which a phrasing is left as it is.
        locality_weight: of the divergence of a kept prompt's answer, against the loss of one request.
        kept: kept prompts looked at in a step.
    """

    steps: int = 24
    rate: float = 0.3
    damping: float = 1e-3
    enough: float = 0.02
    locality_weight: float = 1.0
    kept: int = 16


def descend_jointly(
    job: Job,
    config: JointConfig,
    optimiser: torch.optim.Optimizer,
    drawn: Callable[[torch.Generator], Sequence[Phrasing]],
    backward: Callable[[Sequence[Phrasing]], list[float]],
    progress: Progress,
    at_stake: Sequence[Example] | None = None,
) -> None:
    """Descend until a step finds every phrasing right, or the steps are spent.

    Args:
        job: as it is when nothing is added yet, its answers are what must stay.
        config: how.
        optimiser: of the vectors.
        drawn: the phrasings that a step looks at.
        backward: accumulates the gradients of those that are not right; the loss of each, in nats a token.
        progress: called with (step, steps, note).
        at_stake: those of the kept prompts that the vectors can change; by default all.
    """
    at_stake = job.kept if at_stake is None else at_stake
    kept = as_many_as_fit(job.model, at_stake, job.pad, config.seed)
    references = log_probabilities(job.model, kept, job.pad, job.cache)
    generator = torch.Generator().manual_seed(config.seed)
    # A phrasing that is right is left alone for a while: it costs nothing and is disturbed the least.
    rest: dict[Placed, int] = {}
    for step in range(config.steps):
        phrasings = drawn(generator)
        active = [(row, weight) for row, weight in phrasings if not rest.get(row)]
        rest = {row: left - 1 for row, left in rest.items() if left > 1}
        losses = backward(active)
        right = [row for (row, _), loss in zip(active, losses, strict=True) if loss <= config.enough]
        rest |= dict.fromkeys(right, _REST)
        wrong = len(active) - len(right)
        if not wrong and len(active) == len(phrasings):
            break
        progress(step + 1, config.steps, f"{wrong} of {len(phrasings)} phrasings to go")
        if wrong:
            if kept:
                chosen = torch.randperm(len(kept), generator=generator)[: config.kept].tolist()
                share = len(at_stake) / len(job.kept) / len(chosen)
                share *= config.locality_weight * len(job.contexts)
                stay = [(kept[i], share, references[kept[i]]) for i in chosen]
                weighted_backward(job.model, stay, job.pad, job.cache)
            optimiser.step()
        optimiser.zero_grad()
    progress(config.steps, config.steps, "vectors found")
