"""Answers that a program gives: marked as its, and never above what a person says."""

from __future__ import annotations

import pytest

from tasks.ledger import Ledger
from tasks.records import Correction, State, UserError
from tests.tasks.ledger_tools import MODEL, only, report

PROGRAM = "model large"


def waiting(ledger: Ledger, source: str = "s1") -> Correction:
    return only(ledger.record([report("p", None, source)]))


def answered(ledger: Ledger, text: str = "x") -> Correction:
    return ledger.answer(waiting(ledger).id, text, PROGRAM, program=True, note="7 of 9 samples agree")


def test_a_programs_answer_is_marked_and_says_how_sure_it_was(ledger: Ledger) -> None:
    one = answered(ledger)
    assert (one.state, one.desired_output, one.answerer) == (State.ACCEPTED, "x", PROGRAM)
    (closed,) = ledger.corrections(MODEL, State.DUPLICATE)
    assert closed.reason == f"answered by {PROGRAM} (7 of 9 samples agree), as {one.id}"
    later = waiting(ledger, "s2")
    assert (later.id, later.reports, later.answerer) == (one.id, 2, PROGRAM)
    assert ledger.digest(MODEL, [State.ACCEPTED]) != _digest_of_a_persons(ledger)


def _digest_of_a_persons(ledger: Ledger) -> str:
    ledger.record([report("p", "x", "s3", reporter="ann")])
    return ledger.digest(MODEL, [State.ACCEPTED])


def test_whoever_reports_or_chooses_the_same_vouches_for_it(ledger: Ledger) -> None:
    one = answered(ledger)
    assert ledger.resolve(one.id, "carol").answerer == ""
    again = only(ledger.record([report("p", "x", "s3", reporter="ann")]))
    assert (again.id, again.answerer, again.state) == (one.id, "", State.ACCEPTED)


@pytest.mark.parametrize("live", [False, True])
def test_a_persons_answer_takes_the_place_of_a_programs(ledger: Ledger, live: bool) -> None:
    one = answered(ledger)
    if live:
        ledger.transition(one.id, State.ACTIVE)
    other = only(ledger.record([report("p", "y", "s2")]))
    assert other.state is State.ACCEPTED
    beaten = ledger.get(one.id)
    assert (beaten.state, other.id in beaten.reason) == (State.QUARANTINED, True)
    # Nor do later reports bring it back; a person who says the same does, and then two people differ.
    assert waiting(ledger, "s4").state is State.QUARANTINED
    ledger.record([report("p", "x", "s5")])
    assert ledger.get(one.id).state is ledger.get(other.id).state is State.CONFLICTING


def test_what_a_person_chose_gives_way_to_no_report(ledger: Ledger) -> None:
    one = answered(ledger)
    ledger.resolve(one.id, "carol")
    other = only(ledger.record([report("p", "y", "s2")]))
    assert other.state is ledger.get(one.id).state is State.CONFLICTING


def test_a_person_may_answer_what_a_program_has_answered(ledger: Ledger) -> None:
    one = answered(ledger)
    (bare,) = ledger.corrections(MODEL, State.DUPLICATE)
    mended = ledger.answer(bare.id, "y", "carol")
    assert (mended.state, mended.desired_output, mended.answerer) == (State.ACCEPTED, "y", "")
    assert mended.reporters == ("carol",)
    assert ledger.get(one.id).state is State.QUARANTINED
    assert ledger.answer(bare.id, "y", "carol") == mended, "a repeat changes nothing"


def test_a_person_who_answers_the_same_vouches_for_it(ledger: Ledger) -> None:
    one = answered(ledger)
    (bare,) = ledger.corrections(MODEL, State.DUPLICATE)
    same = ledger.answer(bare.id, "x", "carol")
    assert (same.id, same.state, same.answerer) == (one.id, State.ACCEPTED, "")


@pytest.mark.parametrize("state", [State.ACCEPTED, State.RETIRED, State.QUARANTINED, State.ALREADY_CORRECT])
def test_a_program_answers_nothing_that_a_person_has(ledger: Ledger, state: State) -> None:
    bare = waiting(ledger)
    said = only(ledger.record([report("p", "y", "s2")]))
    ledger.transition(said.id, state)
    for text in ("x", "y"):
        with pytest.raises(UserError, match="a program does not overrule it"):
            ledger.answer(bare.id, text, PROGRAM, program=True)
    assert ledger.get(bare.id).state is State.NEEDS_ANSWER
    assert ledger.get(said.id).state is state


def test_what_a_person_withdrew_no_bare_report_brings_back(ledger: Ledger) -> None:
    one = answered(ledger)
    ledger.transition(one.id, State.RETIRED, "withdrawn by ann")
    assert waiting(ledger, "s2").state is State.RETIRED
    assert only(ledger.record([report("p", "x", "s3")])).state is State.ACCEPTED


def test_why_a_report_waits_still_is_kept_once(ledger: Ledger) -> None:
    bare, other = waiting(ledger), only(ledger.record([report("q", "y", "s2")]))
    for _ in range(2):
        ledger.still_waiting({bare.id: "nobody knows", other.id: "nobody knows"}, model_name=MODEL)
    assert [step.reason for step in ledger.history(bare.id)][-1] == "nobody knows"
    assert len(ledger.history(bare.id)) == 3
    assert (ledger.get(bare.id).state, ledger.get(other.id).reason) == (State.NEEDS_ANSWER, "")
