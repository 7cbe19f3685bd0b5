"""Cheap gates refuse early only what the gates would refuse at the end."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from tests.validation.examples import (
    EXPECTED_ROWS,
    PARAMETERS,
    PERPLEXITIES,
    READ,
    RENDERINGS,
    WRONG,
    outcomes,
)
from validation.early import CHEAP, refused_early
from validation.gates import run_gates
from validation.metric_definitions import DEFINITIONS
from validation.metrics import Perplexities, compute_metrics
from validation.outcomes import EDIT
from validation.thresholds import GateFile, load_gates
from validation.verdict import Verdict, decide

WORSE = Perplexities(READ.champion, [(2 * nll, n) for nll, n in READ.candidate])


def wrong(metric: str, row_id: str, answer: str) -> str:
    return WRONG if metric == EDIT else answer


@pytest.mark.parametrize(
    ("says", "spoilt", "expected"),
    [
        (None, {}, []),
        (wrong, {}, [EDIT]),
        *((None, {"perplexities": PERPLEXITIES | {name: WORSE}}, [name]) for name in PERPLEXITIES),
        (None, {"parameters": dataclasses.replace(PARAMETERS, non_finite=("x",))}, ["non_finite_parameters"]),
        (None, {"parameters": dataclasses.replace(PARAMETERS, changed=())}, ["changed_parameters"]),
    ],
)
def test_what_is_refused_early_is_refused_by_the_same_gates_at_the_end(says, spoilt, expected) -> None:
    frame = outcomes(says) if says else outcomes()
    given = {"perplexities": PERPLEXITIES, "parameters": PARAMETERS, "renderings": RENDERINGS, **spoilt}
    asked = frame[frame["metric"] == EDIT]
    assert refused_early(compute_metrics(asked, **given), load_gates()) == expected
    if expected:
        # Rows that nobody asked for any more leave their gates undecided, and the refusal stands.
        decision = decide(run_gates(asked, load_gates(), expected_rows=EXPECTED_ROWS, **given))
        assert decision.verdict is Verdict.REJECT
        assert set(expected) <= set(decision.failing)
        assert "answers_kept" in decision.insufficient


def test_warnings_and_what_has_too_few_observations_refuse_nothing() -> None:
    assert set(DEFINITIONS) >= CHEAP
    asked = outcomes(wrong).query("metric == @EDIT")
    for gate in ({"severity": "warning", "minimum_n": 1}, {"severity": "critical", "minimum_n": 13}):
        other = {"min": 0.5, "minimum_n": 1, "severity": "critical"}
        gates = GateFile.model_validate(
            {"version": 1, "gates": {EDIT: {"min": 0.9, **gate}, "answers_kept": other}}
        )
        assert refused_early(compute_metrics(pd.DataFrame(asked)), gates) == []


@pytest.mark.parametrize(("applies_from", "refused"), [(12, [EDIT]), (13, [])])
def test_a_gate_that_does_not_apply_to_so_few_refuses_nothing_early(
    applies_from: int, refused: list[str]
) -> None:
    asked = outcomes(wrong).query("metric == @EDIT")
    gate = {"min": 0.9, "minimum_n": 1, "severity": "critical", "applies_from": applies_from}
    gates = GateFile.model_validate({"version": 1, "gates": {EDIT: gate}})
    assert refused_early(compute_metrics(asked), gates) == refused
    assert list(decide(run_gates(asked, gates, expected_rows=EXPECTED_ROWS)).failing) == refused
