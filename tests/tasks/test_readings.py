"""How the base reads the texts of the gates is measured once, and again where anything of it is another."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.readings import Kept, read_base
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
    first = read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a"))
    runs = runs_of(model)
    again = read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a"))
    assert not runs
    assert fresh.likelihoods == first.likelihoods == again.likelihoods
    assert {name: len(rows) for name, rows in again.likelihoods.items()} == {"prose": 2, "code": 1}


def test_other_weights_texts_or_numbers_are_read(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a"))
    runs = runs_of(model)
    read_base(model, tokenizer, TEXTS, Kept(tmp_path, "b"))
    assert len(runs) == 2
    read_base(model, tokenizer, {"prose": ["The fox walks."]}, Kept(tmp_path, "a"))
    assert len(runs) == 3
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 77.0}
    read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a"))
    assert len(runs) == 5
    read_base(model.to(torch.bfloat16), tokenizer, TEXTS, Kept(tmp_path, "a"))
    assert len(runs) == 7


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"prose": 3}', '{"prose": [[1]]}'])
def test_a_damaged_reading_is_read_again(text: str, base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    first = read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a"))
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    file.write_text(text)
    assert read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a")) == first
    assert file.read_text() == whole
    parsed = json.loads(whole)
    for damage in (math.nan, math.inf, None):
        parsed["code"][0][0] = damage
        file.write_text(json.dumps(parsed))
        assert read_base(model, tokenizer, TEXTS, Kept(tmp_path, "a")) == first


def test_without_room_to_keep_it_a_reading_counts_all_the_same(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    (tmp_path / "file").write_text("")
    read = read_base(model, tokenizer, TEXTS, Kept(tmp_path / "file", "a"))
    assert read.likelihoods == read_base(model, tokenizer, TEXTS).likelihoods
