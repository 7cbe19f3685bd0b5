"""Where a model is put: what a user names, and what this machine has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks.models import load, resolve
from tasks.placement import Placement
from tasks.records import UserError


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with so many devices for CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize(
    ("cards", "name", "found"),
    [(0, "auto", "cpu"), (0, "cpu", "cpu"), (2, "auto", "cuda"), (2, "cuda:1", "cuda:1"), (1, "cpu", "cpu")],
    indirect=["cards"],
)
@pytest.mark.usefixtures("cards")
def test_a_device_is_found(name: str, found: str) -> None:
    assert Placement.named(name, "bfloat16") == Placement(found, torch.bfloat16)


@pytest.mark.parametrize(
    ("cards", "device", "dtype", "says"),
    [
        (0, "cuda", "float32", "this machine has 0 for CUDA"),
        (1, "cuda:1", "float32", "'cuda:1' is not there: this machine has 1"),
        (0, "abacus", "float32", "no device 'abacus'; name cpu, cuda, cuda:1 or auto"),
        (0, "cpu", "int8", "no dtype 'int8'; name one of float32, bfloat16, float16"),
    ],
    indirect=["cards"],
)
@pytest.mark.usefixtures("cards")
def test_what_is_not_there_is_refused(device: str, dtype: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Placement.named(device, dtype)


def test_a_model_is_loaded_where_it_is_put(tiny_llama: Any) -> None:
    model, _ = load(resolve(str(tiny_llama())), torch.bfloat16, "meta")
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.bfloat16, "meta")}
