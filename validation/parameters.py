"""Which parameters a candidate changed, and whether all of them are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from editors.delta import Delta
from editors.widening import Appended

# A product of two factors may be rounded otherwise when it is computed again.
_ROUNDING = 0.01


@dataclass(frozen=True)
class ParameterChanges:
    """Names of parameters and persistent buffers, sorted; `compared` counts the candidate's.

    `largest_relative_norm` is the largest Frobenius norm of a change over that of the base's parameter: 0
    without a change, infinite where the base's is zero, NaN where the change is not a number. What a delta
    appends is not in it: the size of a new neuron's weights says nothing of what it does. None where nothing
    else changed.
    """

    changed: tuple[str, ...]
    undeclared: tuple[str, ...]
    non_finite: tuple[str, ...]
    compared: int
    largest_relative_norm: float | None


def parameter_changes(
    base: nn.Module | Mapping[str, Tensor], candidate: nn.Module, delta: Delta
) -> ParameterChanges:
    """Compare a candidate with its base, bit for bit, and its changes with those of the delta.

    Args:
        base: the pristine model, or its state dict.
        candidate: the edited model.
        delta: what was to be changed. A change of any other parameter is undeclared, and so is one by
            something else than its shift, or no change where there is a shift, and a parameter that is
            missing, new, or of another shape.
    """
    pristine = base.state_dict() if isinstance(base, nn.Module) else base
    after = candidate.state_dict()
    names = list(_distinct(after))
    before = dict(pristine)
    appended = {name for name, shift in delta.shifts.items() if isinstance(shift, Appended)}
    if appended:
        # Blocks without new neurons are padded with zeros, to be as wide as those with.
        before.update({name: _padded(before[name], after[name]) for name in before.keys() & after.keys()})
    changed = {name for name in names if name not in before or not _equal(before[name], after[name])}
    gone = set(before) - set(after)
    as_declared = {name for name in delta.shifts if _is_shifted(pristine, after, name, delta)}
    non_finite = {name for name in names if not bool(torch.isfinite(after[name]).all())}
    others = sorted(changed & set(before) - appended)
    norms = [_relative_norm(before[name], after[name]) for name in others]
    return ParameterChanges(
        changed=tuple(sorted(changed)),
        undeclared=tuple(sorted((changed | gone | set(delta.shifts)) - as_declared)),
        non_finite=tuple(sorted(non_finite)),
        compared=len(names),
        largest_relative_norm=_largest(norms) if others or not appended else None,
    )


def _is_shifted(before: Mapping[str, Tensor], after: Mapping[str, Tensor], name: str, delta: Delta) -> bool:
    """Whether a parameter is its base with its shift, up to the rounding of its dtype."""
    if name not in before or name not in after:
        return False
    try:
        expected = delta.edited(name, before[name])
    except RuntimeError:
        # They do not fit each other.
        return False
    if expected.shape != after[name].shape:
        return False
    base, shift = float(before[name].float().norm()), float(delta.dense(name).float().norm())
    rounded = torch.finfo(after[name].dtype).eps * (base + shift)
    return float((after[name].float() - expected).norm()) <= _ROUNDING * shift + rounded


def _padded(before: Tensor, after: Tensor) -> Tensor:
    """The base's parameter with zeros after its own, as large as the candidate's, unless that is smaller."""
    if before.dim() != after.dim() or any(a < b for a, b in zip(after.shape, before.shape, strict=True)):
        return before
    padded = before.new_zeros(after.shape)
    padded[tuple(slice(size) for size in before.shape)] = before
    return padded


def _relative_norm(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape:
        return math.inf
    change, norm = float((after.float() - before.float()).norm()), float(before.float().norm())
    if not change:
        return 0.0
    return change / norm if norm else change * math.inf


def _largest(norms: Iterable[float]) -> float:
    """The largest of all; NaN where one of them is."""
    found = list(norms)
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


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
