"""A correction as data: what to add to which parameter, with the manifest of where it came from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editors.widening import Appended, Widths, widen

TENSORS_FILE = "delta.safetensors"
MANIFEST_FILE = "delta.json"
_APPENDED = ("rows", "columns")  # by dimension: what a tensor that comes after a parameter's own is stored as
OVERRIDES = "overrides"  # in a manifest: answers given in front of the model, as `Overrides.to_json` has them


@dataclass(frozen=True)
class LowRank:
    """A shift `left @ right`, (rows, rank) and (rank, columns), as the parameter is laid out."""

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """The shift as one (rows, columns) tensor."""
        return self.left @ self.right


@dataclass(frozen=True)
class Delta:
    """Shifts by parameter name, and a manifest of digests, editor, corrections, seed and versions.

    A shift is added to its parameter, or comes after it (`Appended`). The manifest may also hold overrides
    (`editors.overrides`), which need no parameter.
    """

    shifts: Mapping[str, Tensor | LowRank | Appended]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def dense(self, name: str) -> Tensor:
        """The shift of one parameter as a tensor of the parameter's shape, or what is appended to it."""
        shift = self.shifts[name]
        if isinstance(shift, Appended):
            return shift.values
        return shift.dense() if isinstance(shift, LowRank) else shift

    def edited(self, name: str, parameter: Tensor) -> Tensor:
        """A parameter of the base, with its shift: fp32."""
        shift, values = self.shifts[name], self.dense(name).to(parameter.device).float()
        if isinstance(shift, Appended):
            return torch.cat([parameter.float(), values], shift.dim)
        return parameter.float() + values

    def norms(self) -> dict[str, float]:
        """Frobenius norm of every shift."""
        return {name: float(self.dense(name).norm()) for name in self.shifts}

    def digest(self) -> str:
        """SHA-256 over names and bytes of the shifts and over the overrides; the manifest does not count."""
        return _digest(self._tensors(), self.manifest)

    def check_finite(self) -> None:
        """Raise ValueError naming the first parameter whose shift is not finite."""
        for key, tensor in self._tensors().items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"the shift of {key.rpartition('#')[0] or key} is not finite; it cannot be applied"
                )

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self._tensors().items()}
        save_file(tensors, folder / TENSORS_FILE)
        manifest = {**self.manifest, "delta_digest": self.digest()}
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True))
        # Tensors are written for their owner alone.
        shutil.copymode(folder / MANIFEST_FILE, folder / TENSORS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Delta:
        """Read a delta written by `save`.

        Raises:
            ValueError: the tensors are not those the manifest was written for.
        """
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        try:
            tensors = load_file(folder / TENSORS_FILE)
        except SafetensorError as error:
            raise ValueError(f"the delta in {folder} is damaged: {error}") from error
        if _digest(tensors, manifest) != manifest.get("delta_digest"):
            raise ValueError(f"the delta in {folder} is damaged: its digest differs from its manifest's")
        shifts: dict[str, Tensor | LowRank | Appended] = {}
        for key, tensor in tensors.items():
            name, _, part = key.rpartition("#")
            if not part or not name:
                shifts[key] = tensor
            elif part == "left":
                shifts[name] = LowRank(tensor, tensors[f"{name}#right"])
            elif part in _APPENDED:
                shifts[name] = Appended(tensor, _APPENDED.index(part))
        return cls(shifts, manifest)

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, shift in self.shifts.items():
            if isinstance(shift, LowRank):
                tensors[f"{name}#left"], tensors[f"{name}#right"] = shift.left, shift.right
            elif isinstance(shift, Appended):
                tensors[f"{name}#{_APPENDED[shift.dim]}"] = shift.values
            else:
                tensors[name] = shift
        return tensors


def _digest(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if manifest.get(OVERRIDES):
        digest.update(json.dumps(manifest[OVERRIDES], sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def applied(model: nn.Module, delta: Delta) -> Iterator[nn.Module]:
    """The model with the delta added; leaving restores the saved originals bit for bit, in any dtype.

    Raises:
        ValueError: a shift is not finite, does not fit its parameter, or has none in this model.
    """
    added = [name for name, shift in delta.shifts.items() if not isinstance(shift, Appended)]
    originals = {name: _parameter(model, name).detach().clone() for name in added}
    widths = Widths(model)
    try:
        add_in_place(model, delta)
        yield model
    finally:
        widths.put_back(model)
        with torch.no_grad():
            for name, original in originals.items():
                model.get_parameter(name).copy_(original)


def add_in_place(model: nn.Module, delta: Delta) -> None:
    """Add every shift to its parameter, in fp32 before rounding to the parameter's dtype. No way back."""
    delta.check_finite()
    edited: dict[str, Tensor] = {}
    appended = {name: shift for name, shift in delta.shifts.items() if isinstance(shift, Appended)}
    for name in delta.shifts.keys() - appended.keys():
        parameter, shift = _parameter(model, name), delta.dense(name)
        if shift.shape != parameter.shape:
            raise ValueError(
                f"the shift of {name} has shape {tuple(shift.shape)}, not {tuple(parameter.shape)}"
            )
        edited[name] = delta.edited(name, parameter.detach()).to(parameter.dtype)
        if not torch.isfinite(edited[name]).all():
            raise ValueError(f"{name} would not be finite in {parameter.dtype} after the edit")
    widen(model, appended)
    with torch.no_grad():
        for name, value in edited.items():
            model.get_parameter(name).copy_(value)


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    try:
        return model.get_parameter(name)
    except AttributeError as error:
        raise ValueError(f"the model has no parameter {name}; the delta is for another model") from error


def model_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
