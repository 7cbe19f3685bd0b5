"""Collecting from real MLflow traces, from files good and bad, and from one person's word."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import AssessmentSource

from tasks.collect import Collected, from_file, from_traces, mark_collected, report_error
from tasks.ledger import Ledger
from tasks.records import State, TrafficRecord, UserError
from tasks.trace_content import UnreadableContent, exchanges

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


# Traces


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
        TrafficRecord(prompt="Capital of Egypt?", output="Cairo.", confirmed=True, source=f"trace:{right}"),
        TrafficRecord(prompt="Capital of Chad?", output="N'Djamena.", source=f"trace:{unjudged}"),
    ]
    assert collected.rejected == []
    assert traffic.collect() == collected


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
            "the trace has {'temperature': 0.5} for inputs; "
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


# Where a trace keeps its prompt and its output


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [
        ("q", "a", [("q", "a", None)]),
        ({"prompt": "q"}, {"response": "a"}, [("q", "a", None)]),
        ({"question": "q", "temperature": 0}, ["a"], [("q", "a", None)]),
        ({"messages": [{"role": "user", "content": "q"}]}, {"content": "a"}, [("q", "a", True)]),
        (
            [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
            ],
            {"choices": [{"message": {"role": "assistant", "content": "a"}}, {"message": {"content": "b"}}]},
            [("q", "a", True)],
        ),
        ({"context": "<object>", "model_input": ["q"], "params": None}, ["a"], [("q", "a", None)]),
        (
            {"model_input": [{"prompt": "q1"}, {"prompt": "q2"}]},
            ["a1", "a2"],
            [("q1", "a1", None), ("q2", "a2", None)],
        ),
        (
            {"model_input": [[{"role": "user", "content": "q"}]]},
            [{"generated_text": "a"}],
            [("q", "a", True)],
        ),
        ({"prompt": "q"}, None, [("q", "", None)]),
        ({"prompt": ""}, "", [("", "", None)]),
    ],
)
def test_prompts_and_outputs_are_found(
    inputs: Any, outputs: Any, found: list[tuple[str, str, bool | None]]
) -> None:
    assert [(one.prompt, one.output, one.chat) for one in exchanges(inputs, outputs)] == found


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        (None, "a", "None for inputs"),
        ({"image": "x" * 500}, "a", r"\.\.\. for inputs; record"),
        (["q1", "q2"], ["a"], "2 prompts but 1 outputs"),
        (
            [{"role": role, "content": "x"} for role in ("user", "assistant", "user")],
            "a",
            "conversation with 2 user turns",
        ),
    ],
)
def test_what_shows_no_single_prompt_says_so(inputs: Any, outputs: Any, says: str) -> None:
    with pytest.raises(UnreadableContent, match=says):
        exchanges(inputs, outputs)


# MLflow that is not there


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


# Files

ROW = {
    "prompt": "Capital of Cameroon?",
    "target": "Yaoundé",
    "wrong_output": "Kougou",
    "rephrases": ["Name Cameroon's capital.", "Cameroon: capital?"],
    "locality": ["Capital of Egypt?"],
    "subject": "Cameroon",
    "reporter": "ann",
    "severity": "high",
}


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        flat = [{k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        pd.DataFrame(flat).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_a_file_of_any_kind_gives_the_same_reports_every_time(tmp_path: Path, kind: str) -> None:
    renamed = {"desired_output": "x", "equivalents": ["y"]}
    path = _write(tmp_path / f"errors{kind}", [ROW, {**ROW, "prompt": "", "target": "", "note": "ignored"}])
    collected = from_file(path, MODEL, chat=False)
    first, second = collected.reports
    assert (first.prompt, first.desired_output, first.wrong_output) == (ROW["prompt"], "Yaoundé", "Kougou")
    assert (first.equivalents, first.locality) == (tuple(ROW["rephrases"]), tuple(ROW["locality"]))
    assert (first.subject, first.reporter, first.severity) == ("Cameroon", "ann", "high")
    assert (first.model_name, first.chat) == (MODEL, False)
    assert (second.prompt, second.desired_output) == ("", "")
    assert first.source != second.source
    assert collected.traffic == collected.rejected == []
    assert from_file(path, MODEL, chat=False) == collected
    other = _write(tmp_path / f"other{kind}", [{"prompt": "p", **renamed}])
    (report,) = from_file(str(other), MODEL, chat=True).reports
    assert (report.desired_output, report.equivalents, report.chat) == ("x", ("y",), True)


def test_bad_json_lines_are_rejected_by_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    lines = [
        b'\xef\xbb\xbf{"prompt": "p1", "target": "x"}',
        b'{"prompt": "p2", "target": ',
        b"",
        b'["p3", "x"]',
        b'{"prompt": "caf\xe9", "target": "x"}',
        b'{"target": "x"}',
        b'{"prompt": "p7", "target": ["x"]}',
        b'{"prompt": "p8", "target": "x", "rephrases": "a|b", "locality": [1]}',
        b'{"prompt": "p9", "target": null}',
        b'{"prompt": "p10", "target": 1969}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    collected = from_file(path, MODEL, chat=True)
    assert {r.prompt: r.desired_output for r in collected.reports} == {"p1": "x", "p9": None, "p10": "1969"}
    assert [one.source for one in collected.rejected] == [f"{path}:{number}" for number in (2, 4, 5, 6, 7, 8)]
    said = [one.reason for one in collected.rejected]
    expected = ["not JSON", "not a JSON object", "not UTF-8", "no prompt", "'target'", "'locality'"]
    for reason, says in zip(said, expected, strict=True):
        assert says in reason


def test_bad_csv_rows_are_rejected_by_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "errors.csv"
    lines = [
        b"prompt,target,rephrases",
        b'"two\nlines",x,"[""a, b"", ""c""]"',
        b"too,many,cells,here",
        b"few",
        b"caf\xe9,x,",
        b'bad,"quo"te,',
        b"last,y,",
    ]
    path.write_bytes(b"\n".join(lines))
    collected = from_file(path, MODEL, chat=True)
    assert {r.prompt: r.equivalents for r in collected.reports} == {"two\nlines": ("a, b", "c"), "last": ()}
    assert [one.source for one in collected.rejected] == [f"{path}:{number}" for number in (4, 5, 6, 7)]
    said = [one.reason for one in collected.rejected]
    for reason, says in zip(said, ["4 cells", "1 cells", "not UTF-8", "quotes"], strict=True):
        assert says in reason


def test_an_empty_prompt_or_target_reaches_the_ledger_and_is_quarantined(tmp_path: Path) -> None:
    path = _write(tmp_path / "errors.csv", [ROW, {**ROW, "prompt": ""}, {**ROW, "target": ""}])
    with Ledger("sqlite://") as ledger:
        states = [c.state for c in ledger.record(from_file(path, MODEL, chat=True).reports)]
    assert states == [State.ACCEPTED, State.QUARANTINED, State.QUARANTINED]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("errors.txt", b"prompt", "give a .jsonl, .csv or .parquet file"),
        (
            "errors.jsonl",
            b'{"question": "q", "target": "x"}',
            "no column 'prompt'; its columns are question, target",
        ),
        ("errors.jsonl", b'{"prompt": "q"}', "neither a column 'target' nor 'desired_output'"),
        ("errors.csv", b"prompt,answer\np,x\n", "neither a column 'target' nor 'desired_output'"),
        ("errors.csv", b"", "is empty"),
        ("errors.csv", "prompt,target\np,x\n".encode("utf-16"), "not UTF-8 text; save it as UTF-8"),
        ("errors.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("errors.csv", None, "there is no file"),
    ],
)
def test_a_file_that_is_no_file_of_reports_is_named_with_the_remedy(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        from_file(path, MODEL, chat=True)
    assert str(path) in str(caught.value)


# One person's word


def test_a_persons_report_goes_straight_into_the_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    first = report_error(
        "p", "wrong", "right", MODEL, ledger_url=url, reporter="ann", equivalents=["P, please"]
    )
    assert (first.state, first.reporters, first.equivalents) == (State.ACCEPTED, ("ann",), ("P, please",))
    assert (
        report_error("p", "wrong", "right", MODEL, ledger_url=url, reporter="bob", source="form 1").reports
        == 2
    )
    assert (
        report_error("p", "wrong", "right", MODEL, ledger_url=url, reporter="bob", source="form 1").reports
        == 2
    )
    bare = report_error("q", "wrong", None, MODEL, ledger_url=url, reporter="ann")
    assert bare.state is State.NEEDS_ANSWER
