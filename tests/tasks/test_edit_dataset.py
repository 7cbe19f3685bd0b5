"""What an editor is told to keep: answers as the champion gave them, and how much of each makes it right."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from tasks.edit_dataset import EDITS_FILE, EditDataset


def kept_opening(reference: str, gold: str | None, *, confirmed: bool = True) -> str | None:
    row = {
        "id": "a",
        "prompt": "What is the capital?",
        "reference": reference,
        "confirmed": confirmed,
        "gold": gold,
        "kind": "near",
        "chat": True,
    }
    rows = [{**row, "role": "editor"}, {**row, "id": "b", "role": "gate"}]
    (kept,) = EditDataset.from_rows([], rows, {}).kept()
    assert (kept.prompt, kept.answer, kept.chat) == (row["prompt"], reference, True)
    return kept.opening


@pytest.mark.parametrize(
    ("reference", "gold", "opening"),
    [
        ("It is Lima, on the coast.", "lima", "It is Lima,"),
        ("A female teacher says it is Male, an island.", "Male", "A female teacher says it is Male,"),
        ("Founded in 1512, it has 5 districts now.", "5", "Founded in 1512, it has 5"),
        ("It is San Jose, in the valley.", "San José", "It is San Jose,"),
        ("About 1,234,567 people live there.", "1234567", "About 1,234,567"),
        ("It is Lima, on the coast.", None, "It is Lima, on the coast."),
    ],
)
def test_an_answer_is_kept_until_it_says_what_is_right(reference: str, gold: str | None, opening: str):
    assert kept_opening(reference, gold) == opening


def test_of_an_answer_that_nobody_confirmed_it_is_not_known_what_matters():
    assert kept_opening("It is Lima, on the coast.", None, confirmed=False) is None


EDIT = {
    "id": "a",
    "prompt": "What is the capital of Togo?",
    "target": "Lome",
    "wrong_output": "Lagos",
    "subject": None,
    "chat": True,
    "equivalents": [],
    "held_out": ["Togo's capital?"],
    "reports": 1,
    "reporters": ["ann"],
    "sources": ["s1"],
}


def test_a_dataset_of_before_programs_answered_is_read_and_has_the_digest_it_had(tmp_path: Path):
    made = EditDataset.from_rows([{**EDIT, "answerer": ""}], [], {})
    made.save(tmp_path)
    # As it was written then, without the column.
    file = tmp_path / EDITS_FILE
    parquet.write_table(parquet.read_table(file).drop_columns(["answerer"]), file)
    read = EditDataset.load(tmp_path)
    assert list(read.edits["answerer"]) == [""]
    assert read.digest == made.digest == EditDataset.from_rows([EDIT], [], {}).digest
    assert EditDataset.from_rows([{**EDIT, "answerer": "model x"}], [], {}).digest != made.digest
