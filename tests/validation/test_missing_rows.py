"""Rows that are missing, too few or not measured pass no gate."""

from __future__ import annotations

import pytest

from tests.validation.examples import (
    EXPECTED_ROWS,
    by_name,
    gate,
    outcomes,
)
from validation.metrics import Status
from validation.outcomes import (
    DRAWDOWN,
    EDIT,
    LOCALITY,
    RETENTION,
    outcomes_frame,
)
from validation.verdict import Verdict, decide


def test_nothing_asked_is_insufficient() -> None:
    decision = decide(gate(outcomes_frame([]), expected_rows=dict.fromkeys(EXPECTED_ROWS, 0)))
    assert decision.verdict is Verdict.INSUFFICIENT
    assert EDIT in decision.insufficient
    assert RETENTION not in decision.insufficient, "there may be no earlier corrections"


def test_rows_that_went_missing_are_not_a_pass() -> None:
    frame = outcomes()
    firsts = frame.drop_duplicates("metric").index
    decision = decide(gate(frame.drop(firsts)))
    assert decision.verdict is Verdict.INSUFFICIENT
    assert set(decision.insufficient) == {name for name, rows in EXPECTED_ROWS.items() if rows}


def test_what_was_not_measured_is_not_a_pass() -> None:
    frame = outcomes()
    unmeasured = frame[~frame["metric"].isin([EDIT, RETENTION])]
    decision = decide(gate(unmeasured, perplexities=None, parameters=None))
    assert decision.verdict is Verdict.INSUFFICIENT
    assert {EDIT, RETENTION, "perplexity_ratio", "non_finite_parameters"} <= set(decision.insufficient)
    assert all(metric.passed is False for metric in decision.metrics if metric.name in decision.insufficient)


def test_too_few_rows_decide_nothing() -> None:
    frame = outcomes()
    few = frame[~frame["metric"].isin([LOCALITY, DRAWDOWN]) | frame["id"].isin([f"l{i}" for i in range(15)])]
    decision = decide(gate(few, expected_rows={**EXPECTED_ROWS, LOCALITY: 15, DRAWDOWN: 15}))
    assert decision.verdict is Verdict.INSUFFICIENT
    assert {LOCALITY, "answers_kept"} <= set(decision.insufficient)
    assert "15" in decision.reason
    assert "20" in decision.reason


def test_no_earlier_corrections_is_no_obstacle() -> None:
    frame = outcomes()
    report = gate(frame[frame["metric"] != RETENTION], expected_rows={**EXPECTED_ROWS, RETENTION: 0})
    assert by_name(report)[RETENTION].status is Status.NOT_APPLICABLE
    assert decide(report).verdict is Verdict.PROMOTE


def test_the_number_of_rows_asked_must_be_stated() -> None:
    with pytest.raises(ValueError, match="says nothing of retention_greedy"):
        gate(outcomes(), expected_rows={k: v for k, v in EXPECTED_ROWS.items() if k != RETENTION})
    with pytest.raises(ValueError, match="'retention'"):
        gate(outcomes(), expected_rows={**EXPECTED_ROWS, "retention": 3})
