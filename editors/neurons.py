"""The hidden neurons of a block's MLP: what reads into them, what gates them, what they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editors.locate import EditableModule, editable, is_projection, mlp_output

# Far below where any activation function of language models lets something through.
_CLOSED = -100.0


@dataclass(frozen=True)
class Mlp:
    """The linear maps of one MLP: neurons are act(gate(x)) * up(x), or act(gate(x)) where `up` is None."""

    gate: EditableModule
    up: EditableModule | None
    output: EditableModule


def mlp_of(model: nn.Module, block_name: str) -> Mlp:
    """The MLP of a block, found by structure: which map is gated is tried out.

    Raises:
        ValueError: the block has no MLP of one or two maps in and one out.
    """
    output = mlp_output(model, block_name)
    unknown = ValueError(f"{block_name} has no MLP that neurons can be added to; edit it with another editor")
    if output is None:
        raise unknown
    inputs = []
    for name, module in model.get_submodule(block_name).named_modules():
        if is_projection(module) and "attn" not in name.lower() and "attention" not in name.lower():
            found = editable(model, f"{block_name}.{name}")
            if found.d_out == output.d_in and found.d_in == output.d_out and found.name != output.name:
                inputs.append(found)
    if len(inputs) == 1:
        return Mlp(inputs[0], None, output)
    if len(inputs) != 2:
        raise unknown
    for gate, up in (inputs, inputs[::-1]):
        if _closes(model, gate, up, output):
            return Mlp(gate, up, output)
    raise unknown


def _closes(model: nn.Module, gate: EditableModule, up: EditableModule, output: EditableModule) -> bool:
    """Whether the neurons are silent when `gate` says a large negative number and `up` one."""
    parent: Any = model.get_submodule(_common_parent(gate.name, up.name, output.name))
    heard: list[Tensor] = []
    weight = model.get_parameter(gate.parameter)

    def says(value: float) -> Any:
        return lambda _, __, said: torch.full_like(said, value)

    handles = [
        model.get_submodule(gate.name).register_forward_hook(says(_CLOSED)),
        model.get_submodule(up.name).register_forward_hook(says(1.0)),
        model.get_submodule(output.name).register_forward_pre_hook(lambda _, args: heard.append(args[0])),
    ]
    try:
        with torch.no_grad():
            parent(torch.ones(1, 1, gate.d_in, dtype=weight.dtype, device=weight.device))
    finally:
        for handle in handles:
            handle.remove()
    return bool(heard) and float(heard[0].abs().max()) < 1.0


def _common_parent(*names: str) -> str:
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for here in zip(*parts, strict=False):
        if len(set(here)) > 1:
            break
        shared.append(here[0])
    return ".".join(shared)
