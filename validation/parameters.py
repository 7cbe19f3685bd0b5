"""Which parameters a candidate changed, and whether all of them are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterChanges:
    """Names of parameters and persistent buffers, sorted; `compared` counts the candidate's."""

    changed: tuple[str, ...]
    undeclared: tuple[str, ...]
    non_finite: tuple[str, ...]
    compared: int


def parameter_changes(
    base: nn.Module | Mapping[str, Tensor], candidate: nn.Module, declared: Iterable[str]
) -> ParameterChanges:
    """Compare a candidate with its base, bit for bit.

    Args:
        base: the pristine model, or its state dict.
        candidate: the edited model.
        declared: parameters the delta says it changes; a change of any other is undeclared, and so is one
            that is missing, new, or of another shape.
    """
    before = base.state_dict() if isinstance(base, nn.Module) else base
    after = candidate.state_dict()
    names = list(_distinct(after))
    changed = {name for name in names if name not in before or not _equal(before[name], after[name])}
    gone = set(before) - set(after)
    non_finite = {name for name in names if not bool(torch.isfinite(after[name]).all())}
    return ParameterChanges(
        changed=tuple(sorted(changed)),
        undeclared=tuple(sorted((changed | gone) - set(declared))),
        non_finite=tuple(sorted(non_finite)),
        compared=len(names),
    )


def _distinct(state: Mapping[str, Tensor]) -> Iterable[str]:
    """Names of a state dict, tied tensors once by their first name."""
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() == 0 or key not in seen:
            seen.add(key)
            yield name


def _equal(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    # Bytes, not values: NaN equals itself and -0.0 is a change.
    return torch.equal(_bytes(before), _bytes(after))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
