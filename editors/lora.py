"""LoRA as an editor, through the PEFT library (Hu et al. 2022): low-rank adapters fitted on the requests.

The same objective as fine-tuning, on adapters beside the matrices instead of on the matrices themselves; the
delta is what merging the adapters would add.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from editors.capture import editing, frozen
from editors.delta import Delta, LowRank, applied
from editors.descent import Descent, DescentConfig
from editors.locate import EditableModule
from editors.protocol import Kept, Progress, WeightlessEditor, no_progress, provenance
from editors.requests import EditRequest

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "mendflow"


@dataclass(frozen=True)
class LoraConfig(DescentConfig):
    """How the adapters are fitted.

    Attributes:
        rank: of the adapters.
    """

    rank: int = 8


class Lora(WeightlessEditor):
    """The editor; it has no weights of its own."""

    name = "lora"

    def __init__(self, config: LoraConfig | None = None) -> None:
        self.config = config or LoraConfig()

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
        modules = descent.modules
        with editing(model), frozen(model), adapted(model, modules, config) as adapters:
            optimiser = torch.optim.Adam(_parameter_groups(model, modules, config.learning_rate))

            def answered() -> list[bool]:
                # Asked of the weights as they would be written, which half precision rounds.
                with _merged(model, adapters, _shifts(model, modules)):
                    return descent.answered()

            def step() -> None:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

            descent.run(answered, step, progress)
            delta = Delta(_shifts(model, modules), manifest)
        delta.check_finite()
        return delta


@contextmanager
def adapted(model: nn.Module, modules: Sequence[EditableModule], config: LoraConfig) -> Iterator[LoraModel]:
    """Within, the modules have fp32 adapters that require gradients; on leaving they are themselves again."""
    import peft

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.rank,
        target_modules="|".join(re.escape(module.name) for module in modules),
        fan_in_fan_out=all(module.input_major for module in modules),
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        adapters = peft.LoraModel(model, settings, ADAPTER)
    try:
        for module in modules:
            for factor in _factors(model, module):
                factor.data = factor.data.float()
        yield adapters
    finally:
        adapters.unload()


def _factors(model: nn.Module, module: EditableModule) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, d_in) and B (d_out, rank) of an adapted module, whose output gains x A' B'."""
    adapter: Any = model.get_submodule(module.name)
    return adapter.lora_A[ADAPTER].weight, adapter.lora_B[ADAPTER].weight


def _parameter_groups(
    model: nn.Module, modules: Sequence[EditableModule], learning_rate: float
) -> list[dict[str, Any]]:
    """Both factors with the learning rates at which a step of B moves B A by a share of the matrix.

    An entry of B A moves by the step of B times the norm of a column of A, its random start.
    """
    groups: list[dict[str, Any]] = []
    for module in modules:
        down, up = _factors(model, module)
        weight = model.get_parameter(f"{module.name}.base_layer.weight").detach().float()
        share = learning_rate * float(weight.square().mean().sqrt())
        scale = float(down.detach().square().mean().sqrt())
        groups.append({"params": [down], "lr": learning_rate * scale})
        groups.append({"params": [up], "lr": share / (scale * len(down) ** 0.5)})
    return groups


def _shifts(model: nn.Module, modules: Sequence[EditableModule]) -> dict[str, LowRank]:
    shifts = {}
    for module in modules:
        down, up = (factor.detach().clone() for factor in _factors(model, module))
        left, right = (down.T, up.T) if module.input_major else (up, down)
        shifts[module.parameter] = LowRank(left.contiguous(), right.contiguous())
    return shifts


@contextmanager
def _merged(model: nn.Module, adapters: LoraModel, shifts: dict[str, LowRank]) -> Iterator[None]:
    """Within, the shifts are in the weights and the adapters are silent."""
    delta = Delta(shifts)
    delta.check_finite()
    beneath = {f"{name.removesuffix('weight')}base_layer.weight": s for name, s in delta.shifts.items()}
    adapters.disable_adapter_layers()
    try:
        with applied(model, Delta(beneath)):
            yield
    finally:
        adapters.enable_adapter_layers()
