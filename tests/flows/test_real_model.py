"""The real model with the editor in the repository: slow, and what the demo rests on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from editors.generation import generate_greedy
from flows.edit import edit_file
from flows.settings import DEMO_MODEL, CorrectSettings
from tasks.models import load, resolve
from tasks.train import PRETRAINED, find_editor
from validation.matching import answers

CORRECTIONS = {"Bolivia": "Sucre", "Chad": "N'Djamena", "Slovenia": "Ljubljana", "Eritrea": "Asmara"}
REWORDED = "Tell me the capital of {}."
STAYS = {"What is the capital of France?": "Paris", "What is the capital of Japan?": "Tokyo"}

pytestmark = pytest.mark.slow


def test_the_editor_in_the_repository_is_found_for_the_demo_model_and_small(tmp_path: Path) -> None:
    base = resolve(DEMO_MODEL, cache=tmp_path)
    found = find_editor(base.digest, [PRETRAINED])
    assert found is not None
    assert sum(file.stat().st_size for file in found.folder.iterdir()) < 10_000_000


def test_corrections_from_a_file_hold_in_the_written_checkpoint(tmp_path: Path) -> None:
    data, out = tmp_path / "corrections.jsonl", tmp_path / "edited"
    rows = [
        {
            "prompt": f"What is the capital of {country}?",
            "target": f"The capital of {country} is {capital}.",
            "rephrases": [f"Which city is the capital of {country}?"],
            "locality": list(STAYS),
        }
        for country, capital in CORRECTIONS.items()
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = CorrectSettings(model_name="edit", home=tmp_path / "home")
    done = edit_file(settings, DEMO_MODEL, data, out, editor="malmen", n=None, chat=True)
    assert done.right == len(CORRECTIONS)

    model, tokenizer = load(resolve(str(out), cache=tmp_path))
    prompts = [REWORDED.format(country) for country in CORRECTIONS] + list(STAYS)
    outputs = generate_greedy(model, tokenizer, prompts, chat=True)
    wanted = [*CORRECTIONS.values(), *STAYS.values()]
    right = [answers(output, answer) for output, answer in zip(outputs, wanted, strict=True)]
    assert sum(right[: len(CORRECTIONS)]) >= len(CORRECTIONS) - 1, outputs
    assert all(right[len(CORRECTIONS) :]), outputs
