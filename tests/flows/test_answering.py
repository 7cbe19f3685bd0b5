"""Reports that came without an answer, answered by a program: marked, gated more strictly, and held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.answering import AnswerCounts, answer_waiting, open_answerer
from flows.cli import app
from flows.correct import correct
from flows.promote import promote
from flows.settings import CorrectSettings
from tasks.answering.protocol import Answered
from tasks.ledger import Ledger
from tasks.records import State, StoreFailedError, UserError
from tests.flows.conftest import World
from tests.tasks.ledger_tools import MODEL, report


class Saying:
    """Says the same to whatever it is asked, and counts."""

    def __init__(self, text: str, *, repeats: bool) -> None:
        self.name, self.repeats = "program x", repeats
        self.text, self.asked = text, 0

    def answer(self, waiting: Any, progress: Any) -> list[Answered]:
        self.asked += len(waiting)
        return [Answered(self.text, "" if self.text else "it knows nothing")] * len(waiting)


def put(ledger: Ledger, answerer: Saying) -> AnswerCounts:
    settings = CorrectSettings(model_name=MODEL)
    return answer_waiting.fn(settings, ledger, answerer, lambda *_: None)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        opened.record([report("Capital of Togo?", None, "s1", wrong_output="It is Lagos.")])
        opened.record([report("Capital of Mali?", None, "s2"), report("Capital of Mali?", "Kati", "s3")])
        yield opened


def test_what_waits_is_answered_unless_a_person_has_said_the_answer(ledger: Ledger):
    assert put(ledger, Saying("Lome", repeats=True)) == AnswerCounts(asked=2, taken=1)
    (mali,) = ledger.corrections(MODEL, State.NEEDS_ANSWER)
    assert mali.prompt == "Capital of Mali?"
    assert mali.reason.startswith("program x gave no answer: the answer to correction")
    taken = {c.prompt: (c.desired_output, c.answerer) for c in ledger.corrections(MODEL, State.ACCEPTED)}
    assert taken == {"Capital of Togo?": ("Lome", "program x"), "Capital of Mali?": ("Kati", "")}


def test_a_ledger_that_fails_is_no_answer_of_the_programs(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise StoreFailedError("the ledger cannot be used")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "answer", fail)
        with pytest.raises(StoreFailedError):
            put(ledger, Saying("Lome", repeats=False))
    # It is asked again.
    assert put(ledger, Saying("Lome", repeats=False)) == AnswerCounts(asked=2, taken=1)


@pytest.mark.parametrize("repeats", [True, False])
def test_one_without_an_answer_is_asked_again_only_if_it_may_know_more(ledger: Ledger, repeats: bool):
    answerer = Saying("", repeats=repeats)
    assert put(ledger, answerer) == AnswerCounts(2, 0)
    reasons = {c.reason for c in ledger.corrections(MODEL, State.NEEDS_ANSWER)}
    assert reasons == {"program x gave no answer: it knows nothing"}
    put(ledger, answerer)
    assert answerer.asked == (2 if repeats else 4)


def test_the_answer_that_was_reported_as_wrong_is_none(ledger: Ledger):
    assert put(ledger, Saying("Lagos", repeats=True)).taken == 0
    reasons = {c.reason for c in ledger.corrections(MODEL, State.NEEDS_ANSWER)}
    assert "program x gave no answer: what it answers is what was reported as wrong" in reasons


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("large-model", "'large-model' names no answerer; write table:FILE"),
        ("{kind: model, model: x, agreement: 0.5}", "answerer.model.agreement: Input should be greater"),
        ("{kind: model", "not readable"),
        ("table:nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("function:nowhere_at_all:answer", "importing nowhere_at_all, which is no file"),
    ],
)
def test_an_answerer_that_cannot_be_used_is_named_before_any_work(tmp_path: Path, named: str, says: str):
    home = tmp_path / "home"
    done = CliRunner().invoke(app, ["correct", "m", "--home", str(home), "--answerer", named])
    assert isinstance(done.exception, UserError)
    assert says in str(done.exception)
    assert not (home / "runs").exists()


def test_every_answerer_may_be_named_in_short():
    for named, kind in (("model:some/model", "model"), ("{kind: function, function: statistics:mean}", "x")):
        answerer = open_answerer(CorrectSettings(model_name="m", answerer=named))
        assert answerer is not None
        assert answerer.name.startswith(named.partition(":")[0] if kind == "model" else "function")
    assert open_answerer(CorrectSettings(model_name="m")) is None


@pytest.mark.slow
def test_bare_reports_become_a_version_that_waits_for_a_person(world: World):
    prompts, settings = world.report_bare()
    world.settings.gates.write_text(
        world.settings.gates.read_text()
        + "  machine_answered_success_greedy: {min: 0.5, minimum_n: 1, severity: critical}\n"
    )
    run = correct(settings)
    assert run.outcome == "held", run.reason
    assert "A program answered 1 of its corrections" in run.reason
    metric = run.metrics["machine_answered_success_greedy"]
    assert (metric["status"], metric["n"]) == ("passed", 2)
    page = Path(run.report).read_text()
    assert page.count("answered by table right.jsonl") == 1
    assert "3, 1 by a program" in page
    home = ["--home", str(settings.home)]
    listed = CliRunner().invoke(app, ["corrections", "tiny", *home], env={"COLUMNS": "200"}).output
    assert "answered by table right.jsonl" in listed
    assert "table right.jsonl gave no answer" in listed
    # Once a person has promoted it, the next run does not wait again.
    assert promote(settings, None, "ann", "read it") == "2"
    with Ledger(settings.ledger) as ledger:
        (one,) = (c for c in ledger.corrections("tiny", State.ACTIVE) if c.answerer)
        assert one.prompt == prompts[0]
        ledger.record([report("What is the capital of Guam?", "Paris", model_name="tiny")])
    again = correct(settings)
    assert again.outcome == "promoted", again.reason
    done = CliRunner().invoke(app, ["verify", "tiny", *home])
    assert (done.exit_code, "holds: PROMOTE" in done.output) == (0, True), done.output
