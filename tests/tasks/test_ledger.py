"""The ledger: what reports become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tasks.ledger import Ledger, SourceTaken
from tasks.records import State, correction_id
from tests.tasks.ledger_tools import MODEL, NOON, only, report


def test_a_report_with_an_answer_is_accepted_with_its_history(ledger: Ledger) -> None:
    correction = only(ledger.record([report("Capital of Chad?", "N'Djamena", reporter="ann")], run_id="r1"))
    assert (correction.state, correction.reports, correction.reporters) == (State.ACCEPTED, 1, ("ann",))
    assert correction.id == correction_id("Capital of Chad?", "N'Djamena", chat=True)
    steps = ledger.history(correction.id)
    assert [(step.from_state, step.to_state) for step in steps] == [
        (None, State.REPORTED),
        (State.REPORTED, State.ACCEPTED),
    ]
    assert {step.run_id for step in steps} == {"r1"}
    assert all(step.at.tzinfo is UTC and datetime.now(UTC) - step.at < timedelta(minutes=1) for step in steps)


def test_the_same_source_counts_once_and_another_raises_the_count(ledger: Ledger) -> None:
    first = report("Capital of Chad?", "N'Djamena", "trace:1", reporter="ann")
    spelled_otherwise = report("  capital of CHAD? ", "N'Djamena", "trace:2", reporter="bob")
    ledger.record([first, first])
    assert only(ledger.record([first])).reports == 1
    merged = only(ledger.record([spelled_otherwise, first]))
    assert (merged.reports, merged.sources, merged.reporters) == (2, ("trace:1", "trace:2"), ("ann", "bob"))
    assert len(ledger.history(merged.id)) == 2


def test_what_reports_of_one_correction_say_is_joined_oldest_first(ledger: Ledger) -> None:
    later = report(
        "p?", "x", "b", equivalents=("q2", "q1"), subject="S", reported_at=NOON + timedelta(days=1)
    )
    earlier = report("P?", "x", "a", equivalents=("q1",), severity="high", wrong_output="")
    merged = only(ledger.record([later, earlier]))
    assert (merged.prompt, merged.first_reported_at) == ("P?", NOON)
    assert (merged.equivalents, merged.subject, merged.severity) == (("q1", "q2"), "S", "high")
    assert merged.wrong_output == "Wrong."


@pytest.mark.parametrize(
    ("prompt", "desired", "wrong", "state", "says"),
    [
        (" \n", "x", "w", State.QUARANTINED, "prompt is empty"),
        ("p", "  ", "w", State.QUARANTINED, "desired output is empty"),
        ("p", "a b c d", "w", State.QUARANTINED, "4 words, more than the limit of 3"),
        ("p", "a b c", "w", State.ACCEPTED, ""),
        ("p", "a  b", " a b", State.QUARANTINED, "equals the wrong output"),
        ("p", None, "w", State.NEEDS_ANSWER, "no desired output"),
        ("", None, "w", State.QUARANTINED, "prompt is empty"),
    ],
)
def test_a_report_that_cannot_be_acted_on_is_kept_with_its_reason(
    url: str, prompt: str, desired: str | None, wrong: str, state: State, says: str
) -> None:
    with Ledger(url, target_limit=3) as ledger:
        good = report("another", "y", "s2")
        bad, other = ledger.record([report(prompt, desired, wrong_output=wrong), good])
        assert bad.state is state
        assert says in bad.reason
        assert other.state is State.ACCEPTED


def test_a_report_with_another_wrong_output_lifts_the_quarantine_of_one_without(ledger: Ledger) -> None:
    slip = only(ledger.record([report("p", "x", "s1", wrong_output="x")]))
    assert slip.state is State.QUARANTINED
    assert only(ledger.record([report("p", "x", "s2", wrong_output="y")])).state is State.ACCEPTED
    assert only(ledger.record([report("p", "x", "s3", wrong_output="x")])).wrong_output == "y"


def test_contradicting_reports_are_all_held_each_naming_the_others(ledger: Ledger) -> None:
    ids = [
        c.id for c in ledger.record([report("p", "x", "a"), report("P ", "y", "b"), report("p", None, "c")])
    ]
    ids.insert(2, only(ledger.record([report("p", "z", "d")])).id)
    for own in ids[:3]:
        held = ledger.get(own)
        assert held.state is State.CONFLICTING
        assert own not in held.reason
        assert all(rival in held.reason for rival in ids[:3] if rival != own)
    assert ledger.get(ids[3]).state is State.NEEDS_ANSWER


def test_the_same_prompt_as_chat_as_text_or_of_another_model_contradicts_nothing(ledger: Ledger) -> None:
    others = [report("p", "y", chat=False), report("p", "z", model_name="other"), report("p", "x")]
    assert [c.state for c in ledger.record(others)] == [State.ACCEPTED] * 3


def test_an_active_correction_stays_when_contradicted_and_holds_its_rivals(ledger: Ledger) -> None:
    active = only(ledger.record([report("p", "x")]))
    ledger.transition([active.id], State.ACTIVE)
    for answer in ("y", "z"):
        rival = only(ledger.record([report("p", answer)]))
        assert rival.state is State.CONFLICTING
        assert active.id in rival.reason
    assert ledger.get(active.id).state is State.ACTIVE


def test_a_report_of_an_active_correction_is_counted_and_leaves_it_active(ledger: Ledger) -> None:
    id_ = only(ledger.record([report("p", "x", "s1")])).id
    ledger.transition(id_, State.ACTIVE, "in version 1")
    again = only(ledger.record([report("p", "x", "s2")]))
    assert (again.state, again.reason, again.reports) == (State.ACTIVE, "in version 1", 2)


@pytest.mark.parametrize("state", [State.RETIRED, State.FAILED, State.ALREADY_CORRECT])
def test_a_new_report_of_a_settled_correction_brings_it_back(ledger: Ledger, state: State) -> None:
    first = report("p", "x", "s1")
    id_ = only(ledger.record([first])).id
    ledger.transition(id_, State.ACTIVE)
    ledger.transition(id_, state, "because")
    assert only(ledger.record([first])).state is state, "the old report again says nothing new"
    back = only(ledger.record([report("p", "x", "s2")]))
    assert back.state is State.ACCEPTED
    assert state in back.reason
    assert "because" in back.reason


def test_text_that_databases_refuse_is_stored_all_the_same(ledger: Ledger) -> None:
    odd = report("nul \x00 and \ud800 prompt", "x\x00", "s\x00", equivalents=("\udfff",), reporter="\ud800")
    first = only(ledger.record([odd]))
    assert first.prompt == "nul \ufffd and \ufffd prompt"
    assert only(ledger.record([odd])) == first


def test_naive_and_foreign_times_come_back_in_utc(ledger: Ledger) -> None:
    naive = report("p", "x", "s1", reported_at=datetime(2026, 5, 1, 12))
    india = timezone(timedelta(hours=5, minutes=30))
    foreign = report("q", "x", "s2", reported_at=datetime(2026, 5, 1, 17, 30, tzinfo=india))
    for correction in ledger.record([naive, foreign]):
        assert correction.first_reported_at == NOON
        assert correction.first_reported_at.utcoffset() == timedelta(0)


def test_a_source_that_counts_once_makes_one_report_whatever_correction_it_is_about(ledger: Ledger) -> None:
    first = report("Capital of Togo?", "Lom\u00e9", "http:ann:1")
    (made,) = ledger.take([first], once=True).corrections
    again = ledger.take([report("Capital of Togo?", "Lom\u00e9", "http:ann:1")], once=True)
    assert (again.corrections, again.new) == ([made], [])
    for other in (
        report("Capital of Togo?", "Accra", "http:ann:1"),
        report("Capital of Chad?", "Lom\u00e9", "http:ann:1"),
        report("Capital of Togo?", None, "http:ann:1"),
        report("Capital of Togo?", "Lom\u00e9", "http:ann:1", wrong_output="Other."),
    ):
        with pytest.raises(SourceTaken, match="http:ann:1 has made another report about capitals"):
            ledger.take([report("Capital of Peru?", "Lima", "http:ann:2"), other], once=True)
    assert ledger.corrections(MODEL) == [made]


def test_a_source_that_counts_once_is_the_same_after_a_reviewer_has_answered(ledger: Ledger) -> None:
    waiting = [report("Capital of Togo?", None, source) for source in ("http:ann:1", "http:bob:1")]
    (made,) = ledger.take(waiting[:1], once=True).corrections
    answered = ledger.answer(made.id, "Lom\u00e9", "eve")
    # The one was kept before the answer, the other after it.
    for known in (True, False):
        taken = ledger.take(waiting[:1] if known else waiting[1:], once=True)
        assert [one.id for one in taken.corrections] == [answered.id]
        assert len(taken.new) == (0 if known else 1)
    assert not ledger.take(waiting, once=True).new


def test_who_answers_a_report_stands_behind_it_too_unless_it_is_a_program(ledger: Ledger) -> None:
    for prompt, program, behind in (("Where?", False, {"ann", "bob"}), ("When?", True, {"ann"})):
        (bare,) = ledger.record([report(prompt, None, source=prompt, reporter="ann")])
        answered = ledger.answer(bare.id, "Here.", "bob", model_name=MODEL, program=program)
        assert set(answered.reporters) == behind
        assert answered.reports == 1
