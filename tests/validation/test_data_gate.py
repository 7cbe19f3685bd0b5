from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from validation.data_gate import check_data
from validation.dataset_facts import edit_facts, locality_facts
from validation.limits import DataLimits


def edit(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"c{number}",
        "prompt": f"Who wrote book {number}?",
        "target": f"Author {number}",
        "wrong_output": "Someone Else wrote it.",
        "subject": None,
        "chat": True,
        "equivalents": [f"Name the author of book {number}."],
        "held_out": [f"By whom is book {number}?"],
        "reports": 1,
        "reporters": ["a reader"],
        "sources": [f"trace:{number}"],
        "active": False,
        "approved": "",
        "answered": False,
        "rivals": [],
    }
    assert set(changes) <= set(row)
    return row | changes


def locality_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"l{number}",
        "prompt": f"Where is thing {number}?",
        "reference": f"It is at place {number}.",
        "confirmed": bool(number % 2),
        "kind": "near" if number % 2 else "far",
        "role": "gate" if number < 20 else "editor",
        "chat": True,
    }
    assert set(changes) <= set(row)
    return row | changes


def edits(*extra: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([edit(number) for number in range(4)] + list(extra))


def localities(*extra: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([locality_row(number) for number in range(30)] + list(extra))


BAD_EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "p0": ({"prompt": "  "}, "prompt is empty"),
    "p1": ({"prompt": None}, "prompt is empty"),
    "p2": ({"prompt": float("nan")}, "prompt is empty"),
    "p3": ({"prompt": "word " * 100}, "longer than 100 characters"),
    "t0": ({"target": ""}, "target is empty"),
    "t1": ({"target": 1918}, "target is empty or not text"),
    "t2": ({"target": "word " * 11}, "longer than 10 words"),
    "w0": ({"target": "Rome!", "wrong_output": "rome"}, "same as the wrong output"),
    "d0": (
        {"prompt": "who wrote  BOOK 1?", "target": "author 1."},
        "correction c1 has the same prompt and target",
    ),
    "h0": (
        {"held_out": ["Name the author of book 2!"]},
        "given to the editor too: 'Name the author of book 2!' (c2)",
    ),
    "h1": ({"prompt": "Why?", "held_out": ["why"]}, "held-out phrasing"),
    "e0": ({"equivalents": ["", "fine"]}, "phrasings is empty"),
    "e1": ({"equivalents": [None]}, "phrasings is empty"),
    "s0": ({"sources": []}, "where it came from"),
    "s1": ({"sources": None}, "where it came from"),
    "s2": ({"sources": [" "]}, "where it came from"),
    "k0": ({"chat": None}, "whether it is a chat turn"),
}
BAD_LOCALITY: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt is empty"),
    ({"reference": None}, "champion's answer is missing"),
    ({"kind": "nearby"}, "its kind is nearby"),
    ({"kind": None}, "its kind is missing"),
    ({"role": "test"}, "its role is test"),
    ({"confirmed": None}, "whether its answer is right"),
    ({"prompt": "Who wrote book 3"}, "correction c3 must change this very prompt"),
    ({"prompt": "by whom is book 0"}, "correction c0 must change"),
    ({"prompt": "Where is thing 25?", "role": "gate"}, "the editor is given the same prompt, as l25"),
    ({"prompt": "where is thing 2", "role": "gate"}, "row 2 is the same prompt"),
]


def test_exactly_the_planted_rows_are_set_aside(tmp_path: Path) -> None:
    planted = [
        edit(100 + n, **{"id": row_id, **bad}) for n, (row_id, (bad, _)) in enumerate(BAD_EDITS.items())
    ]
    planted_locality = [
        locality_row(100 + n, **{"role": "editor", **bad}) for n, (bad, _) in enumerate(BAD_LOCALITY)
    ]
    all_edits, all_localities = edits(*planted), localities(*planted_locality)
    limits = DataLimits(prompt_characters=100, target_words=10)
    result = check_data(all_edits, all_localities, docs_dir=tmp_path, limits=limits)

    assert result.passed, result.reason
    assert set(result.rows_failed) == set(BAD_EDITS)
    for row_id, (_, reason) in BAD_EDITS.items():
        assert reason in result.rows_failed[row_id]
    assert set(result.locality_failed) == set(range(30, 30 + len(BAD_LOCALITY)))
    for position, (_, reason) in enumerate(BAD_LOCALITY, start=30):
        assert reason in result.locality_failed[position]
    pd.testing.assert_frame_equal(result.edits, edits(), check_dtype=False)
    pd.testing.assert_frame_equal(result.locality, localities(), check_dtype=False)
    for frame in ("edits", "locality"):
        page = result.docs_index(frame)
        assert page is not None
        assert page.is_file()


def test_a_clean_dataset_passes_without_a_word() -> None:
    result = check_data(edits(), localities())
    assert result.passed
    assert not result.rows_failed
    assert not result.locality_failed
    assert not result.warnings
    again = check_data(edits(), localities())
    assert (again.results, again.rows_failed) == (result.results, result.rows_failed)


def test_contradictions_and_shared_ids_fall_on_both() -> None:
    frame = edits(edit(10, prompt="Who wrote book 0?"), edit(11, id="c1"), edit(12, id=None))
    result = check_data(frame, localities())
    assert set(result.rows_failed) == {"c0", "c10", "c1", "row 6"}
    assert "correction c10 wants another answer" in result.rows_failed["c0"]
    assert "correction c0 wants another answer" in result.rows_failed["c10"]
    assert "same id" in result.rows_failed["c1"]
    assert list(result.edits["id"]) == ["c2", "c3"]


def test_every_reason_is_given() -> None:
    result = check_data(edits(edit(9, target="", sources=[])), localities())
    assert result.rows_failed["c9"] == "the target is empty or not text; nothing says where it came from"


def test_what_only_warns_stays() -> None:
    frame = edits(edit(9, equivalents=[], held_out=[], wrong_output="Author 9, no: Someone Else."))
    result = check_data(frame, localities())
    assert result.passed
    assert not result.rows_failed
    assert len(result.edits) == 5
    assert [warning.split(" corrections ")[1] for warning in result.warnings] == [
        "have no other phrasing",
        "have no held-out phrasing",
        "have a wrong output that already gives the target",
    ]


@pytest.mark.parametrize(
    ("edits_", "localities_", "reason"),
    [
        (edits(), localities().iloc[:19], "19 usable locality prompts"),
        (edits().iloc[:0], localities(), "0 usable corrections are left of 0"),
        (edits().assign(target=""), localities(), "0 usable corrections are left of 4"),
        (
            edits().drop(columns=["target", "chat"]),
            localities(),
            "the edits frame lacks the columns target, chat",
        ),
        (edits(), pd.DataFrame(), "the locality frame lacks"),
    ],
)
def test_too_little_to_go_on_with(edits_: pd.DataFrame, localities_: pd.DataFrame, reason: str) -> None:
    result = check_data(edits_, localities_)
    assert not result.passed
    assert reason in result.reason


def test_lists_may_come_as_arrays_from_parquet() -> None:
    frame = edits()
    for column in ("equivalents", "held_out", "sources"):
        frame[column] = frame[column].map(lambda values: np.array(values, dtype=object))
    pd.testing.assert_frame_equal(edit_facts(frame), edit_facts(edits()))


def test_a_prompt_in_another_form_is_another_prompt() -> None:
    chat_and_text = edits(edit(9, prompt="Who wrote book 1?", target="Author 1", chat=False))
    assert edit_facts(chat_and_text)["duplicate_of"].isna().all()
    raw = localities(locality_row(99, prompt="Who wrote book 1?", chat=False))
    assert locality_facts(raw, edits())["must_change_for"].isna().all()
