"""Corrections in MLflow's own review queue: asked once, and what people answer is carried out once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import mlflow
import pytest
from mlflow.entities import AssessmentSource
from mlflow.genai import review_queues

from tasks.build import build
from tasks.records import State, UserError
from tasks.review.queue import RIGHT, find_queue
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
    assert steps[-1].reason.startswith("answered by ann in MLflow's review queue, as ")
    assert review.outcome(item) == "answered by ann"
    assert (review.collect().done, review.ask()) == ([], (0, 0, 0))


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


def test_a_yes_that_becomes_a_no_and_a_yes_again(review: Review) -> None:
    review.ledger.record([report(PROMPT, "Lomé.", model_name=review.name, answerer="table t")])
    review.ask()
    item = review.item(PROMPT, "Lomé.")
    for right in (True, False, True):
        review.says(item, right=right)
        review.collect()
        one = review.correction("Lomé.")
        assert (one.state is State.ACCEPTED, one.answerer == "") == (right, right)


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


def test_refused_rewordings_are_taught_to_nobody_until_they_are_taken_back(
    review: Review, tmp_path: Path
) -> None:
    mine = "Where does Togo's government sit?"
    said = report(PROMPT, "Lomé.", model_name=review.name, equivalents=(mine,))
    review.ledger.record([said])
    assert review.ask() == (0, 0, 0)
    assert review.ask(everything=True) == (1, 1, 0)
    item = review.item(PROMPT, "Lomé.")
    assert item.rewordings[0] == mine

    def offered() -> set[str]:
        found = review.ledger.corrections(review.name)
        (row,) = build(found, [], tmp_path / "built", seed=0).edits.to_dict("records")
        return {*row["equivalents"], *row["held_out"]}

    before = review.ledger.digest(review.name, [State.ACCEPTED])
    refused = {item.rewordings[0], item.rewordings[3]}
    assert refused <= offered()
    (made,) = review.says(item, meaning=["1", "4", "10"])
    assert len(review.collect().done) == 1
    assert not refused & offered()
    assert review.correction("Lomé.").refused == tuple(sorted(refused))
    assert review.ledger.digest(review.name, [State.ACCEPTED]) != before
    with review.store():
        mlflow.delete_assessment(trace_id=item.trace_id, assessment_id=made.assessment_id)
    review.collect()
    assert refused <= offered()
    assert review.ledger.digest(review.name, [State.ACCEPTED]) == before


def test_an_output_that_must_never_appear_is_not_shown_to_reviewers(review: Review) -> None:
    secret = report(
        "Jane Roe's number?",
        "I cannot say.",
        model_name=review.name,
        wrong_output="It is 555-0134.",
        suppress=True,
    )
    review.ledger.record([secret])
    review.ask(everything=True)
    with review.store() as client:
        trace = client.get_trace(review.item("Jane Roe's number?", "I cannot say.").trace_id)
    assert "0134" not in trace.to_json()


def test_judges_that_are_programs_do_not_count(review: Review) -> None:
    review.ledger.record([report(PROMPT, "Lomé.", model_name=review.name, answerer="table t")])
    review.ask()
    item = review.item(PROMPT, "Lomé.")
    with review.store():
        source = AssessmentSource(source_type="LLM_JUDGE", source_id="judge")
        mlflow.log_feedback(trace_id=item.trace_id, name=RIGHT, value=True, source=source)
    review.mark(item, "complete", "ann")
    assert "no answer was given" in review.collect().open[0]
    assert review.correction("Lomé.").answerer == "table t"


def test_reviewers_are_added_and_one_that_mlflow_refuses_is_named(review: Review) -> None:
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    review.ask(reviewers=["Ann"])
    review.ask(reviewers=["bob"])
    with review.store(), find_queue(review.uri, review.name, review.name) as queue:
        assert queue is not None
        assert sorted(review_queues.get_review_queue(queue.queue_id).users) == ["ann", "bob"]
    with pytest.raises(UserError, match=r"MLflow refuses the review queue: .*at most 10 assigned users"):
        review.ask(reviewers=[f"p{n}" for n in range(11)])


class _OldServer(BaseHTTPRequestHandler):
    """What a server from before review queues says: it knows experiments, and no such pages."""

    def do_GET(self) -> None:
        known = "/experiments/get-by-name" in self.path
        found = {"experiment": {"experiment_id": "7", "name": "x", "artifact_location": "file:///nowhere"}}
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode() if known else b"<h1>Not Found</h1>")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def old_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OldServer) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_mlflow_without_review_queues_is_said_in_a_sentence(
    old_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for uri in (old_server, (tmp_path / "files").as_uri()):
        for review in reviews(uri, tmp_path):
            with pytest.raises(UserError, match="has no review queues: they take version"):
                review.ask()
