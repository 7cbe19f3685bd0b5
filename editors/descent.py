"""Gradient descent on requests until the model answers them: what fine-tuning and LoRA share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from editors.objective import Weighted, log_probabilities, weighted_backward
from editors.protocol import Progress
from editors.replay import PrefixCache
from editors.requests import Example


@dataclass(frozen=True)
class DescentConfig:
    """How the descent is done.

    Attributes:
        modules: regular expression over module names; by default MLP outputs of late blocks.
        epochs: most passes over the corrections.
        learning_rate: of Adam, as a share of the root mean square of each matrix, which fits any model.
        batch: corrections in a step.
        kept: prompts that must stay in a step.
        locality_weight: of their divergence against the mean loss of the corrections; 0 leaves them out.
        seed: of everything drawn.
    """

    modules: str | None = None
    epochs: int = 60
    learning_rate: float = 0.02
    batch: int = 32
    kept: int = 16
    locality_weight: float = 1.0
    seed: int = 0


def descend(
    model: nn.Module,
    examples: Sequence[Example],
    kept: Sequence[Example],
    pad: int,
    cache: PrefixCache,
    config: DescentConfig,
    *,
    answered: Callable[[], list[bool]],
    step: Callable[[], None],
    progress: Progress,
) -> None:
    """Descend on the examples that are not answered yet, until all are or the epochs are spent.

    Args:
        model: with gradients required of what is to be fitted; as it was, its answers are what must stay.
        examples: prompts with the answers they must get.
        kept: prompts with the answers that must stay.
        pad: token id to pad with.
        cache: of the blocks that nothing fitted lies in.
        config: how.
        answered: whether the model, as it would be written, answers each example.
        step: use the gradients and clear them.
        progress: called with (epoch, epochs, note).
    """
    rng = random.Random(config.seed)
    kept = list(kept) if config.locality_weight else []
    references = log_probabilities(model, kept, pad, cache)
    for epoch in range(config.epochs):
        right = answered()
        progress(epoch, config.epochs, f"{sum(right)} of {len(right)} phrasings right")
        # What is right already is left alone, which is what keeps the damage small.
        wrong = [example for example, ok in zip(examples, right, strict=True) if not ok]
        if not wrong:
            break
        rng.shuffle(wrong)
        for start in range(0, len(wrong), config.batch):
            chosen = wrong[start : start + config.batch]
            stay = rng.sample(kept, min(config.kept, len(kept)))
            weighted: list[Weighted] = [(e, 1.0 / len(chosen), None) for e in chosen]
            weighted += [(e, config.locality_weight / len(stay), references[e]) for e in stay]
            weighted_backward(model, weighted, pad, cache)
            step()
