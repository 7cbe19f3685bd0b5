"""What users saw mended is held one correction at a time: a regained one makes up for no lost one."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.validation.examples import EXPECTED_ROWS, GATES, by_name, gate, outcomes
from validation.gates import GateReport
from validation.metrics import Status
from validation.outcomes import RETENTION
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
