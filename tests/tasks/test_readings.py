"""How the base reads the texts of the gates is measured once, and again where anything of it is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.readings import read_base
from tests.conftest import ModelFactory
from tests.editors.tools import load

TEXTS = {"prose": ["The fox walks home.", "Nobody saw it."], "code": ["x = 1"]}


@pytest.fixture
def base(tiny_model: ModelFactory) -> Any:
    return load(tiny_model("llama"))


def runs_of(model: Any) -> list[int]:
    """Gets an entry at each run of the model from now on."""
    runs: list[int] = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def test_the_same_base_is_read_once(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    fresh = read_base(model, tokenizer, TEXTS)
    first = read_base(model, tokenizer, TEXTS, "a", tmp_path)
    runs = runs_of(model)
    again = read_base(model, tokenizer, TEXTS, "a", tmp_path)
    assert not runs
    assert fresh.likelihoods == first.likelihoods == again.likelihoods
    assert {name: len(rows) for name, rows in again.likelihoods.items()} == {"prose": 2, "code": 1}


def test_other_weights_texts_or_numbers_are_read(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    read_base(model, tokenizer, TEXTS, "a", tmp_path)
    runs = runs_of(model)
    read_base(model, tokenizer, TEXTS, "b", tmp_path)
    assert len(runs) == 2
    read_base(model, tokenizer, {"prose": ["The fox walks."]}, "a", tmp_path)
    assert len(runs) == 3
    read_base(model.to(torch.bfloat16), tokenizer, TEXTS, "a", tmp_path)
    assert len(runs) == 5


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"prose": 3}', '{"prose": [[1]]}'])
def test_a_damaged_reading_is_read_again(text: str, base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    first = read_base(model, tokenizer, TEXTS, "a", tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    file.write_text(text)
    assert read_base(model, tokenizer, TEXTS, "a", tmp_path) == first
    assert file.read_text() == whole
