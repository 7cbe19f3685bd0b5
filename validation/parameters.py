"""Which parameters a candidate changed, and whether all of them are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from editors.delta import Delta

# A product of two factors may be rounded otherwise when it is computed again.
_ROUNDING = 0.01


@dataclass(frozen=True)
class ParameterChanges:
    """Names of parameters and persistent buffers, sorted; `compared` counts the candidate's.

    `largest_relative_norm` is the largest Frobenius norm of a change over that of the base's parameter: 0
    without a change, infinite where the base's is zero, NaN where the change is not a number.
    """

    changed: tuple[str, ...]
    undeclared: tuple[str, ...]
    non_finite: tuple[str, ...]
    compared: int
    largest_relative_norm: float


def parameter_changes(
    base: nn.Module | Mapping[str, Tensor], candidate: nn.Module, delta: Delta
) -> ParameterChanges:
    """Compare a candidate with its base, bit for bit, and its changes with those of the delta.

    Args:
        base: the pristine model, or its state dict.
        candidate: the edited model.
        delta: what was to be changed. A change of any other parameter is undeclared, and so is one by
            something else than its shift, and a parameter that is missing, new, or of another shape.
    """
    before = base.state_dict() if isinstance(base, nn.Module) else base
    after = candidate.state_dict()
    names = list(_distinct(after))
    changed = {name for name in names if name not in before or not _equal(before[name], after[name])}
    gone = set(before) - set(after)
    as_declared = {name for name in changed & set(delta.shifts) if _is_shifted(before, after, name, delta)}
    non_finite = {name for name in names if not bool(torch.isfinite(after[name]).all())}
    norms = [_relative_norm(before[name], after[name]) for name in sorted(changed & set(before))]
    return ParameterChanges(
        changed=tuple(sorted(changed)),
        undeclared=tuple(sorted((changed | gone) - as_declared)),
        non_finite=tuple(sorted(non_finite)),
        compared=len(names),
        largest_relative_norm=math.nan if any(map(math.isnan, norms)) else max(norms, default=0.0),
    )


def _is_shifted(before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str, delta: Delta) -> bool:
    """Whether a parameter is its base plus its shift, up to the rounding of its dtype."""
    shift = delta.dense(name).float()
    if not before.get(name, shift).shape == after[name].shape == shift.shape:
        return False
    base, edited = before[name].float(), after[name].float()
    rounded = torch.finfo(after[name].dtype).eps * float(base.norm() + shift.norm())
    return float((edited - base - shift.to(base.device)).norm()) <= _ROUNDING * float(shift.norm()) + rounded


def _relative_norm(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape:
        return math.inf
    change, norm = float((after.float() - before.float()).norm()), float(before.float().norm())
    if not change:
        return 0.0
    return change / norm if norm else change * math.inf


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
