"""Collecting from real MLflow traces, and MLflow that is not there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from tasks.collect import Collected, from_traces, mark_collected
from tasks.ledger import Ledger
from tasks.records import State, TrafficRecord, UserError
from validation.flooding import named

# MLflow warns about its own type hints when it first traces.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")

MODEL = "capitals"
_NUMBERS = count()


class Traffic:
    """One experiment of a real store, and the means to put traces and judgements into it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.experiment = f"collect-{next(_NUMBERS)}"
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        self.experiment_id = self.client.create_experiment(
            self.experiment, artifact_location="file:///nowhere"
        )

    def ask(self, inputs: Any, outputs: Any, **tags: str) -> str:
        root = self.client.start_trace("ask", inputs=inputs, tags=tags, experiment_id=self.experiment_id)
        inner = self.client.start_span("generate", root.trace_id, root.span_id, inputs={"prompt": "inner"})
        self.client.end_span(root.trace_id, inner.span_id, outputs="inner")
        self.client.end_trace(root.trace_id, outputs=outputs)
        return root.trace_id

    def judge(self, trace_id: str, value: Any, who: str = "ann", name: str = "correct") -> Any:
        source = AssessmentSource(source_type="HUMAN", source_id=who)
        return mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source)

    def expect(self, trace_id: str, value: Any) -> None:
        source = AssessmentSource(source_type="HUMAN", source_id="ann")
        mlflow.log_expectation(trace_id=trace_id, name="expected_response", value=value, source=source)

    def collect(self, **settings: Any) -> Collected:
        return from_traces(self.uri, self.experiment, MODEL, **settings)


@pytest.fixture
def traffic(mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_store)
    _trace_asynchronously(monkeypatch, False)
    yield Traffic(mlflow_store)
    mlflow.set_tracking_uri(before)
    monkeypatch.undo()
    mlflow.tracing.reset()


def _trace_asynchronously(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    """Tracing in the background takes a second to flush, so only the test that is about it does."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", str(wanted).lower())
    mlflow.tracing.reset()


def test_a_flagged_trace_is_a_report_and_every_other_is_traffic(traffic: Traffic) -> None:
    wrong = traffic.ask({"prompt": "Capital of Cameroon?"}, "Kougou.", **{"mendflow.version": "3"})
    right = traffic.ask({"prompt": "Capital of Egypt?"}, "Cairo.")
    unjudged = traffic.ask({"prompt": "Capital of Chad?"}, "N'Djamena.")
    traffic.judge(wrong, False, who="ann")
    traffic.expect(wrong, "Yaoundé.")
    traffic.judge(right, True)
    traffic.judge(unjudged, False, name="polite")

    collected = traffic.collect()

    (report,) = collected.reports
    assert (report.prompt, report.wrong_output, report.desired_output) == (
        "Capital of Cameroon?",
        "Kougou.",
        "Yaoundé.",
    )
    assert (report.source, report.reporter) == (f"trace:{wrong}", "ann")
    assert (report.model_name, report.model_version, report.chat) == (MODEL, "3", True)
    assert collected.traffic == [
        TrafficRecord(
            prompt="Capital of Egypt?", output="Cairo.", confirmed=True, whole=False, source=f"trace:{right}"
        ),
        TrafficRecord(
            prompt="Capital of Chad?", output="N'Djamena.", whole=False, source=f"trace:{unjudged}"
        ),
    ]
    assert collected.rejected == []
    assert traffic.collect() == collected


def test_feedback_without_a_source_is_a_report_without_a_name(traffic: Traffic) -> None:
    mlflow.log_feedback(trace_id=traffic.ask("q", "a"), name="correct", value=False)
    (report,) = traffic.collect().reports
    assert named([[report.reporter]]) == set()


def test_the_latest_valid_judgement_counts(traffic: Traffic) -> None:
    forgiven, flagged_late, overridden, failed_judge, word = (
        traffic.ask({"prompt": f"q{n}"}, "a") for n in range(5)
    )
    traffic.judge(forgiven, False)
    traffic.judge(forgiven, True)
    traffic.judge(flagged_late, True)
    traffic.judge(flagged_late, False, who="bob")
    first = traffic.judge(overridden, False)
    mlflow.override_feedback(trace_id=overridden, assessment_id=first.assessment_id, value=True)
    traffic.judge(failed_judge, False)
    mlflow.log_feedback(trace_id=failed_judge, name="correct", error=RuntimeError("the judge broke"))
    traffic.judge(word, "no")
    traffic.expect(word, "first")
    traffic.expect(word, "second")

    collected = traffic.collect()

    assert {report.prompt: report.reporter for report in collected.reports} == {
        "q1": "bob",
        "q3": "ann",
        "q4": "ann",
    }
    assert {report.prompt: report.desired_output for report in collected.reports}["q4"] == "second"
    assert {record.prompt: record.confirmed for record in collected.traffic} == {"q0": True, "q2": True}


@pytest.mark.parametrize(
    ("attributes", "greedy", "whole"),
    [
        ({"max_new_tokens": 48}, True, True),
        ({"max_new_tokens": 24}, True, False),
        ({"max_new_tokens": 24, "temperature": 0.0, "finish_reason": "stop"}, True, True),
        ({"max_new_tokens": 900, "temperature": 0.0, "finish_reason": "length"}, True, False),
        ({"max_new_tokens": 900, "temperature": 0.7, "finish_reason": "stop"}, False, True),
        ({}, True, False),
    ],
)
def test_how_an_answer_was_given_is_read_off_its_trace(
    traffic: Traffic, attributes: dict[str, Any], greedy: bool, whole: bool
) -> None:
    root = traffic.client.start_trace("answer", inputs={"prompt": "q"}, experiment_id=traffic.experiment_id)
    traffic.client.end_trace(root.trace_id, outputs="a", attributes=attributes)
    (record,) = traffic.collect().traffic
    assert (record.greedy, record.whole) == (greedy, whole)


def test_traces_still_on_their_way_are_waited_for(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    _trace_asynchronously(monkeypatch, True)
    asked = {f"trace:{traffic.ask({'prompt': f'q{number}'}, 'a')}" for number in range(30)}
    assert {record.source for record in traffic.collect().traffic} == asked


def test_other_names_for_judgement_and_expectation(traffic: Traffic) -> None:
    trace = traffic.ask("q", "a")
    traffic.judge(trace, False, name="thumb")
    assert traffic.collect().reports == []
    (report,) = traffic.collect(feedback_name="thumb", chat=False).reports
    assert (report.prompt, report.desired_output, report.chat) == ("q", None, False)


def test_a_complaint_that_cannot_be_read_is_rejected_with_its_trace_and_the_rest_goes_on(
    traffic: Traffic,
) -> None:
    shapeless = traffic.ask({"temperature": 0.5}, "a")
    several = traffic.ask(["q1", "q2"], ["a1", "a2"])
    good = traffic.ask("q", "a")
    traffic.ask({"temperature": 0.5}, "unflagged, so no loss")
    for trace in (shapeless, several, good):
        traffic.judge(trace, False)
    collected = traffic.collect()
    assert [report.prompt for report in collected.reports] == ["q"]
    assert [(one.source, one.reason) for one in collected.rejected] == [
        (
            f"trace:{shapeless}",
            "the trace has the fields temperature for inputs; "
            'record them as {"prompt": ...} or {"messages": [...]}',
        ),
        (
            f"trace:{several}",
            "the trace has 2 prompts and the feedback does not say which; record one a trace",
        ),
    ]
    assert collected.traffic == []


def test_a_trace_of_another_model_is_that_models(traffic: Traffic) -> None:
    mine, other, others_traffic = (
        traffic.ask({"prompt": prompt}, "a", **tags)
        for prompt, tags in [("q1", {}), ("q2", {"mendflow.model": "b"}), ("q3", {"mendflow.model": "b"})]
    )
    traffic.judge(mine, False)
    traffic.judge(other, False)
    traffic.judge(others_traffic, True)
    collected = traffic.collect()
    assert {report.prompt: report.model_name for report in collected.reports} == {"q1": MODEL, "q2": "b"}
    assert collected.traffic == []


def test_every_page_is_read_once(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.collect._PAGE", 4)
    asked = [traffic.ask({"prompt": f"q{number}"}, "a") for number in range(9)]
    assert [record.source for record in traffic.collect().traffic] == [f"trace:{trace}" for trace in asked]


def test_traces_round_trip_through_the_ledger_and_back_to_their_tags(traffic: Traffic) -> None:
    trace = traffic.ask({"messages": [{"role": "user", "content": "Capital of Cameroon?"}]}, "Kougou.")
    traffic.judge(trace, False)
    traffic.expect(trace, "Yaoundé.")
    with Ledger("sqlite://") as ledger:
        ledger.record(traffic.collect().reports)
        (correction,) = ledger.record(traffic.collect().reports)
    assert (correction.state, correction.reports, correction.sources) == (
        State.ACCEPTED,
        1,
        (f"trace:{trace}",),
    )
    mark_collected(traffic.uri, correction.sources, correction.state)
    assert traffic.client.get_trace(trace).info.tags["mendflow.state"] == "accepted"


def test_collecting_leaves_the_callers_tracking_uri_alone(traffic: Traffic) -> None:
    mlflow.set_tracking_uri("sqlite:///elsewhere.db")
    traffic.collect()
    assert mlflow.get_tracking_uri() == "sqlite:///elsewhere.db"


def _closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://me:s3cr3t@127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    "make_uri", [_closed_port, lambda: "sqlite:////nowhere/mlflow.db", lambda: "nonesuch://x"]
)
def test_an_unreachable_mlflow_is_named_at_once_without_its_password(make_uri: Callable[[], str]) -> None:
    uri = make_uri()
    with pytest.raises(UserError, match="cannot be used.*correct the tracking URI") as caught:  # noqa: RUF043
        from_traces(uri, "experiment", MODEL)
    assert uri.replace("s3cr3t", "***") in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be used"):
        mark_collected(uri, ["tr-1"], State.ACCEPTED)


def test_a_missing_experiment_or_trace_is_named(traffic: Traffic) -> None:
    with pytest.raises(UserError, match="has no experiment 'nonesuch'; check its name"):
        from_traces(traffic.uri, "nonesuch", MODEL)
    with pytest.raises(UserError, match="tr-nonesuch"):
        mark_collected(traffic.uri, ["tr-nonesuch"], State.ACCEPTED)
