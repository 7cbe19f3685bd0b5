"""How long answers take, beside the champion: the median of pairs, shown and never a reason to refuse."""

from __future__ import annotations

import pytest

from tests.validation.examples import by_name, gate, outcomes
from validation.latency import AnswerSeconds, seconds_ratio
from validation.metrics import Severity, Status
from validation.verdict import Verdict, decide


def test_pairs_that_the_machine_held_up_do_not_move_the_ratio() -> None:
    champion = [0.5, 0.5, 0.5, 0.5, 9.0, 0.5, 0.5]
    candidate = [0.6, 0.6, 7.0, 0.6, 0.6, 0.6, 0.6]
    found = seconds_ratio(AnswerSeconds(champion, candidate))
    assert (found.value, found.n) == (pytest.approx(1.2), 7)
    assert found.low <= found.value <= found.high


def test_a_slow_candidate_is_warned_of_beside_its_champion_and_not_refused() -> None:
    slow = gate(outcomes(), answer_seconds=AnswerSeconds([0.5] * 7, [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0]))
    metric, decision = by_name(slow)["answer_seconds_ratio"], decide(slow)
    assert (metric.value, metric.champion, metric.n, metric.threshold) == (2.0, 1.0, 7, 1.5)
    assert (metric.status, metric.severity) == (Status.FAILED, Severity.WARNING)
    assert (decision.verdict, decision.warnings) == (Verdict.PROMOTE, ("answer_seconds_ratio",))


def test_a_few_pairs_say_nothing() -> None:
    few = gate(outcomes(), answer_seconds=AnswerSeconds([0.5] * 4, [0.5] * 4))
    assert by_name(few)["answer_seconds_ratio"].status is Status.INSUFFICIENT
    assert decide(few).verdict is Verdict.PROMOTE


def test_what_was_not_timed_in_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="in pairs"):
        AnswerSeconds([0.5, 0.5], [0.5])
