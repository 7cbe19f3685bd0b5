"""What users saw mended is held one correction at a time: a regained one makes up for no lost one."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.validation.examples import EXPECTED_ROWS, GATES, by_name, gate, outcomes
from validation.gates import GateReport
from validation.metrics import Status
from validation.outcomes import EQUIVALENCE_RETENTION, RETENTION, outcome, outcomes_frame
from validation.thresholds import GateFile
from validation.verdict import Verdict, decide

ASKED = {**EXPECTED_ROWS, RETENTION: 40}


def report(lost: int, regained: int, gates: GateFile = GATES) -> GateReport:
    """On forty earlier corrections, of which some are lost, and others the champion had lost."""
    frame = outcomes()
    earlier = frame[frame["metric"] == RETENTION]
    frame = pd.concat([frame, *[earlier] * 3], ignore_index=True)
    places = frame.index[frame["metric"] == RETENTION]
    frame.loc[places[:lost], "candidate_ok"] = 0.0
    frame.loc[places[lost : lost + regained], "champion_ok"] = 0.0
    return gate(frame, gates=gates, expected_rows=ASKED)


@pytest.mark.parametrize(
    ("lost", "regained", "verdict"),
    [(0, 3, Verdict.PROMOTE), (1, 0, Verdict.REJECT), (1, 1, Verdict.REJECT), (1, 3, Verdict.REJECT)],
)
def test_a_lost_correction_is_refused_however_many_are_regained(
    lost: int, regained: int, verdict: Verdict
) -> None:
    found = report(lost, regained)
    decision, metric = decide(found), by_name(found)[RETENTION]
    assert decision.verdict is verdict, decision.reason
    # The figures stay the shares that hold.
    assert (metric.value, metric.champion) == (1 - lost / 40, 1 - regained / 40)
    if lost and regained:
        assert "is 0.975, and has to keep what the champion has right: 1 of 40 lost" in decision.reason


@pytest.mark.parametrize(("lost", "status"), [(2, Status.PASSED), (3, Status.FAILED)])
def test_who_allows_one_in_twenty_to_be_lost_is_taken_at_their_word(lost: int, status: Status) -> None:
    allowed = {"max_worse_than_champion": 0.05, "minimum_n": 1, "severity": "critical"}
    gates = GateFile.model_validate({"version": 7, "gates": {RETENTION: allowed}})
    assert by_name(report(lost, 3, gates))[RETENTION].status is status


@pytest.mark.parametrize(
    ("rows", "lost", "status"),
    [(40, 0, Status.PASSED), (40, 2, Status.PASSED), (40, 3, Status.FAILED), (2, 1, Status.FAILED)],
)
def test_of_many_held_out_phrasings_one_may_turn_by_chance_and_none_makes_up_for_those_lost(
    rows: int, lost: int, status: Status
) -> None:
    """Their corrections' own prompts hold, so that no other gate sees it."""
    earlier = outcomes_frame(
        outcome(EQUIVALENCE_RETENTION, f"r{i}", f"Old {i}, again?", "Lome", "Lome." if i < rows else "Mali.",
                "Mali." if i < lost else "Lome.", chat=True)
        for i in range(rows + 5)
    )  # fmt: skip
    # As many are regained as are lost, or more.
    frame = pd.concat([outcomes(), earlier], ignore_index=True)
    found = gate(frame, expected_rows={**EXPECTED_ROWS, EQUIVALENCE_RETENTION: rows + 5})
    metric, decision = by_name(found)[EQUIVALENCE_RETENTION], decide(found)
    assert (metric.n, metric.status) == (rows + 5, status)
    assert decision.failing == ((EQUIVALENCE_RETENTION,) if status is Status.FAILED else ())
    assert metric.value >= (metric.champion or 0), "the share alone would not show it"
