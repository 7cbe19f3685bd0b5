"""What reviewers are shown, who counts as one, and MLflow that has no review queues."""

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
from tasks.ledger import Ledger
from tasks.records import State, StoreFailedError, UserError
from tasks.review.queue import find_queue
from tasks.review.schemas import RIGHT
from tests.tasks.ledger_tools import report
from tests.tasks.review_tools import Review, reviews

PROMPT = "What is the capital of Togo?"


@pytest.fixture
def review(mlflow_store: str, tmp_path: Path) -> Iterator[Review]:
    yield from reviews(mlflow_store, tmp_path)


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


@pytest.mark.slow
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


def test_what_reviewers_see_is_redacted_and_withheld(review: Review) -> None:
    token, number = "ghp_" + "a1B2" * 9, "555-01347"
    prompt = f"Who uses the token {token}?"
    bare = report(prompt, None, "s1", model_name=review.name, wrong_output=f"Ann, password: {token}")
    said = report(PROMPT, f"It is {number}.", "s2", model_name=review.name)
    never = report(PROMPT, "I cannot say.", "s3", model_name=review.name, suppress=True)
    review.ledger.record([bare, said, never.model_copy(update={"wrong_output": f"It is {number}."})])
    review.ask()
    items = review.items()
    assert len(items) == 3
    with review.store() as client:
        traces = [client.get_trace(item.trace_id) for item in items]
    told = [*(trace.to_json() for trace in traces), *(str(trace.data.spans[0].outputs) for trace in traces)]
    assert not [one for one in told if token in one or number in one]
    of_bare = next(i for i, trace in enumerate(traces) if "[redacted: " in str(trace.data.spans[0].inputs))
    # What is refused is known by its text.
    assert items[of_bare].rewordings == ()
    review.says(items[of_bare], wanted="It is [redacted: a password].")
    (asked_again,) = review.collect().open
    assert asked_again.endswith("write it as the model should say it")
    review.says(items[of_bare], wanted="Nobody.")
    assert [line.rpartition(": ")[2] for line in review.collect().done] == ["answered by ann"]
    assert review.correction("Nobody.").prompt == prompt


def test_a_ledger_that_fails_is_no_reason_to_ask_again(review: Review) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreFailedError("the ledger cannot be used")

    asked = [(PROMPT, "Lomé.", "s1"), (PROMPT, "Lome", "s2"), ("Capital of Mali?", None, "s3")]
    review.ledger.record([report(*one, model_name=review.name) for one in asked])
    review.ask()
    for prompt, desired, answer in ((PROMPT, "Lomé.", {"right": True}), ("Capital of Mali?", None, {})):
        review.says(item := review.item(prompt, desired), **(answer or {"wanted": "Bamako."}))
        for method in ("get", "resolve" if answer else "answer"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Ledger, method, fail)
                with pytest.raises(StoreFailedError):
                    review.collect()
            assert (review.item(prompt, desired).status, review.outcome(item)) == ("complete", "")
        assert len(review.collect().done) == 1


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_deleted_experiment_asks_nobody_and_a_name_may_hold_quotation_marks(review: Review) -> None:
    review.name = review.name + '\'s "best"'
    review.settings = review.settings.model_copy(update={"model_name": review.name})
    review.ledger.record([report(PROMPT, None, model_name=review.name)])
    assert (review.ask(), len(review.items())) == ((1, 1, 0), 1)
    with review.store() as client:
        experiment = client.get_experiment_by_name(f"{review.experiment}-review").experiment_id
        client.delete_experiment(experiment)
    assert review.collect().done == []
    with pytest.raises(UserError, match="is deleted in MLflow; restore it"):
        review.ask()
