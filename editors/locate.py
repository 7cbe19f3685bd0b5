"""Find the matrices to edit by the structure of a model, never by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

Projection = nn.Module  # an nn.Linear, or a Conv1D, which keeps its weight as (in, out)


@dataclass(frozen=True)
class EditableModule:
    """One linear map of the model: its dotted name, sizes, and how its weight lies in memory."""

    name: str
    d_in: int
    d_out: int
    input_major: bool  # True for Conv1D: weight is (d_in, d_out)

    @property
    def parameter(self) -> str:
        """Name of the weight in the model's parameters."""
        return f"{self.name}.weight"

    def shift_for_weight(self, shift: Tensor) -> Tensor:
        """A (d_in, d_out) shift laid out as the weight is."""
        return shift if self.input_major else shift.T

    def shift_from_weight(self, weight_like: Tensor) -> Tensor:
        """A tensor laid out as the weight is, as (d_in, d_out)."""
        return weight_like if self.input_major else weight_like.T


def is_projection(module: nn.Module) -> bool:
    """Whether the module is a linear map with a two-dimensional weight."""
    if isinstance(module, nn.Linear):
        return True
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2


def editable(model: nn.Module, name: str) -> EditableModule:
    """Describe the linear map called `name`.

    Raises:
        ValueError: there is no such module, or it is not a linear map.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the model has no module named {name}") from error
    if not is_projection(module):
        raise ValueError(f"{name} is a {type(module).__name__}, not a linear map; it cannot be edited")
    weight = module.get_parameter("weight")
    input_major = not isinstance(module, nn.Linear)
    d_in, d_out = weight.shape if input_major else weight.shape[::-1]
    return EditableModule(name, int(d_in), int(d_out), input_major)


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of the model: the longest list of modules of one class, with their names.

    Raises:
        ValueError: the model has no list of blocks.
    """
    longest: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1:
            children = [
                (f"{name}.{index}" if name else str(index), child) for index, child in enumerate(module)
            ]
            if len(children) > len(longest):
                longest = children
    if not longest:
        raise ValueError("the model has no list of repeated blocks; name the modules to edit")
    return longest


def mlp_output(model: nn.Module, block_name: str) -> EditableModule | None:
    """The map that writes a block's MLP back to the residual stream: the last one, outside attention."""
    block = model.get_submodule(block_name)
    width = _hidden_size(model)
    found = None
    for name, module in block.named_modules():
        if is_projection(module) and "attn" not in name.lower() and "attention" not in name.lower():
            described = editable(model, f"{block_name}.{name}")
            if described.d_out == width:
                found = described
    return found


def default_modules(model: nn.Module, pattern: str | None = None) -> list[EditableModule]:
    """The modules an editor edits: those whose name matches `pattern`, or MLP outputs of late blocks.

    The default blocks lie between two thirds and fourteen fifteenths of the depth (20 to 27 of 30): late
    enough to hold what the model says, early enough for the rest of it to use it.

    Raises:
        ValueError: nothing matches.
    """
    if pattern is not None:
        names = [n for n, m in model.named_modules() if re.search(pattern, n) and is_projection(m)]
        if not names:
            raise ValueError(f"no linear map of the model matches the pattern {pattern!r}")
        return [editable(model, name) for name in names]
    all_blocks = blocks(model)
    first = min(round(len(all_blocks) * 2 / 3), len(all_blocks) - 1)
    last = max(round(len(all_blocks) * 14 / 15), first + 1)
    found = [mlp_output(model, name) for name, _ in all_blocks[first:last]]
    modules = [module for module in found if module is not None]
    if not modules:
        raise ValueError("no MLP output was found in the late blocks; name the modules to edit by a pattern")
    return modules


def _hidden_size(model: nn.Module) -> int:
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    if isinstance(embeddings, nn.Embedding):
        return embeddings.embedding_dim
    raise ValueError("the model has no input embeddings; name the modules to edit by a pattern")
