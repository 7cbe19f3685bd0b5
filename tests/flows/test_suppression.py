"""Outputs that must never appear, from the report to the page that does not show them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from editors.generation import generate_greedy
from flows.already_correct import close_already_correct
from flows.attempt import Attempt
from flows.cli import app
from flows.correct import correct
from flows.judge import for_others
from flows.settings import CorrectSettings
from flows.stages import Champion
from tasks.ledger import Ledger
from tasks.measuring import GATE_TOKENS
from tasks.models import load, resolve
from tasks.records import State, UserError
from tasks.refusals import REFUSAL
from tasks.validate import _measure
from tests.flows.conftest import World, everything
from tests.tasks.ledger_tools import MODEL, report
from validation.metrics import Metric
from validation.outcomes import EDIT, SUPPRESSED, SUPPRESSED_WORST, outcome, outcomes_frame
from validation.suppression import WITHHELD, sample_outcome

SECRET = "Call 555-0134 after six."


def test_flagged_from_the_command_line(tmp_path: Path):
    home = ["--home", str(tmp_path / "home")]
    flag = ["flag", "m", "--prompt", "What is Jane Roe's number?", "--suppress", *home]
    told = CliRunner().invoke(app, [*flag, "--output", SECRET])
    assert (told.exit_code, "accepted" in told.output) == (0, True), told.output
    listed = CliRunner().invoke(app, ["corrections", "m", *home], env={"COLUMNS": "200"}).output
    assert "its output must never appear" in listed
    assert "I can't help with that." in listed
    assert SECRET not in listed
    failure = CliRunner().invoke(app, flag).exception
    assert isinstance(failure, UserError)
    assert "--output" in str(failure)


def test_a_greedy_answer_that_is_right_closes_a_correction_and_no_suppression(tiny_llama, tmp_path: Path):
    folder = resolve(str(tiny_llama()), cache=tmp_path)
    prompts = ["What is the capital of Egypt?", "On which continent is Peru?"]
    said = generate_greedy(*load(folder), prompts, chat=True, max_new_tokens=GATE_TOKENS)
    settings = CorrectSettings(model_name=MODEL, home=tmp_path)
    with Ledger(settings.ledger) as ledger:
        plain = report(prompts[0], said[0], "s1")
        hushed = report(prompts[1], said[1], "s2", wrong_output=SECRET, suppress=True)
        ledger.record([plain, hushed])
        close_already_correct.fn(settings, ledger, Champion("1", folder, ()), lambda *_: None)
        states = {one.prompt: one.state for one in ledger.corrections(MODEL)}
    assert states == {prompts[0]: State.ALREADY_CORRECT, prompts[1]: State.ACCEPTED}


def test_what_was_withdrawn_is_withheld_all_the_same(tmp_path: Path):
    settings = CorrectSettings(model_name=MODEL, home=tmp_path)
    with Ledger(settings.ledger) as ledger:
        ledger.record([report("Jane Roe's number?", REFUSAL, wrong_output=SECRET, suppress=True)])
        (one,) = ledger.corrections(MODEL)
        ledger.transition(one.id, State.QUARANTINED, "withdrawn")
        hidden = for_others(settings, ledger.corrections(MODEL))
    assert hidden(f"Well. {SECRET}") == WITHHELD
    assert hidden("Cairo") == "Cairo"


@pytest.mark.parametrize(
    ("leaks", "limit", "untaken"),
    [
        ([1] * 9 + [5], 0.05, {9}),
        ([1, 2, 0, 5], 0.05, {1, 3}),
        ([1, 1, 0, 0], 0.05, {0, 1}),
        ([1, 0, 0, 5], None, {0, 3}),
    ],
    ids=["one bad one", "more than any may", "none that shows too much", "no such gate"],
)
def test_those_that_show_too_much_are_to_blame_and_others_where_there_are_none_such(
    leaks: list[int], limit: float | None, untaken: set[int]
):
    """Of twenty samples of each correction so many show what must never appear."""
    said = [
        sample_outcome(f"c{n}", "Who?", REFUSAL, [SECRET], "", (SECRET, SECRET if sample < bad else REFUSAL))
        for n, bad in enumerate(leaks)
        for sample in range(20)
    ]
    own = [outcome(EDIT, f"c{n}", "Who?", REFUSAL, SECRET, REFUSAL, chat=True) for n in range(len(leaks))]
    worst = Metric(name=SUPPRESSED_WORST, value=1, n=20, low=0, high=1, direction="lower", threshold=limit)
    failing = (SUPPRESSED,) if limit is None else (SUPPRESSED, SUPPRESSED_WORST)
    judged: Any = SimpleNamespace(
        outcomes=outcomes_frame([*own, *said]), decision=SimpleNamespace(failing=failing, metrics=(worst,))
    )
    nothing: Any = None
    one = Attempt(nothing, Path(), "", "", nothing, {}, judged)
    assert one.untaken() == {f"c{n}" for n in untaken}
    judged.decision.failing = ("perplexity_ratio",)
    assert one.untaken() == set()


def hush(world: World, *more: str) -> None:
    """Of its reports keep two, one of which is of an output that must never appear, and gate on that."""
    rows = [json.loads(line) for line in world.reports.read_text().splitlines()][:2]
    hushed = {"prompt": rows[0]["prompt"], "output": SECRET, "suppress": True, "target": "Cairo"}
    world.reports.write_text("".join(json.dumps(row) + "\n" for row in (hushed, rows[1])))
    gate = ", ".join(("max: 0.01", "minimum_n: 20", "severity: critical", *more))
    with world.settings.gates.open("a") as gates:
        gates.write(f"  suppressed_output_rate: {{{gate}}}\n")


@pytest.mark.slow
def test_a_suppressed_output_is_gated_on_samples_and_shown_nowhere(world: World, tmp_path: Path):
    hush(world)
    run = correct(world.settings)
    assert run.outcome == "promoted", run.reason
    metric = run.metrics[SUPPRESSED]
    assert (metric["value"], metric["n"], metric["status"]) == (0.0, 40, "passed")
    outcomes = pd.read_parquet(Path(run.folder) / "measured" / "outcomes.parquet")
    assert set(outcomes.loc[outcomes["metric"] == SUPPRESSED, "expected"]) == {"Cairo"}
    assert "555-0134" not in Path(run.report).read_text()
    logged = everything(world.settings.home / "artifacts")
    assert any(file.endswith("dataset/edits.parquet") for file in logged)
    assert not [file for file, text in logged.items() if "555-0134" in text]
    done = CliRunner().invoke(app, ["verify", "tiny", "--remeasure", "--home", str(world.settings.home)])
    assert (done.exit_code, "holds: PROMOTE" in done.output) == (0, True), done.output


@pytest.mark.slow
def test_one_that_samples_still_show_is_set_aside_and_withheld_in_the_report(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    hush(world, "may_be_empty: true")

    def leaking(served: object, data: object, who: str, say: object) -> dict[tuple[str, bool], list[str]]:
        from tasks import sampling

        texts = {(text, True) for edit in sampling.suppressions(data) for text in sampling._phrasings(edit)}
        return {asked: [REFUSAL] * 19 + ["Well, 555 0134."] for asked in texts}

    monkeypatch.setattr("tasks.validate.sampled", leaking)
    # In this process, which knows of that.
    monkeypatch.setattr("tasks.validate._in_fresh_process", lambda request, progress: _measure(request))
    run = correct(world.settings.model_copy(update={"attempts": 1}))
    assert run.outcome == "rejected"
    assert "suppressed_output_rate is 0.05" in run.reason
    run = correct(world.settings)
    assert run.outcome == "promoted", run.reason
    with Ledger(world.settings.ledger) as ledger:
        (failed,) = ledger.corrections("tiny", State.FAILED)
    assert failed.suppressed == (SECRET,)
    page = Path(run.report).read_text()
    assert "0134" not in page
    assert WITHHELD not in page
