"""Make a model's MLPs wider: matrices with rows or columns after their own, and a configuration that says so.

What is added to some blocks is zero in all others, because a model's configuration knows one width. A neuron
whose matrices are zero says nothing, so the model computes what it did before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editors.locate import stacks

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Appended:
    """Rows (`dim` 0) or columns (`dim` 1) to come after those of a parameter, as it is laid out."""

    values: Tensor
    dim: int


def widen(model: nn.Module, appended: Mapping[str, Appended]) -> None:
    """Append to parameters, pad those of the other blocks with zeros, and fit the configuration. No way back.

    Raises:
        ValueError: something does not fit its parameter or is not finite there, or the configuration cannot
            say how wide the model is now.
    """
    if not appended:
        return
    before = _shapes(model)
    whole = {**_elsewhere(model, appended), **appended}
    for name, added in whole.items():
        if name not in before:
            raise ValueError(f"the model has no parameter {name}; the delta is for another model")
        _append(model, name, added)
    if setting := _setting(model, before, _shapes(model)):
        setattr(model.config, *setting)


def check_can_widen(model: nn.Module, appended: Mapping[str, Appended]) -> None:
    """Raise ValueError where the model's configuration could not say how wide `widen` makes the model."""
    before = _shapes(model)
    after = {name: list(shape) for name, shape in before.items()}
    for name, added in {**_elsewhere(model, appended), **appended}.items():
        after[name][added.dim] += added.values.shape[added.dim]
    _setting(model, before, {name: tuple(shape) for name, shape in after.items()})


class Widths:
    """A model's parameters and configuration as they were, to be put back after `widen`."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._configuration = copy.deepcopy(getattr(model, "config", None))

    def put_back(self, model: nn.Module) -> None:
        """Give the model the very parameters that it had."""
        for name, parameter in self._parameters.items():
            if model.get_parameter(name) is not parameter:
                _set(model, name, parameter)
        config: Any = getattr(model, "config", None)
        if config is not None:
            config.__dict__.update(self._configuration.__dict__)


def _elsewhere(model: nn.Module, appended: Mapping[str, Appended]) -> dict[str, Appended]:
    """Zeros for the same matrices of the other blocks."""
    result: dict[str, Appended] = {}
    for stack in stacks(model):
        names = [name for name, _ in stack]
        inside = {
            parameter.removeprefix(f"{name}."): added
            for name in names
            for parameter, added in appended.items()
            if parameter.startswith(f"{name}.")
        }
        for name in names:
            for relative, added in inside.items():
                result[f"{name}.{relative}"] = Appended(torch.zeros_like(added.values), added.dim)
    return result


def _append(model: nn.Module, name: str, added: Appended) -> None:
    parameter = model.get_parameter(name)
    values = added.values.to(parameter.device, parameter.dtype)
    theirs, own = list(parameter.shape), list(values.shape)
    if len(own) != len(theirs) or any(
        a != b for d, (a, b) in enumerate(zip(own, theirs, strict=True)) if d != added.dim
    ):
        raise ValueError(f"what is appended to {name}, {tuple(own)}, does not fit {tuple(theirs)}")
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} would not be finite in {parameter.dtype} after the edit")
    larger = torch.cat([parameter.detach(), values], added.dim)
    _set(model, name, nn.Parameter(larger, requires_grad=parameter.requires_grad))


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    where, _, leaf = name.rpartition(".")
    module: Any = model.get_submodule(where)
    setattr(module, leaf, parameter)
    if parameter.dim() != 2:
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = parameter.shape
    elif hasattr(module, "nf"):
        # A Conv1D keeps its weight as (in, out), and its sizes under these names.
        module.nx, module.nf = parameter.shape


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _setting(model: Any, before: _Shapes, after: _Shapes) -> tuple[str, int] | None:
    """What to set in the configuration for parameters of such shapes, and to what; None without one.

    Raises:
        ValueError: there is no such setting.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return None
    pairs = {
        (old, new)
        for name, sizes in after.items()
        for old, new in zip(before[name], sizes, strict=True)
        if old != new
    }
    if len(pairs) != 1:
        raise ValueError(f"a {type(model).__name__} cannot be made wider: its blocks differ in width")
    [(old, new)] = pairs
    # A width that is not set is derived from another, as GPT-2's is.
    named = [key for key, value in vars(config).items() if value == old and not isinstance(value, bool)]
    unset = [key for key, value in vars(config).items() if value is None]
    for key in (*named, *unset):
        if _shapes_with(type(model), config, key, new) == after:
            return key, new
    raise ValueError(
        f"a {type(model).__name__} cannot be made wider: its configuration has no setting for the width of "
        "its MLPs alone"
    )


def _shapes_with(model_class: Any, config: Any, key: str, value: int) -> _Shapes | None:
    """Of a model with this configuration, but for one setting; None where that is not allowed."""
    changed = copy.deepcopy(config)
    try:
        setattr(changed, key, value)
        with torch.device("meta"):
            return _shapes(model_class(changed))
    except Exception:
        # A setting that means something else may make any error there is.
        return None
