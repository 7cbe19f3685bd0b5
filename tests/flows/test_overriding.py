"""A version with the champion's own weights behind other overrides: asked of a person, or promoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import stages
from flows.approve import approve, reject
from flows.cli import app
from flows.correct import correct
from flows.dataset import build_dataset
from flows.settings import CorrectSettings
from tasks.ledger import Ledger
from tasks.promotion import withdraw
from tasks.records import State
from tasks.registry import describe
from tasks.tracking import tracking
from tests.flows.conftest import World
from tests.flows.webhook import Webhook
from tests.tasks.ledger_tools import report

MALI = "What is the capital of Mali?"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as started:
        yield started


@pytest.fixture
def failed(world: World, webhook: Webhook) -> CorrectSettings:
    """Settings of a model whose only correction failed."""
    settings = world.settings.model_copy(
        update={
            "source": None,
            "override_failed": True,
            "promotion": "review",
            "notify": webhook.save("overrider"),
        }
    )
    with Ledger(settings.ledger) as ledger:
        (one,) = ledger.record([report(MALI, "Bamako", model_name="tiny")])
        ledger.set_aside({one.id: "the edit did not take"}, model_name="tiny")
    return settings


def champion(settings: CorrectSettings) -> str | None:
    return describe("tiny", tracking_uri=settings.tracking).champion


@pytest.mark.slow
def test_a_person_is_told_and_may_approve_it_and_it_goes_with_its_correction(
    failed: CorrectSettings, webhook: Webhook
) -> None:
    for _ in range(2):
        run = correct(failed)
        assert (run.outcome, run.candidate, champion(failed)) == ("held", "2", "1")
    assert "Version 2 has the weights of version 1, behind overrides of 1 corrections." in run.reason
    (told,) = webhook.heard
    assert told.startswith("tiny: version 2: waits for approval, to follow version 1 / Version 2 has")
    decide = failed.decisions("2")
    assert "--version 2" in decide
    assert decide in told
    home = ["--home", str(failed.home)]
    status = CliRunner().invoke(app, ["status", "tiny", *home], env={"COLUMNS": "200"}).output
    assert f"version 2 waits for approval: {decide}" in status

    # Users complained of it as a canary: no program promotes it.
    with Ledger(failed.ledger) as ledger:
        withdraw("tiny", "2", champion="1", ledger=ledger, who="s", why="worse", tracking_uri=failed.tracking)
    run = correct(failed.model_copy(update={"promotion": "auto"}))
    assert (run.outcome, champion(failed)) == ("held", "1")
    assert "It was withdrawn as a canary: worse." in run.reason

    # A run that is refused, or under way, has the alias meanwhile.
    with tracking(failed.tracking) as client:
        client.set_registered_model_alias("tiny", "candidate", "1")
    assert approve(failed, "ann", "read it") == "2"
    said = CliRunner().invoke(app, ["verify", "tiny", *home])
    assert "it has the weights of version 1 behind other overrides; verify that one" in str(said.exception)
    assert correct(failed).outcome == "nothing to do"

    # Once it is withdrawn, nothing is left to answer, and nothing to solve.
    with Ledger(failed.ledger) as ledger:
        (one,) = ledger.corrections("tiny", State.FAILED)
        ledger.transition(one.id, State.RETIRED, "no longer true", model_name="tiny")
    run = correct(failed.model_copy(update={"promotion": "auto"}))
    assert (run.outcome, run.champion, run.previous) == ("promoted", "3", "2")
    told = "Version 3 has the weights of version 2, behind overrides of 0 corrections."
    assert webhook.heard[-1] == f"tiny: version 3: promoted / {told}"


@pytest.mark.slow
def test_the_gates_hold_out_no_phrasing_that_an_override_answers(
    failed: CorrectSettings, tmp_path: Path
) -> None:
    settings = failed.model_copy(update={"held_out": 20, "equivalents": 0})
    with Ledger(settings.ledger) as ledger:
        (solved,) = ledger.record([report("On which continent is Mali?", "Africa", "s2", model_name="tiny")])
        base = stages.find_champion.fn(settings, ledger)

        def held_out(allowed: bool) -> list[str]:
            changed = settings.model_copy(update={"override_failed": allowed})
            dataset, _ = build_dataset.fn(changed, ledger, base, [], tmp_path, lambda *_: None)
            return list(dataset.edits.set_index("id").loc[solved.id, "held_out"])

        all_of_them = held_out(allowed=True)
        (one,) = ledger.record([report(all_of_them[0], "Africa", "s3", model_name="tiny")])
        ledger.set_aside({one.id: "the edit did not take"}, model_name="tiny")
        assert held_out(allowed=False) == all_of_them
        assert held_out(allowed=True) == all_of_them[1:]


@pytest.mark.slow
def test_one_that_a_person_rejected_is_neither_asked_for_again_nor_the_end_of_a_run(
    failed: CorrectSettings, webhook: Webhook
) -> None:
    assert correct(failed).candidate == "2"
    assert reject(failed, "ann", "let them ask") == "2"
    told = len(webhook.heard)
    for promotion in ("review", "auto"):
        run = correct(failed.model_copy(update={"promotion": promotion}))
        assert (run.outcome, run.champion) == ("nothing to do", "1")
        assert "version 2 was rejected by ann: let them ask." in run.reason
        state = describe("tiny", tracking_uri=failed.tracking)
        assert (state.champion, state.candidate) == ("1", None)
        assert state.versions[1].tags["approval"] == "rejected by ann: let them ask"
    assert len(webhook.heard) == told
