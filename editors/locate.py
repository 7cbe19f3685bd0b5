"""Find the matrices to edit by the structure of a model, never by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

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
    longest = _longest_list(model)
    if not longest:
        raise ValueError("the model has no list of repeated blocks; name the modules to edit")
    return longest


def stacks(model: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """The model's blocks, those of the encoder and of the decoder apart where it has both; none: empty."""
    whole: Any = model
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        found = [_longest_list(model)]
    else:
        found = []
        for part in (whole.get_encoder(), whole.get_decoder()):
            prefix = next(name for name, module in model.named_modules() if module is part)
            found.append([(f"{prefix}.{name}", block) for name, block in _longest_list(part)])
    return [stack for stack in found if stack]


def inside(model: nn.Module, name: str, part: nn.Module) -> bool:
    """Whether the module called `name` is `part` of the model, or in it."""
    module = model.get_submodule(name)
    return any(member is module for member in part.modules())


def _longest_list(model: nn.Module) -> list[tuple[str, nn.Module]]:
    longest: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1:
            children = [
                (f"{name}.{index}" if name else str(index), child) for index, child in enumerate(module)
            ]
            if len(children) > len(longest):
                longest = children
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


def mlp_input(model: nn.Module, block_name: str) -> EditableModule | None:
    """The map that reads the residual stream into a block's MLP.

    In a gated MLP that is the gate, as MEND edits T5's wi_0 and not its wi_1.
    """
    block, output = model.get_submodule(block_name), mlp_output(model, block_name)
    width = _hidden_size(model)
    for name, module in block.named_modules():
        if output is not None and f"{block_name}.{name}" == output.name:
            return None
        if is_projection(module) and "attn" not in name.lower() and "attention" not in name.lower():
            described = editable(model, f"{block_name}.{name}")
            if described.d_in == width:
                return described
    return None


def mlp_matrices(model: nn.Module, pattern: str | None = None, last: int = 3) -> list[EditableModule]:
    """The modules whose name matches `pattern`, or input and output of the MLPs of the `last` blocks.

    Where there is an encoder and a decoder, of one block fewer in each (MEND).

    Raises:
        ValueError: nothing matches.
    """
    lists = stacks(model)
    if pattern is not None or not lists:
        return default_modules(model, pattern)
    count = last if len(lists) == 1 else last - 1
    names = [name for stack in lists for name, _ in stack[-count:]]
    found = [described for name in names for described in (mlp_input(model, name), mlp_output(model, name))]
    modules = [module for module in found if module is not None]
    if not modules:
        raise ValueError("no MLP was found in the last blocks; name the modules to edit by a pattern")
    return modules


def default_modules(
    model: nn.Module, pattern: str | None = None, depth: tuple[float, float] = (2 / 3, 14 / 15)
) -> list[EditableModule]:
    """The modules an editor edits: those whose name matches `pattern`, or MLP outputs of blocks at `depth`.

    The default blocks lie between two thirds and fourteen fifteenths of the depth (20 to 27 of 30): late
    enough to hold what the model says, early enough for the rest of it to use it. There is always one. Of
    encoders and decoders, and of models without an output vocabulary, they reach to the last block, as in the
    papers. Of a plain chain of modules, all linear maps but the last.

    Raises:
        ValueError: nothing matches.
    """
    if pattern is not None:
        names = [n for n, m in model.named_modules() if re.search(pattern, n) and is_projection(m)]
        if not names:
            raise ValueError(f"no linear map of the model matches the pattern {pattern!r}")
        return [editable(model, name) for name in names]
    if isinstance(model, nn.Sequential):
        chain = [name for name, child in model.named_children() if is_projection(child)]
        if chain[:-1]:
            return [editable(model, name) for name in chain[:-1]]
    lists = stacks(model) or [blocks(model)]
    to_the_top = len(lists) > 1 or _has_no_vocabulary(model)
    found = []
    for stack in lists:
        first = min(round(len(stack) * depth[0]), len(stack) - 1)
        last = len(stack) if to_the_top else max(round(len(stack) * depth[1]), first + 1)
        found += [mlp_output(model, name) for name, _ in stack[first:last]]
    modules = [module for module in found if module is not None]
    if not modules:
        raise ValueError(
            "no MLP output was found in the default blocks; name the modules to edit by a pattern"
        )
    return modules


def _has_no_vocabulary(model: nn.Module) -> bool:
    find = getattr(model, "get_output_embeddings", None)
    return find is not None and find() is None


def _hidden_size(model: nn.Module) -> int:
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    if isinstance(embeddings, nn.Embedding):
        return embeddings.embedding_dim
    raise ValueError("the model has no input embeddings; name the modules to edit by a pattern")
