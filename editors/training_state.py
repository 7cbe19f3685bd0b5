"""Checkpoints of a training: what a killed run needs to go on as if it had not been."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
    seconds: float,
) -> None:
    """Write all that the next step depends on; a kill while writing leaves the previous one whole.

    `seconds` are those the training has taken so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"editor/{name}": tensor for name, tensor in editor.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{name}": tensor for name, tensor in state.items()}
    file = f"{next_step}.{_TENSORS}"
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / file)
    state_file = folder / f"{_STATE}.new"
    state = {"next_step": next_step, "seconds": seconds, "tensors": file, "history": history}
    state_file.write_text(json.dumps(state))
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
) -> tuple[int, float]:
    """Put a checkpoint back, in place; return the step to go on with and the seconds spent before it.

    Both are 0 where there is none. One that is damaged is discarded with a warning, and nothing is changed.
    """
    if not (folder / _STATE).is_file():
        return 0, 0.0
    try:
        state = json.loads((folder / _STATE).read_text())
        next_step, seconds, rows = int(state["next_step"]), float(state["seconds"]), list(state["history"])
        parts = _parts(folder / state["tensors"])
        shapes = {name: tensor.shape for name, tensor in editor.state_dict().items()}
        for part in ("editor", "best"):
            if {name: tensor.shape for name, tensor in parts[part].items()} != shapes:
                raise ValueError("it holds another editor's weights")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        logging.getLogger(__name__).warning(
            "the checkpoint in %s cannot be used (%s); it is discarded, and training starts again",
            folder,
            error,
        )
        (folder / _STATE).unlink()
        return 0, 0.0
    editor.load_state_dict(parts["editor"])
    best.update(parts["best"])
    adam = optimiser.state_dict()
    for name, tensor in parts["adam"].items():
        index, _, key = name.partition("/")
        adam["state"].setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(adam)
    history.extend(rows)
    return next_step, seconds


def _parts(file: Path) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"editor": {}, "best": {}, "adam": {}}
    for name, tensor in load_file(file).items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return parts
