"""Fine-tuning as an editor: FT-M with a divergence term on prompts that must stay (MEND's FT+KL).

Cross-entropy on every answer token and on nothing else, on a few matrices, until each correction is the
model's greedy answer. Nothing is trained beforehand; an edit costs more than a trained editor's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editors.capture import evaluating, frozen
from editors.delta import Delta
from editors.gather import answered_exactly, encode_requests, restored
from editors.locate import default_modules
from editors.objective import Weighted, log_probabilities, weighted_backward
from editors.protocol import Kept, Progress, configuration_digest, no_progress
from editors.replay import PrefixCache
from editors.requests import EditRequest, encode, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class FinetuneConfig:
    """How fine-tuning is done.

    Attributes:
        modules: regular expression over module names; by default MLP outputs of late blocks.
        epochs: most passes over the corrections.
        learning_rate: of Adam, as a share of the root mean square of each matrix, which fits any model.
        batch: corrections in a step.
        kept: prompts that must stay in a step.
        locality_weight: of their divergence against the mean loss of the corrections.
        seed: of the order.
    """

    modules: str | None = None
    epochs: int = 60
    learning_rate: float = 0.02
    batch: int = 32
    kept: int = 16
    locality_weight: float = 1.0
    seed: int = 0


class Finetune:
    """The editor; it has no weights of its own."""

    name = "finetune"

    def __init__(self, config: FinetuneConfig | None = None) -> None:
        self.config = config or FinetuneConfig()

    def configuration(self) -> dict[str, Any]:
        """The configuration."""
        return {"config": asdict(self.config)}

    def digest(self) -> str:
        """SHA-256 over the configuration."""
        return configuration_digest({"editor": self.name, **self.configuration()}, {})

    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """One delta for all requests together, equivalents included; the model is left as it was."""
        manifest = {
            "editor": self.name,
            "editor_digest": self.digest(),
            "editor_configuration": self.configuration(),
        }
        if not requests:
            return Delta({}, manifest)
        config, pad = self.config, pad_id(tokenizer)
        modules = default_modules(model, config.modules)
        cache = PrefixCache(model, modules)
        examples = encode_requests(tokenizer, requests)
        kept = [encode(tokenizer, k.prompt, k.answer, chat=k.chat) for k in keep]
        rng = random.Random(config.seed)
        with evaluating(model), restored(model, modules) as originals, frozen(model):
            references = log_probabilities(model, kept, pad, cache)
            # Steps are taken in fp32: most are too small to change a weight of half precision by themselves.
            wanted = {name: original.float().clone() for name, original in originals.items()}
            for name in wanted:
                model.get_parameter(name).requires_grad_(True)
            optimiser = torch.optim.Adam(
                [
                    {"params": [weight], "lr": config.learning_rate * float(weight.square().mean().sqrt())}
                    for weight in wanted.values()
                ]
            )
            for epoch in range(config.epochs):
                right = answered_exactly(model, examples, pad, cache)
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
                    _step(model, wanted, optimiser)
            shifts = {name: wanted[name] - original.float() for name, original in originals.items()}
        delta = Delta(shifts, manifest)
        delta.check_finite()
        return delta


def _step(model: PreTrainedModel, wanted: Mapping[str, Tensor], optimiser: torch.optim.Adam) -> None:
    """Step the fp32 weights by the model's gradients, and round them into the model."""
    for name, weight in wanted.items():
        parameter = model.get_parameter(name)
        weight.grad = None if parameter.grad is None else parameter.grad.float()
        parameter.grad = None
    optimiser.step()
    with torch.no_grad():
        for name, weight in wanted.items():
            model.get_parameter(name).copy_(weight)
