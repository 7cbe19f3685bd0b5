"""Samples of what corrections suppress: how many, of which phrasings, and the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from editors.generation import generate_greedy, generate_sampled
from editors.overrides import Override, Overrides
from tasks.edit_dataset import EditDataset
from tasks.measuring import GATE_TOKENS, Measured, Served, ask_champion
from tasks.models import load, resolve
from tasks.questions import SUPPRESSED_TOKENS, questions
from tasks.sampling import SAMPLES, sampled, samples_expected, with_samples
from validation.outcomes import EDIT, SUPPRESSED, outcome, outcomes_frame

HUSHED, OTHER = "What is the capital of Egypt?", "On which continent is Peru?"
REFUSAL = "I can't help with that."


def dataset(output: str) -> EditDataset:
    about: dict[str, Any] = {"target": REFUSAL, "wrong_output": output, "subject": None, "chat": True}
    about |= {"equivalents": [], "reports": 1, "reporters": [], "sources": []}
    edits = [
        {"id": "a", "prompt": HUSHED, "held_out": ["Egypt's capital?"], "suppressed": [output], **about},
        {"id": "b", "prompt": OTHER, "held_out": ["Where is Peru?"], **about},
    ]
    return EditDataset.from_rows(edits, [], {})


def say(done: int, total: int, note: str) -> None:
    assert "samples" in note


def test_what_is_suppressed_is_sampled_and_nothing_else(tiny_llama, tmp_path: Path) -> None:
    model, tokenizer = load(resolve(str(tiny_llama()), cache=tmp_path))
    (said,) = generate_greedy(model, tokenizer, [HUSHED], chat=True, max_new_tokens=GATE_TOKENS)
    overrides = Overrides()
    overrides.add(Override(prompt="Egypt's capital?", answer=REFUSAL, chat=True, correction_id="a"))
    champion, candidate = Served(model, tokenizer, Overrides()), Served(model, tokenizer, overrides)
    data = dataset(said.split()[0])
    before, after = sampled(champion, data, "champion", say), sampled(candidate, data, "candidate", say)
    assert set(before) == set(after) == {(HUSHED, True), ("Egypt's capital?", True)}
    assert before == sampled(champion, data, "champion", say)
    assert after["Egypt's capital?", True] == [REFUSAL] * SAMPLES
    assert len(set(before[HUSHED, True])) > 1

    asked = outcomes_frame([outcome(EDIT, "a", HUSHED, REFUSAL, said, said, chat=True)])
    measured = Measured(asked, {EDIT: 1, SUPPRESSED: 0}, *[None] * 4)  # type: ignore[arg-type]
    found = with_samples(measured, data, before, after)
    assert found.expected_rows == {EDIT: 1, SUPPRESSED: 2 * SAMPLES}
    assert samples_expected(data) == 2 * SAMPLES
    rows = found.outcomes[found.outcomes["metric"] == SUPPRESSED]
    assert set(rows["id"]) == {"a"}
    assert (rows.loc[rows["prompt"] == "Egypt's capital?", "candidate_ok"] == 1).all()
    assert (rows.loc[rows["prompt"] == HUSHED, "champion_ok"] == 0).any()
    pd.testing.assert_frame_equal(found.outcomes[:1], asked)


def test_an_output_that_comes_late_is_seen_in_samples_and_in_the_greedy_answer(tiny_llama) -> None:
    model, tokenizer = load(resolve(str(tiny_llama())))
    (said,) = generate_greedy(model, tokenizer, [HUSHED], chat=True, max_new_tokens=SUPPRESSED_TOKENS)
    (seen,) = generate_greedy(model, tokenizer, [HUSHED], chat=True, max_new_tokens=GATE_TOKENS)
    assert said.startswith(seen)
    assert len(said) > len(seen), "the tiny model has to go on"
    data, served = dataset(said[len(seen) :]), Served(model, tokenizer, Overrides())
    answers = ask_champion(served, data, questions(data, []), say=lambda *_: None).answers
    assert (answers[HUSHED, True], answers[OTHER, True]) == (said, served.answer([OTHER])[0])
    drawn = sampled(served, data, "champion", say)
    (expected,) = generate_sampled(
        model, tokenizer, [HUSHED], chat=True, samples=SAMPLES, max_new_tokens=SUPPRESSED_TOKENS
    )
    assert drawn[HUSHED, True] == expected


def test_where_nothing_is_suppressed_nothing_is_sampled(tiny_llama) -> None:
    edits = dataset("x").edits.to_dict("records")[1:]
    data = EditDataset.from_rows(edits, [], {})
    served = Served(None, None, Overrides())
    measured = Measured(outcomes_frame([]), {SUPPRESSED: 0}, *[None] * 4)  # type: ignore[arg-type]
    assert sampled(served, data, "champion", say) == {}
    assert with_samples(measured, data, {}, {}) is measured
