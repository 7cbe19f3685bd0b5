"""Neurons that are added to an MLP: beside its own while they are made, then in its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editors.neurons import Mlp
from editors.widening import Appended


@dataclass(frozen=True)
class NewNeurons:
    """The new neurons of one MLP, one a subject.

    `reads` (neurons, d) makes the gate's input, `opens` (neurons, d) the other factor where there is one, and
    `says` (neurons, d) is what the neuron adds to the MLP's output, times its activation. `typical` is the
    root mean square of what the MLP itself says at a subject.
    """

    mlp: Mlp
    reads: Tensor
    opens: Tensor
    says: Tensor
    typical: float


def silent(mlp: Mlp) -> NewNeurons:
    """One neuron that says nothing."""
    nothing = torch.zeros(1, mlp.gate.d_in)
    return NewNeurons(mlp, nothing, nothing, torch.zeros(1, mlp.output.d_out), 0.0)


def appended(model: nn.Module, new: NewNeurons) -> dict[str, Appended]:
    """What is appended to the parameters of the MLP, by name."""
    result = {}
    for module, rows in ((new.mlp.gate, new.reads), (new.mlp.up, new.opens)):
        if module is None:
            continue
        values = rows.detach().cpu()
        # A Conv1D keeps its weight as (in, out).
        laid_out = Appended(values.T if module.input_major else values, int(module.input_major))
        result[module.parameter] = Appended(laid_out.values.contiguous(), laid_out.dim)
        if getattr(model.get_submodule(module.name), "bias", None) is not None:
            result[f"{module.name}.bias"] = Appended(torch.zeros(len(rows)), 0)
    output, says = new.mlp.output, new.says.detach().cpu()
    values = says if output.input_major else says.T
    result[output.parameter] = Appended(values.contiguous(), int(not output.input_major))
    return result


@contextmanager
def in_place(
    model: nn.Module, new: NewNeurons, heard_by: Callable[[Tensor], None] | None = None
) -> Iterator[None]:
    """Within, the MLP has the new neurons, and its own activation function.

    `heard_by` is told how far each is open (..., neurons) whenever the model reads.
    """
    mlp, heard = new.mlp, []

    def longer(rows: Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return torch.cat([output, nn.functional.linear(args[0], rows.to(output.dtype))], -1)

        return hook

    def shorter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        own, added = args[0].split([mlp.output.d_in, len(new.reads)], -1)
        heard.append(added)
        if heard_by is not None:
            heard_by(added)
        return (own, *args[1:])

    def louder(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + (heard.pop().float() @ new.says).to(output.dtype)

    output = model.get_submodule(mlp.output.name)
    handles = [
        model.get_submodule(mlp.gate.name).register_forward_hook(longer(new.reads)),
        output.register_forward_pre_hook(shorter),
        output.register_forward_hook(louder),
    ]
    if mlp.up is not None:
        handles.append(model.get_submodule(mlp.up.name).register_forward_hook(longer(new.opens)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
