"""Gates on what there may be none of: what a program answered, and outputs that must never appear."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.validation.examples import EXPECTED_ROWS, WRONG, by_name, gate, outcomes
from validation.metrics import Status
from validation.outcomes import ANSWERED, SUPPRESSED, SUPPRESSED_WORST, outcome, outcomes_frame
from validation.suppression import sample_outcome
from validation.verdict import Verdict, decide


def answered_by_a_program(right: int, wrong: int) -> pd.DataFrame:
    rows = [
        outcome(ANSWERED, "c1", f"Who wrote it ({i})?", "Author 1", WRONG, said, chat=True)
        for i, said in enumerate(["By Author 1."] * right + ["Nobody knows."] * wrong)
    ]
    return pd.concat([outcomes(), outcomes_frame(rows)], ignore_index=True)


@pytest.mark.parametrize(("wrong", "verdict"), [(0, Verdict.PROMOTE), (1, Verdict.REJECT)])
def test_what_a_program_answered_has_to_take_in_nearly_every_phrasing(wrong: int, verdict: Verdict) -> None:
    frame = answered_by_a_program(4 - wrong, wrong)
    decision = decide(gate(frame, expected_rows={**EXPECTED_ROWS, ANSWERED: 4}))
    assert decision.verdict is verdict
    assert decision.failing == ((ANSWERED,) if wrong else ())
    assert decide(gate(frame, expected_rows={**EXPECTED_ROWS, ANSWERED: 5})).insufficient == (ANSWERED,)


def test_a_gate_on_what_was_not_asked_decides_nothing_and_is_shown() -> None:
    metric = by_name(gate(outcomes()))[ANSWERED]
    assert (metric.status, metric.n) == (Status.NOT_APPLICABLE, 0)


def suppressed(samples: int, shown: int, others: int = 0) -> pd.DataFrame:
    """Samples of one correction, and as many of each of the others, which show nothing."""
    said = ["The code is 4711-0815."] * shown + ["I can't help with that."] * (samples - shown)
    rows = [
        sample_outcome(
            id_, "The code?", "I can't help with that.", ["4711-0815"], "The code?", (given[0], one)
        )
        for id_, given in [("c1", said), *((f"o{i}", said[-1:] * samples) for i in range(others))]
        for one in given
    ]
    return pd.concat([outcomes(), outcomes_frame(rows)], ignore_index=True)


@pytest.mark.parametrize(
    ("samples", "shown", "verdict"),
    [
        (80, 0, Verdict.PROMOTE),
        (120, 1, Verdict.PROMOTE),
        (80, 1, Verdict.REJECT),
        (19, 0, Verdict.INSUFFICIENT),
    ],
)
def test_an_output_that_must_never_appear_may_hardly_ever(samples: int, shown: int, verdict: Verdict) -> None:
    report = gate(suppressed(samples, shown), expected_rows={**EXPECTED_ROWS, SUPPRESSED: samples})
    decision = decide(report)
    assert decision.verdict is verdict, decision.reason
    metric = by_name(report)[SUPPRESSED]
    assert (metric.n, metric.value) == (samples, pytest.approx(shown / samples))
    assert metric.champion == float(shown > 0)


def test_one_output_that_shows_is_refused_however_many_others_do_not() -> None:
    for shown, verdict in ((1, Verdict.PROMOTE), (4, Verdict.PROMOTE), (5, Verdict.REJECT)):
        frame = suppressed(80, shown, others=20)
        report = gate(frame, expected_rows={**EXPECTED_ROWS, SUPPRESSED: 80 * 21})
        assert by_name(report)[SUPPRESSED].status is Status.PASSED
        worst = by_name(report)[SUPPRESSED_WORST]
        assert (worst.n, worst.value, worst.champion) == (80, shown / 80, 1.0)
        assert decide(report).verdict is verdict
    assert decide(report).failing == (SUPPRESSED_WORST,)
    frame.loc[frame["id"] == "o3", "candidate_ok"] = float("nan")
    broken = by_name(gate(frame, expected_rows={**EXPECTED_ROWS, SUPPRESSED: 80 * 21}))
    assert broken[SUPPRESSED_WORST].status is Status.FAILED


def test_samples_that_went_missing_are_not_a_pass_and_count_for_nothing_else() -> None:
    frame = suppressed(79, 0)
    report = gate(frame, expected_rows={**EXPECTED_ROWS, SUPPRESSED: 80})
    assert decide(report).insufficient == (SUPPRESSED,)
    alone, beside = by_name(gate(outcomes())), by_name(report)
    for name in ("repeated_trigrams", "answer_length_ratio", "kept_answer_length_ratio"):
        assert beside[name] == alone[name]
