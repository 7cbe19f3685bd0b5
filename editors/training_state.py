"""Checkpoints of a training: what a killed run needs to go on as if it had not been."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_TENSORS = "training.safetensors"
_STATE = "training.json"


def save_checkpoint(
    folder: Path,
    editor: nn.Module,
    optimiser: torch.optim.Adam,
    best: dict[str, Tensor],
    history: list[dict[str, Any]],
    next_step: int,
) -> None:
    """Write all that the next step depends on; a kill while writing leaves the previous one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"editor/{name}": tensor for name, tensor in editor.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": tensor for name, tensor in state.items()}
    file = f"{next_step}.{_TENSORS}"
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / file)
    state_file = folder / f"{_STATE}.new"
    state_file.write_text(json.dumps({"next_step": next_step, "tensors": file, "history": history}))
    os.replace(state_file, folder / _STATE)
    for old in folder.glob(f"*.{_TENSORS}"):
        if old.name != file:
            old.unlink()


def load_checkpoint(
    folder: Path,
    editor: nn.Module,
    optimiser: torch.optim.Adam,
    best: dict[str, Tensor],
    history: list[dict[str, Any]],
) -> int:
    """Put a checkpoint back, in place; return the step to go on with, 0 where there is none."""
    if not (folder / _STATE).is_file():
        return 0
    state = json.loads((folder / _STATE).read_text())
    tensors = load_file(folder / state["tensors"])
    parts: dict[str, dict[str, Tensor]] = {"editor": {}, "best": {}, "adam": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    editor.load_state_dict(parts["editor"])
    best.update(parts["best"])
    adam = optimiser.state_dict()
    for name, tensor in parts["adam"].items():
        index, _, key = name.partition("/")
        adam["state"].setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(adam)
    history.extend(state["history"])
    return int(state["next_step"])
