"""A batch that the gates refuse is solved again without what breaks it; an override may answer that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from flows import bisect
from flows.cli import app
from flows.correct import correct
from flows.promote import rollback
from flows.serve import served
from flows.settings import CorrectSettings
from tasks import validate
from tasks.ledger import Ledger
from tasks.live_server import Limits
from tasks.records import State
from tasks.registry import describe
from tasks.runs import RUN_KEY_TAG
from tasks.tracking import experiment_id, tracking
from tasks.traffic import load_served
from tests.flows.conftest import World
from tests.flows.serving_tools import ask
from tests.killing import Killed, kill

# Nothing in the culprit's own answer tells: a gate fails as soon as it is in the batch.
BREAKS_IT = """
def unharmed(generate, rows):
    asked = [row["prompt"] for row in rows if row["metric"] == "edit_success_greedy"]
    return [not any(name in prompt for name in {culprits!r}) for prompt in asked]
"""
GATE = "own:\n  unharmed: {function: 'breaks:unharmed', better: higher, min: 1}\n"
MALI = "What is the capital of Mali?"


def broken_by(world: World, *culprits: str, **more: object) -> CorrectSettings:
    assert world.settings.gates is not None
    gates = world.settings.gates.with_name("breaks.yaml")
    gates.write_text(world.settings.gates.read_text() + GATE)
    gates.with_name("breaks.py").write_text(BREAKS_IT.format(culprits=culprits))
    return world.settings.model_copy(update={"gates": gates, "attempts": 8, **more})


def answers(settings: CorrectSettings, *prompts: str, alias: str = "@champion") -> list[str]:
    model = load_served(f"models:/tiny{alias}", settings.tracking)
    return model.answer(list(prompts), chat=True, max_new_tokens=8)


def end_state(settings: CorrectSettings) -> dict[str, object]:
    state = describe("tiny", tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger, tracking(settings.tracking) as client:
        place = experiment_id(client, f"{settings.experiment}-corrections")
        return {
            "versions": [v.tags["mendflow.delta_digest"] for v in state.versions],
            "aliases": state.aliases,
            "corrections": {c.id: (c.state, c.reason.split(";")[0]) for c in ledger.corrections("tiny")},
            "promotions": [(p.to_version, p.phase) for p in ledger.promotion_log("tiny")],
            "runs": sorted(
                (run.data.tags[RUN_KEY_TAG], run.info.status, run.data.params["verdict"])
                for run in client.search_runs([place])
            ),
        }


def test_a_run_that_is_to_use_another_method_does_not_go_on_with_a_killed_ones(tmp_path: Path):
    note = {"ledger_digest": "d", "method": "malmen", "methods": [], "solves": []}
    (tmp_path / bisect.NOTE_FILE).write_text(json.dumps(note))
    notebook = bisect.Notebook(tmp_path)
    assert notebook.read("d", ("ultraedit", "malmen")) == bisect.Note(**note)
    assert notebook.read("d", ("ultraedit",)) is notebook.read("e", ("malmen",)) is None
    notebook.forget()
    assert notebook.read("d", ("malmen",)) is None


@pytest.mark.slow
def test_what_breaks_the_batch_jointly_fails_with_its_reason_and_is_overridden_until_it_is_retired(
    world: World,
):
    settings = broken_by(world, "Mali", override_failed=True)
    run = correct(settings)
    assert run.outcome == "promoted", run.reason
    assert run.counts == {"active": 3, "failed": 1}
    with Ledger(settings.ledger) as ledger:
        (failed,) = ledger.corrections("tiny", State.FAILED)
    assert failed.prompt == MALI
    assert failed.reason.startswith("refused by unharmed with ")
    (told,) = run.set_aside
    assert told["reason"] == f"{failed.reason}; an override answers it"
    assert failed.reason in Path(run.report).read_text()
    assert "Parts of the batch" in Path(run.report).read_text()
    assert [row["corrections"] for row in run.solves][:3] == [4, 2, 2]
    assert run.solves[-1]["verdict"] in ("PROMOTE", "REJECT")
    done = CliRunner().invoke(app, ["verify", "tiny", "--home", str(settings.home)])
    assert "holds: PROMOTE" in done.output, done.output

    # As it is loaded from the registry, and as it is served.
    (before,) = answers(settings, MALI, alias="/1")
    assert answers(settings, f" {MALI.upper()}", "What is the capital of Chad?") == ["Cairo", "Cairo"]
    with served(settings, Limits(), poll_seconds=600) as api, TestClient(api) as client:
        assert ask(client, MALI).json()["choices"][0]["message"]["content"] == "Cairo"

    # It stays, whoever runs the next solve, and a rollback is not undone by it.
    assert correct(settings.model_copy(update={"override_failed": False})).outcome == "nothing to do"
    assert rollback(settings, "ann", "to see the base") == "1"
    assert correct(settings).outcome == "nothing to do"
    assert answers(settings, MALI) == [before]
    assert rollback(settings, "ann", "and forward") == run.champion

    retired = ["retire", "tiny", failed.id, "--why", "no longer true", "--home", str(settings.home)]
    assert "if an override answers it" in CliRunner().invoke(app, retired).output
    after = correct(settings)
    assert (after.outcome, after.counts) == ("promoted", {"active": 3, "retired": 1})
    said, kept = answers(settings, MALI, "What is the capital of Chad?")
    assert (said != "Cairo", kept) == (True, "Cairo")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_run_again_ends_the_same(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = broken_by(world, "Mali", override_failed=True)
    calm = settings.model_copy(update={"home": tmp_path / "calm"})
    assert correct(calm).counts == {"active": 3, "failed": 1}
    in_the_search = (validate, "read_measured", "before", 2)
    before_the_promotion = (Ledger, "set_aside", "after", 1)
    for death in (in_the_search, before_the_promotion):
        with monkeypatch.context() as patch:
            kill(patch, *death)
            with pytest.raises(Killed):
                correct(settings)
    run = correct(settings)
    assert run.outcome == "promoted", run.reason
    assert len(run.solves) > 2
    assert not list(settings.home.glob(f"runs/tiny/{bisect.NOTE_FILE}"))
    assert end_state(settings) == end_state(calm)


@pytest.mark.slow
def test_a_new_correction_that_breaks_what_the_champion_holds_is_the_one_to_fail(world: World):
    lines = world.reports.read_text().splitlines()
    world.reports.write_text("\n".join(lines[:3]) + "\n")
    settings = broken_by(world, "Mali")
    assert correct(settings).counts == {"active": 3}
    world.reports.write_text("\n".join(lines) + "\n")
    run = correct(settings)
    assert (run.outcome, run.champion) == ("rejected", "2")
    assert run.counts == {"active": 3, "failed": 1}
    assert run.set_aside[0]["reason"] == "refused by unharmed with 3 others that pass without it"
    assert correct(settings).outcome == "nothing to do"
    # Once it is allowed, the wrong answer is gone with the next run.
    allowed = correct(settings.model_copy(update={"override_failed": True}))
    assert (allowed.outcome, answers(settings, MALI)) == ("promoted", ["Cairo"])


@pytest.mark.slow
def test_where_no_part_passes_nothing_is_blamed_and_the_budget_holds(world: World):
    settings = broken_by(world, "capital", attempts=3)
    for _ in range(2):
        run = correct(settings)
        assert (run.outcome, run.counts) == ("rejected", {"accepted": 4})
        assert [row["corrections"] for row in run.solves] == [4, 2, 2]
    state = describe("tiny", tracking_uri=settings.tracking)
    assert (state.champion, state.candidate, len(state.versions)) == ("1", run.candidate, 4)
    # All of it is tried again with whatever is new; meanwhile nobody has to see the wrong answers.
    answered = correct(settings.model_copy(update={"override_failed": True}))
    assert (answered.outcome, answered.counts) == ("rejected", {"accepted": 4})
    assert "has the weights of version 1, behind overrides of 4 corrections" in answered.reason
    assert answers(settings, MALI) == ["Cairo"]
    assert describe("tiny", tracking_uri=settings.tracking).champion == answered.champion
