"""Training an editor on what the model can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from editors.malmen import MalmenConfig
from editors.requests import EditRequest
from editors.training import TrainingConfig
from tasks.models import load, resolve
from tasks.placement import Placement
from tasks.prompt_check import PromptCheck
from tasks.records import Rejected
from tasks.train import open_editor, train_editor

LONG = "What is the capital of " + "a very long country " * 30 + "?"
PLACES = [f"{first}{second}land" for first in "BDFGKLMNP" for second in "aeiou"]


def test_what_the_model_has_no_positions_for_is_not_trained_on(
    tmp_path: Path, tiny_gpt2: Any, monkeypatch: pytest.MonkeyPatch
):
    """A rewording, an answer that must stay or the model's own writing can be too long as well."""
    # What a random model answers is seldom read back as it was written.
    monkeypatch.setattr("editors.training_cases.Cases._given_exactly", lambda _, kept: list(kept))
    base = resolve(str(tiny_gpt2(n_positions=48)))
    check, told = PromptCheck.of(base), list[Rejected]()
    for filler in range(40):
        edge = f"Where is {'x' * filler} Egypt?"
        if check.fault(edge + "x", "Cairo", chat=False):
            break
    requests = [
        EditRequest(str(n), f"Where is {place}?", "Cairo", (LONG, edge), chat=False)
        for n, place in enumerate(PLACES)
    ]
    stay = [LONG, *(f"{place} is in{' what' * (n % 6)}" for n, place in enumerate(PLACES))]
    trained = train_editor(
        base,
        [*requests, EditRequest("long", LONG, "Cairo", chat=False)],
        stay,
        tmp_path / "editor",
        chat=False,
        config=MalmenConfig(rank=4),
        training=TrainingConfig(steps=1, batch_sizes=(2,)),
        source="data.jsonl",
        left_out=told.extend,
    )
    assert (trained.folder / "editor.json").is_file()
    named = [one.source for one in told]
    assert named.count(f"data.jsonl, {LONG[:40]!r}") == len(requests) + 2
    assert all(one.reason.endswith("the model takes 48; give a shorter prompt") for one in told)


def test_an_editor_is_trained_in_full_precision_on_a_model_in_half(
    tmp_path: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("editors.training_cases.Cases._given_exactly", lambda _, kept: list(kept))
    base = resolve(str(tiny_llama()))
    requests = [EditRequest(place, f"Where is {place}?", "Cairo", chat=False) for place in PLACES[:12]]
    trained = train_editor(
        base,
        requests,
        [f"{place} is in" for place in PLACES],
        tmp_path / "editor",
        chat=False,
        config=MalmenConfig(rank=4, modules="down_proj"),
        training=TrainingConfig(steps=1, batch_sizes=(2,)),
        at=Placement(dtype=torch.bfloat16),
    )
    editor = open_editor(trained.folder)
    assert editor.manifest["placement"] == {"device": "cpu", "dtype": "bfloat16"}
    assert editor.configuration()["modules"] == [f"model.layers.{n}.mlp.down_proj" for n in range(3)]
    model, tokenizer = load(base, torch.bfloat16)
    delta = editor.edit(model, tokenizer, requests)
    assert {shift.dtype for shift in delta.shifts.values()} == {torch.float32}
