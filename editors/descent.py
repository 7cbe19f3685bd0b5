"""Gradient descent on requests until the model answers them: what fine-tuning and LoRA share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editors.gather import answered_exactly, encode_kept, encode_requests
from editors.locate import default_modules
from editors.model_kinds import kind_of
from editors.objective import Weighted, as_many_as_fit, log_probabilities, weighted_backward
from editors.protocol import Kept, Progress
from editors.replay import PrefixCache
from editors.requests import EditRequest, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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


class Descent:
    """One descent: the matrices that it changes, what they must come to answer, and what must stay.

    Args:
        model: as it is now, its answers are what must stay.
        tokenizer: of the model.
        requests: what it must answer, equivalents included.
        keep: prompts with the answers that must stay.
        config: how.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept],
        config: DescentConfig,
    ) -> None:
        kind = kind_of(model)
        self.modules = default_modules(model, config.modules)
        self._model, self._config, self._pad = model, config, pad_id(tokenizer)
        self._examples = encode_requests(tokenizer, requests, kind)
        self._kept = encode_kept(tokenizer, keep, kind) if config.locality_weight else []
        self._cache = PrefixCache(model, self.modules)

    def answered(self) -> list[bool]:
        """Whether the model as it is now answers each phrasing."""
        return answered_exactly(self._model, self._examples, self._pad, self._cache)

    def run(self, answered: Callable[[], list[bool]], step: Callable[[], None], progress: Progress) -> None:
        """Descend on the phrasings that are not answered yet, until all are or the epochs are spent.

        Args:
            answered: whether the model, as it would be written, answers each phrasing.
            step: use the gradients and clear them; gradients are required of what is to be fitted.
            progress: called with (epoch, epochs, note).
        """
        config, rng = self._config, random.Random(self._config.seed)
        kept = as_many_as_fit(self._model, self._kept, self._pad, config.seed)
        references = log_probabilities(self._model, kept, self._pad, self._cache)
        for epoch in range(config.epochs):
            right = answered()
            progress(epoch, config.epochs, f"{sum(right)} of {len(right)} phrasings right")
            # What is right already is left alone, which is what keeps the damage small.
            wrong = [example for example, ok in zip(self._examples, right, strict=True) if not ok]
            if not wrong:
                break
            rng.shuffle(wrong)
            for start in range(0, len(wrong), config.batch):
                chosen = wrong[start : start + config.batch]
                stay = rng.sample(kept, min(config.kept, len(kept)))
                weighted: list[Weighted] = [(e, 1.0 / len(chosen), None) for e in chosen]
                weighted += [(e, config.locality_weight / len(stay), references[e]) for e in stay]
                weighted_backward(self._model, weighted, self._pad, self._cache)
                step()
