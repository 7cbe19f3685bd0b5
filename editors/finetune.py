"""Fine-tuning as an editor: FT-M, with a divergence term on prompts that must stay, or within a box.

Cross-entropy on every answer token and on nothing else, on a few matrices, until each correction is the
model's greedy answer. Nothing is trained beforehand; an edit costs more than a trained editor's.

The field's variants are settings of one editor: FT-M has no divergence term (`locality_weight` 0), FT+KL has
one (Mitchell et al. 2022), and FT+L keeps every weight within a distance of its original (Zhu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editors.capture import editing, frozen
from editors.delta import Delta
from editors.descent import Descent, DescentConfig
from editors.gather import restored
from editors.protocol import Kept, Progress, WeightlessEditor, no_progress, provenance
from editors.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class FinetuneConfig(DescentConfig):
    """How fine-tuning is done.

    Attributes:
        limit: the furthest any weight may move (the L-infinity norm of the shift), as a share of the root
            mean square of its matrix; None for any distance.
    """

    limit: float | None = None


class Finetune(WeightlessEditor):
    """The editor; it has no weights of its own."""

    name = "finetune"
    default = FinetuneConfig()

    def __init__(self, config: FinetuneConfig | None = None) -> None:
        self.config = config or self.default

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
        manifest = provenance(self)
        if not requests:
            return Delta({}, manifest)
        config = self.config
        descent = Descent(model, tokenizer, requests, keep, config)
        with editing(model), restored(model, descent.modules) as originals, frozen(model):
            # Steps are taken in fp32: most are too small to change a weight of half precision by themselves.
            wanted = {name: original.float().clone() for name, original in originals.items()}
            scales = {name: float(weight.square().mean().sqrt()) for name, weight in wanted.items()}
            for name in wanted:
                model.get_parameter(name).requires_grad_(True)
            optimiser = torch.optim.Adam(
                [
                    {"params": [weight], "lr": config.learning_rate * scales[name]}
                    for name, weight in wanted.items()
                ]
            )

            def step() -> None:
                _take_gradients(model, wanted)
                optimiser.step()
                with torch.no_grad():
                    for name, weight in wanted.items():
                        if config.limit is not None:
                            original, furthest = originals[name].float(), config.limit * scales[name]
                            weight.clamp_(original - furthest, original + furthest)
                        model.get_parameter(name).copy_(weight)

            descent.run(descent.answered, step, progress)
            shifts = {name: wanted[name] - original.float() for name, original in originals.items()}
        delta = Delta(shifts, manifest)
        delta.check_finite()
        return delta


class PlainFinetune(Finetune):
    """FT-M: the loss of the corrections and nothing else."""

    name = "finetune-m"
    default = FinetuneConfig(locality_weight=0.0)


class BoundedFinetune(Finetune):
    """FT+L: what keeps the rest of the model is that no weight goes far."""

    name = "finetune-linf"
    default = FinetuneConfig(locality_weight=0.0, limit=0.02)


def _take_gradients(model: PreTrainedModel, wanted: Mapping[str, Tensor]) -> None:
    """Move the gradients of the model's parameters to the fp32 weights that stand for them."""
    for name, weight in wanted.items():
        parameter = model.get_parameter(name)
        weight.grad = None if parameter.grad is None else parameter.grad.float()
        parameter.grad = None
