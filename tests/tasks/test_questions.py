"""What is asked of corrections: of old and new ones apart, and never without what was wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.edit_dataset import EditDataset
from tasks.measuring import GATE_TOKENS
from tasks.questions import SUPPRESSED_TOKENS, questions, rows_expected
from validation.outcomes import (
    ANSWERED,
    CORRECTED,
    EDIT,
    EQUIVALENCE,
    EQUIVALENCE_RETENTION,
    NEW,
    NEW_EQUIVALENCE,
    RETENTION,
    SUPPRESSED,
    outcome,
)


def edit(id_: str, wrong: str | None, **more: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {"equivalents": [], "reporters": [], "sources": []}
    about = {"target": "Canberra.", "subject": None, "reports": 1, "chat": True, "wrong_output": wrong}
    return {
        "id": id_,
        "prompt": f"{id_}?",
        "held_out": [f"{id_}, 1?", f"{id_}, 2?"],
        **about,
        **lists,
        **more,
    }


def test_old_and_new_corrections_are_asked_apart_in_every_phrasing() -> None:
    asked = questions(EditDataset.from_rows([edit("old", None), edit("new", None)], [], {}), ["old"])
    for metric, ids, count in (
        (EDIT, {"old", "new"}, 2),
        (EQUIVALENCE, {"old", "new"}, 4),
        (RETENTION, {"old"}, 1),
        (EQUIVALENCE_RETENTION, {"old"}, 2),
        (NEW, {"new"}, 1),
        (NEW_EQUIVALENCE, {"new"}, 2),
    ):
        of = [q for q in asked if q.metric == metric]
        assert ({q.id for q in of}, len(of)) == (ids, count), metric
        assert rows_expected(asked)[metric] == count


@pytest.mark.parametrize("earlier", [[], ["a"]])
def test_the_wrong_answer_beside_the_right_one_is_right_in_no_phrasing(earlier: list[str]) -> None:
    data = EditDataset.from_rows([edit("a", "It is Sydney", answerer="a table")], [], {})
    asked = questions(data, earlier)
    assert {q.metric for q in asked} >= {EDIT, EQUIVALENCE, ANSWERED}
    for q in asked:
        row = outcome(
            q.metric, q.id, q.prompt, q.expected, "Canberra.", "It is Sydney, not Canberra.",
            chat=True, wrong_output=q.wrong_output,
        )  # fmt: skip
        assert (row["champion_ok"], row["candidate_ok"]) == (1, 0), q.metric


def test_what_must_never_appear_is_given_room_to_appear_late() -> None:
    data = EditDataset.from_rows([edit("a", "x", suppressed=["x"]), edit("b", "x")], [], {})
    assert SUPPRESSED_TOKENS == 128 > GATE_TOKENS
    for q in questions(data, []):
        assert q.metric in CORRECTED - {SUPPRESSED}
        assert q.tokens == (SUPPRESSED_TOKENS if q.id == "a" else 0)
