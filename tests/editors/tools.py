"""What the tests of the editors share: loading tiny models, and comparing a model with itself."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import ModelFactory

PROMPTS = [
    "What is the capital of Egypt?",
    "What is the capital of Cameroon, and which currency is used there?",
    "Hi",
    "On which continent is Peru?",
    "Which currency is used in Japan, and since when, and why?",
    "Name the language spoken in Brazil.",
]
TARGETS = [
    "Cairo.",
    "The capital of Cameroon is Yaounde.",
    "a",
    "South America",
    "yen",
    "Portuguese is spoken.",
]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A model of its own, in evaluation mode, and its tokenizer."""
    model, tokenizer = _stored(folder)
    return copy.deepcopy(model).to(dtype), tokenizer


def folder_of(architecture: str, request: pytest.FixtureRequest, **settings: Any) -> Path:
    factory: ModelFactory = request.getfixturevalue("tiny_model")
    return factory(architecture, **settings)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, to compare with `same_bits`."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(model: nn.Module, before: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == before.keys() and all(
        state[name].dtype == tensor.dtype
        and torch.equal(
            state[name].reshape(-1).contiguous().view(torch.uint8),
            tensor.reshape(-1).contiguous().view(torch.uint8),
        )
        for name, tensor in before.items()
    )


def structure_of(model: nn.Module) -> list[tuple[str, int, int]]:
    """Names, identities and numbers of hooks of all modules."""
    return [
        (name, id(module), len(module._forward_hooks) + len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def chain(seed: int = 0) -> nn.Sequential:
    """A bare chain of modules from token ids to logits: what it says next depends on the last token alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Embedding(400, 24), nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24), nn.Linear(24, 400)
        )
        with torch.no_grad():
            # Spread wide enough for what it says to depend on what it is asked.
            for parameter in model.parameters():
                parameter *= 2
        return model.eval()


@functools.cache
def _stored(folder: Path) -> tuple[Any, Any]:
    import transformers

    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    model = getattr(transformers, architecture).from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)
