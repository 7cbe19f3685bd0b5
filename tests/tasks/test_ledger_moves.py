"""The ledger: reading corrections, moving them, and what a person decides."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tasks.ledger import IllegalTransition, Ledger
from tasks.ledger_rules import LEGAL_TRANSITIONS
from tasks.records import State, UserError
from tests.tasks.ledger_tools import MODEL, NOON, only, report


def test_corrections_come_by_first_report_then_id_and_by_state(ledger: Ledger) -> None:
    newest = report("c", "x", "s", reported_at=NOON + timedelta(days=1))
    ids = [c.id for c in ledger.record([newest, report("a", "x"), report("b", "x")])]
    assert [c.id for c in ledger.corrections(MODEL)] == [*sorted(ids[1:]), ids[0]]
    ledger.transition(ids[:2], State.ACTIVE, "v1", "run")
    assert {c.id for c in ledger.corrections(MODEL, State.ACTIVE)} == set(ids[:2])
    assert len(ledger.corrections(MODEL, State.ACTIVE, State.ACCEPTED)) == 3
    assert ledger.corrections("another model") == []
    assert ledger.counts(MODEL) == {state: {"active": 2, "accepted": 1}.get(state, 0) for state in State}


def test_the_digest_follows_what_an_edit_takes_and_nothing_else(ledger: Ledger) -> None:
    ledger.record([report("a", "x", "s1"), report("b", "y", "s1")])
    digest = ledger.digest(MODEL, [State.ACCEPTED])
    ledger.record([report("a", "x", "s2", reporter="bob")])
    assert ledger.digest(MODEL, [State.ACCEPTED]) == digest
    ledger.record([report("a", "x", "s3", equivalents=("A, please",))])
    assert ledger.digest(MODEL, [State.ACCEPTED]) != digest


def test_a_transition_is_legal_or_refused_and_a_repeat_adds_no_row(ledger: Ledger) -> None:
    first, second = (c.id for c in ledger.record([report("a", "x"), report("b", None)]))
    with pytest.raises(IllegalTransition, match=rf"{second} is needs_answer and cannot become active"):
        ledger.transition([first, second], State.ACTIVE)
    assert ledger.get(first).state is State.ACCEPTED, "all move or none"
    ledger.transition(first, State.ACTIVE, "v1", "run 7")
    ledger.transition(first, State.ACTIVE, "v1", "run 8")
    last = ledger.history(first)[-1]
    assert (last.to_state, last.reason, last.run_id) == (State.ACTIVE, "v1", "run 7")
    assert len(ledger.history(first)) == 3


def test_what_breaks_a_batch_fails_with_a_reason_each_and_the_digest_is_that_of_the_rest(
    ledger: Ledger,
) -> None:
    ids = [c.id for c in ledger.record([report(p, "x") for p in ("a", "b", "c")])]
    rest = ledger.digest(MODEL, [State.ACCEPTED], without=ids[:2])
    ledger.set_aside({ids[0]: "it did not take", ids[1]: "it broke another"}, "run", model_name=MODEL)
    failed = {c.id: c.reason for c in ledger.corrections(MODEL, State.FAILED)}
    assert failed == {ids[0]: "it did not take", ids[1]: "it broke another"}
    assert ledger.digest(MODEL, [State.ACCEPTED]) == rest
    ledger.transition(ids[0], State.RETIRED, "withdrawn")
    assert ledger.get(ids[0]).state is State.RETIRED
    # What somebody decided while the batch was solved stays, and keeps the rest from nothing.
    ledger.set_aside(dict.fromkeys(ids, "it broke another"), "run 2", model_name=MODEL)
    assert ledger.get(ids[0]).reason == "withdrawn"
    assert [ledger.history(id_)[-1].run_id for id_ in ids] == ["", "run", "run 2"]


def test_every_state_has_its_rule() -> None:
    assert set(LEGAL_TRANSITIONS) == {None, *State}


def test_an_unknown_or_ambiguous_id_is_the_users_to_mend(ledger: Ledger) -> None:
    id_ = ledger.record([report("p", "x"), report("p", "x", model_name="other")])[0].id
    with pytest.raises(UserError, match="capitals, other; name the model"):
        ledger.get(id_)
    assert ledger.get(id_, model_name="other").model_name == "other"
    ledger.transition(id_, State.ACTIVE, model_name="other")
    assert ledger.get(id_, model_name=MODEL).state is State.ACCEPTED
    with pytest.raises(UserError, match="no correction nonesuch"):
        ledger.transition(["nonesuch"], State.ACTIVE)


def test_an_accepted_correction_cannot_be_slipped_in_beside_its_rival(ledger: Ledger) -> None:
    old = only(ledger.record([report("p", "x")])).id
    ledger.transition(old, State.FAILED, "breaks the gates")
    new = only(ledger.record([report("p", "y")]))
    assert new.state is State.ACCEPTED
    with pytest.raises(IllegalTransition, match=f"beside {new.id}"):
        ledger.transition(old, State.ACCEPTED)


def test_a_correction_live_again_after_a_rollback_holds_its_accepted_rival(ledger: Ledger) -> None:
    old = only(ledger.record([report("p", "x")])).id
    ledger.transition(old, State.ACTIVE)
    ledger.transition(old, State.RETIRED)
    new = only(ledger.record([report("p", "y")])).id
    ledger.transition(old, State.ACTIVE, "rolled back")
    assert ledger.get(old).state is State.ACTIVE
    assert ledger.get(new).state is State.CONFLICTING
    assert old in ledger.get(new).reason


def test_resolving_accepts_one_and_quarantines_its_rivals_for_good(ledger: Ledger) -> None:
    x, y, z = (
        c.id for c in ledger.record([report("p", "x", "a"), report("p", "y", "b"), report("p", "z", "c")])
    )
    assert ledger.resolve(y, "carol").state is State.ACCEPTED
    for loser in (x, z):
        assert ledger.get(loser).state is State.QUARANTINED
        assert "carol" in ledger.get(loser).reason
        assert y in ledger.get(loser).reason
    assert "carol" in ledger.history(y)[-1].reason
    rows = len(ledger.history(y))
    assert ledger.resolve(y, "carol").state is State.ACCEPTED
    assert len(ledger.history(y)) == rows
    assert only(ledger.record([report("p", "x", "d")])).state is State.QUARANTINED, "the decision stands"
    assert ledger.get(y).state is State.ACCEPTED


@pytest.mark.parametrize("state", [State.ACCEPTED, State.ACTIVE])
def test_choosing_what_nothing_contradicts_says_that_a_person_stands_behind_it(
    ledger: Ledger, state: State
) -> None:
    one = only(ledger.record([report("p", "x")])).id
    ledger.transition(one, state)
    chosen = ledger.resolve(one, "carol")
    assert (chosen.state, chosen.reason) == (state, "chosen by carol")
    assert chosen.approved_at == ledger.history(one)[-1].at


def test_a_reviewer_may_change_their_mind(ledger: Ledger) -> None:
    x, y = (c.id for c in ledger.record([report("p", "x", "a"), report("p", "y", "b")]))
    ledger.resolve(y, "carol")
    ledger.transition(y, State.ACTIVE)
    assert ledger.resolve(x, "dave").state is State.ACCEPTED
    assert ledger.get(y).state is State.QUARANTINED


def test_an_answer_makes_the_correction_that_later_bare_reports_count_for(ledger: Ledger) -> None:
    waiting = only(ledger.record([report("p", None, "s1", reporter="ann")]))
    answered = ledger.answer(waiting.id, "x", "carol")
    assert (answered.state, answered.desired_output, answered.reporters) == (
        State.ACCEPTED,
        "x",
        ("ann", "carol"),
    )
    closed = ledger.get(waiting.id)
    assert closed.state is State.DUPLICATE
    assert "carol" in closed.reason
    assert answered.id in closed.reason
    assert ledger.answer(waiting.id, " x ", "carol") == answered, "a repeat changes nothing"
    later = only(ledger.record([report("p", None, "s2"), report("p", None, "s1")]))
    assert (later.id, later.reports) == (answered.id, 2)
    with pytest.raises(UserError, match="already answered"):
        ledger.answer(waiting.id, "z", "dave")


def test_an_answer_that_contradicts_a_report_is_held_with_it(ledger: Ledger) -> None:
    waiting, other = ledger.record([report("p", None, "a"), report("p", "y", "b")])
    assert ledger.answer(waiting.id, "x", "carol").state is State.CONFLICTING
    assert ledger.get(other.id).state is State.CONFLICTING


@pytest.mark.parametrize(("answer", "says"), [(" ", "empty"), ("Wrong.", "equals the wrong output")])
def test_a_useless_answer_is_refused_and_the_report_waits_on(ledger: Ledger, answer: str, says: str) -> None:
    waiting = only(ledger.record([report("p", None)]))
    with pytest.raises(UserError, match=says):
        ledger.answer(waiting.id, answer, "carol")
    assert ledger.get(waiting.id).state is State.NEEDS_ANSWER


def test_only_a_waiting_report_is_answered(ledger: Ledger) -> None:
    accepted = only(ledger.record([report("p", "x")]))
    with pytest.raises(UserError, match=f"{accepted.id} is accepted"):
        ledger.answer(accepted.id, "y", "carol")
