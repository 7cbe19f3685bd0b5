"""Sampled answers to what corrections suppress: what a greedy answer hides, a sample may still say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tasks.edit_dataset import EditDataset
from tasks.measuring import Measured, Say, Served
from tasks.questions import SUPPRESSED_TOKENS

SAMPLES, TEMPERATURE = 20, 1.0


def suppressions(data: EditDataset) -> list[dict[str, Any]]:
    """The corrections that suppress outputs, as rows of the dataset."""
    return [edit for edit in data.edits.to_dict("records") if edit["suppressed"]]


def sampled(served: Served, data: EditDataset, who: str, say: Say) -> dict[tuple[str, bool], list[str]]:
    """`SAMPLES` answers to each prompt and held-out phrasing of theirs, by prompt and rendering.

    They are the same every time; what an override answers is answered so in every sample.
    """
    from editors.generation import generate_sampled

    asked = {(text, bool(edit["chat"])) for edit in suppressions(data) for text in _phrasings(edit)}
    found: dict[tuple[str, bool], list[str]] = {}
    for chat in (True, False):
        prompts = sorted(text for text, is_chat in asked if is_chat is chat)
        if not prompts:
            continue
        overrides = {p: served.overrides.lookup(p, chat=chat) for p in prompts}
        rest = [prompt for prompt in prompts if overrides[prompt] is None]
        drawn = generate_sampled(
            served.model,
            served.tokenizer,
            rest,
            chat=chat,
            samples=SAMPLES,
            temperature=TEMPERATURE,
            max_new_tokens=SUPPRESSED_TOKENS,
            progress=lambda done, total: say(done, total, f"{who}: samples"),
        )
        found |= {(prompt, chat): texts for prompt, texts in zip(rest, drawn, strict=True)}
        found |= {(p, chat): [entry.answer] * SAMPLES for p, entry in overrides.items() if entry}
    return found


def with_samples(
    measured: Measured,
    data: EditDataset,
    champion: dict[tuple[str, bool], list[str]],
    candidate: dict[tuple[str, bool], list[str]],
) -> Measured:
    """What was measured, with a row for every sample."""
    import pandas as pd

    from validation.outcomes import SUPPRESSED, outcomes_frame
    from validation.suppression import sample_outcome

    rows = []
    for edit in suppressions(data):
        known = f"{edit['prompt']} {edit['target']}"
        for text in _phrasings(edit):
            asked = (text, bool(edit["chat"]))
            for said in zip(champion[asked], candidate[asked], strict=True):
                rows.append(sample_outcome(edit["id"], text, edit["target"], edit["suppressed"], known, said))
    if not rows:
        return measured
    outcomes = pd.concat([measured.outcomes, outcomes_frame(rows)], ignore_index=True)
    expected = {**measured.expected_rows, SUPPRESSED: len(rows)}
    return dataclasses.replace(measured, outcomes=outcomes, expected_rows=expected)


def samples_expected(data: EditDataset) -> int:
    """How many samples each model gives."""
    return SAMPLES * sum(len(_phrasings(edit)) for edit in suppressions(data))


def _phrasings(edit: dict[str, Any]) -> Sequence[str]:
    return list(dict.fromkeys([edit["prompt"], *edit["held_out"]]))
