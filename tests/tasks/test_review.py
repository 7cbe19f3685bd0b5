"""Corrections in MLflow's own review queue: asked once, and what people answer is carried out once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tasks.ledger import Ledger
from tasks.records import State
from tasks.review.queue import Queue
from tests.killing import Killed, kill
from tests.tasks.ledger_tools import report
from tests.tasks.review_tools import Review, reviews

PROMPT = "What is the capital of Togo?"


@pytest.fixture
def review(mlflow_store: str, tmp_path: Path) -> Iterator[Review]:
    yield from reviews(mlflow_store, tmp_path)


def test_a_bare_report_is_asked_once_and_becomes_a_correction(review: Review) -> None:
    bare = report(PROMPT, None, model_name=review.name, wrong_output="Lagos.")
    review.ledger.record([bare])
    assert review.collect() == type(review.collect())()
    assert review.ask() == (1, 1, 0)
    assert review.ask() == (0, 1, 0)
    item = review.item(PROMPT)
    with review.store() as client:
        (span,) = client.get_trace(item.trace_id).data.spans
    assert span.inputs == {"prompt": PROMPT}
    assert span.outputs["the model said"] == "Lagos."
    assert len(span.outputs["rewordings"]) == len(item.rewordings) == 8

    # Not before the reviewer says that it is done.
    review.says(item, wanted="Lomé.", done=False)
    assert review.collect().done == []
    review.mark(item, "complete", "ann")
    (line,) = review.collect().done
    assert line.endswith("answered by ann")
    assert review.states() == {None: State.DUPLICATE, "Lomé.": State.ACCEPTED}
    steps = review.ledger.history(review.correction(None).id, model_name=review.name)
    assert steps[-1].reason.startswith("answered by ann (in MLflow's review queue), as ")
    assert review.outcome(item) == "answered by ann"
    assert (review.collect().done, review.ask()) == ([], (0, 0, 0))


@pytest.mark.slow
def test_what_was_said_is_not_enough_is_asked_again(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name, wrong_output="Lagos.")])
    review.ask()
    item = review.item(PROMPT)
    for answers, why in (
        ({"right": True}, "no answer was given; say Yes or No, or what the model should have said"),
        ({"wanted": "Lagos."}, "the desired output equals the wrong output"),
    ):
        review.says(item, **answers)
        reviewed = review.collect()
        assert reviewed.done == []
        assert why in reviewed.open[0]
        assert why in review.outcome(item)
        assert [one.status for one in review.items()] == ["pending"]
        assert review.states() == {None: State.NEEDS_ANSWER}
    review.says(item, wanted="Lomé.")
    assert len(review.collect().done) == 1


@pytest.mark.slow
def test_a_rejection_closes_a_report_with_reason_and_name(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask()
    review.says(review.item(PROMPT), right=False, why="it is not wrong", who="bob")
    review.collect()
    closed = review.correction(None)
    assert closed.state is State.QUARANTINED
    assert closed.reason == "rejected by bob in MLflow's review queue: it is not wrong"
    assert (review.ask(), review.collect().done) == ((0, 0, 0), [])


@pytest.mark.parametrize("approved", [True, False])
def test_a_word_about_a_programs_answer_frees_it_or_sets_it_aside(review: Review, approved: bool) -> None:
    review.ledger.record([report(PROMPT, "Lomé.", model_name=review.name, answerer="table t")])
    assert review.correction("Lomé.").answerer == "table t"
    assert review.ask() == (1, 1, 0)
    review.says(review.item(PROMPT, "Lomé."), right=approved)
    review.collect()
    one = review.correction("Lomé.")
    assert one.state is (State.ACCEPTED if approved else State.QUARANTINED)
    assert one.answerer == ("" if approved else "table t")
    assert ("ann in MLflow's review queue" in one.reason) is True
    assert review.ask() == (0, 0, 0)


@pytest.mark.slow
def test_another_answer_takes_the_place_of_a_programs(review: Review) -> None:
    review.ledger.record([report(PROMPT, "Accra.", model_name=review.name, answerer="table t")])
    review.ask()
    review.says(review.item(PROMPT, "Accra."), right=False, wanted="Lomé.")
    review.collect()
    assert review.states() == {"Accra.": State.QUARANTINED, "Lomé.": State.ACCEPTED}
    assert review.correction("Lomé.").reporters == ("ann",)


@pytest.fixture
def contradicted(review: Review) -> Review:
    """Two reporters want different answers to a prompt, and both were put up."""
    said = [report(PROMPT, text, text, model_name=review.name) for text in ("Lomé.", "Kara.")]
    review.ledger.record(said)
    assert review.ask() == (2, 2, 0)
    return review


def test_a_yes_to_one_of_two_closes_the_question_about_the_other(contradicted: Review) -> None:
    contradicted.says(contradicted.item(PROMPT, "Lomé."), right=True)
    contradicted.collect()
    assert contradicted.states() == {"Lomé.": State.ACCEPTED, "Kara.": State.QUARANTINED}
    assert [item.status for item in contradicted.items()] == ["complete"]


def test_a_yes_to_both_is_asked_again(contradicted: Review) -> None:
    contradicted.says(contradicted.item(PROMPT, "Lomé."), right=True)
    contradicted.says(contradicted.item(PROMPT, "Kara."), right=True, who="bob")
    reviewed = contradicted.collect()
    assert (len(reviewed.done), len(reviewed.open)) == (0, 2)
    assert "(by ann, bob); say Yes to one of them" in reviewed.open[0]
    assert set(contradicted.states().values()) == {State.CONFLICTING}
    contradicted.says(contradicted.item(PROMPT, "Kara."), right=False, who="bob")
    contradicted.mark(contradicted.item(PROMPT, "Lomé."), "complete", "ann")
    assert len(contradicted.collect().done) == 2
    assert contradicted.states() == {"Lomé.": State.ACCEPTED, "Kara.": State.QUARANTINED}


@pytest.mark.slow
def test_a_third_answer_that_comes_meanwhile_is_asked_about_too(contradicted: Review) -> None:
    contradicted.says(contradicted.item(PROMPT, "Lomé."), right=True)
    contradicted.ledger.record([report(PROMPT, "Accra.", "s3", model_name=contradicted.name)])
    (line,) = contradicted.collect().done
    assert "another answer has come in since" in line
    assert set(contradicted.states().values()) == {State.CONFLICTING}
    assert contradicted.ask() == (3, 3, 0)
    contradicted.says(contradicted.item(PROMPT, "Lomé."), right=True)
    contradicted.collect()
    assert contradicted.states()["Lomé."] is State.ACCEPTED


def test_two_who_disagree_are_asked_again_until_they_agree(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask()
    item = review.item(PROMPT)
    review.says(item, wanted="Lomé.", who="ann", done=False)
    review.says(item, wanted="Kara.", who="bob")
    (line,) = review.collect().open
    assert line.endswith("asked again: ann and bob disagree; change or delete one of the answers")
    assert review.states() == {None: State.NEEDS_ANSWER}
    review.says(item, wanted="Lomé.", who="bob")
    (line,) = review.collect().done
    assert line.endswith("answered by ann and bob")
    assert review.states()["Lomé."] is State.ACCEPTED


def test_an_answer_that_was_changed_later_is_carried_out_as_it_is_now(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask()
    item = review.item(PROMPT)
    review.says(item, wanted="Lome.")
    review.collect()
    for text, states in (
        ("Lomé.", {"Lome.": State.QUARANTINED, "Lomé.": State.ACCEPTED}),
        ("Lome.", {"Lome.": State.ACCEPTED, "Lomé.": State.QUARANTINED}),
    ):
        review.says(item, wanted=text, done=False)
        assert len(review.collect().done) == 1
        assert {text: review.states()[text] for text in states} == states
        assert review.collect().done == []


@pytest.mark.slow
def test_a_yes_that_becomes_a_no_and_a_yes_again(review: Review) -> None:
    review.ledger.record([report(PROMPT, "Lomé.", model_name=review.name, answerer="table t")])
    review.ask()
    item = review.item(PROMPT, "Lomé.")
    for right in (True, False, True):
        review.says(item, right=right)
        review.collect()
        one = review.correction("Lomé.")
        assert (one.state is State.ACCEPTED, one.answerer == "") == (right, right)


@pytest.mark.slow
def test_what_was_carried_out_stays_when_the_answer_is_deleted(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask()
    item = review.item(PROMPT)
    (made,) = review.says(item, wanted="Lomé.")
    review.collect()
    with review.store():
        mlflow.delete_assessment(trace_id=item.trace_id, assessment_id=made.assessment_id)
    (line,) = review.collect().done
    assert line.endswith("no answer, no change")
    assert review.states()["Lomé."] is State.ACCEPTED
    assert review.collect().done == []


def test_nothing_that_was_decided_meanwhile_is_decided_again(review: Review) -> None:
    review.ledger.record([report(PROMPT, "Lomé.", model_name=review.name, answerer="table t")])
    review.ledger.record([report("Capital of Mali?", None, model_name=review.name)])
    review.ask()
    review.says(review.item(PROMPT, "Lomé."), right=True)
    retired = review.correction("Lomé.").id
    review.ledger.transition(retired, State.RETIRED, "withdrawn by eve: old", model_name=review.name)
    mali = review.correction(None).id
    review.ledger.answer(mali, "Bamako.", "eve", model_name=review.name)
    (line,) = review.collect().done
    assert line.endswith("nothing was left to do: it is retired: withdrawn by eve: old")
    assert review.correction("Lomé.").state is State.RETIRED
    # Nobody has to answer what eve has.
    assert [item.status for item in review.items()] == ["complete"]


@pytest.mark.slow
def test_one_that_is_declined_waits_on_and_is_not_asked_again(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask()
    item = review.item(PROMPT)
    review.mark(item, "declined", "ann")
    (line,) = review.collect().open
    assert "declined: nobody answers it here" in line
    assert (review.collect().open, review.ask()) == ([], (0, 0, 0))
    assert review.states() == {None: State.NEEDS_ANSWER}
    review.mark(item, "pending", None)
    review.says(item, wanted="Lomé.")
    assert len(review.collect().done) == 1


@pytest.mark.slow
def test_a_persons_word_counts_though_a_program_has_answered_or_its_answer_serves(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask()
    review.says(review.item(PROMPT), wanted="Lomé.")
    bare = review.correction(None).id
    review.ledger.answer(bare, "Accra.", "table t", program=True, model_name=review.name)
    review.collect()
    assert review.states() == {None: State.DUPLICATE, "Accra.": State.QUARANTINED, "Lomé.": State.ACCEPTED}

    review.ledger.record([report("Capital of Mali?", "Kati.", model_name=review.name, answerer="table t")])
    review.ask()
    review.says(review.item("Capital of Mali?", "Kati."), right=False)
    kati = review.correction("Kati.").id
    review.ledger.transition(kati, State.ACTIVE, "held by champion 2", model_name=review.name)
    review.collect()
    assert review.states()["Kati."] is State.QUARANTINED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "method"),
    [(Ledger, "answer"), (Ledger, "resolve"), (Ledger, "transition"), (Queue, "note")],
)
def test_one_that_is_killed_and_comes_again_ends_the_same(
    review: Review, owner: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    review.ledger.record([report("Capital of Mali?", None, model_name=review.name)])
    for prompt in (PROMPT, "Capital of Peru?"):
        review.ledger.record([report(prompt, prompt[-6:], model_name=review.name, answerer="table t")])
    review.ask()
    review.says(review.item("Capital of Mali?"), wanted="Bamako.")
    review.says(review.item(PROMPT, PROMPT[-6:]), right=True)
    review.says(review.item("Capital of Peru?", " Peru?"), right=False)
    with monkeypatch.context() as patch:
        kill(patch, owner, method, "after")
        with pytest.raises(Killed):
            review.collect()
    review.collect()
    found = review.ledger.corrections(review.name)
    assert {(one.prompt, one.state, one.answerer) for one in found} == {
        ("Capital of Mali?", State.DUPLICATE, ""),
        ("Capital of Mali?", State.ACCEPTED, ""),
        (PROMPT, State.ACCEPTED, ""),
        ("Capital of Peru?", State.QUARANTINED, "table t"),
    }
    assert sum(one.reports for one in found) == 4
    histories = [review.ledger.history(one.id, model_name=review.name) for one in found]
    assert sorted(map(len, histories)) == [2, 3, 3, 3]
    assert (review.collect().done, review.ask()) == ([], (0, 0, 0))
