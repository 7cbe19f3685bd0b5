"""The bound on solves: what is set aside in one run, however often it is started again."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

from flows.correct import correct
from flows.set_aside import SetAsides
from tasks.ledger import Ledger
from tasks.records import State
from tasks.tracking import experiment_id, tracking
from tests.flows.conftest import LENIENT_GATES, World

# The package's attribute of that name is the flow.
flow = importlib.import_module("flows.correct")


def test_solves_are_counted_across_restarts_and_anew_for_the_next_run(tmp_path: Path):
    assert SetAsides(tmp_path / "m", attempts=2).may_follow("first")
    for _ in range(2):
        SetAsides(tmp_path / "m", attempts=2).note("first")
    assert SetAsides(tmp_path / "m", attempts=2).may_follow("first"), (
        "the same solve, interrupted, counts once"
    )
    assert not SetAsides(tmp_path / "m", attempts=2).may_follow("second")
    assert SetAsides(tmp_path / "m", attempts=3).may_follow("second")
    SetAsides(tmp_path / "m", attempts=2).forget()
    assert SetAsides(tmp_path / "m", attempts=2).may_follow("second")


@pytest.mark.slow
def test_corrections_are_set_aside_no_more_often_for_a_restart(
    world: World, mlflow_store: str, monkeypatch: pytest.MonkeyPatch
):
    # Every solve is refused, and each time one correction is said not to have taken.
    world.settings.gates.write_text(
        LENIENT_GATES + "  perplexity_ratio: {max: 0.0001, minimum_n: 1, severity: critical}\n"
    )
    monkeypatch.setattr(flow, "_broken", lambda outcomes: sorted(set(outcomes["id"]))[:1])
    settings = world.settings.model_copy(update={"tracking_uri": mlflow_store, "model_name": "set-aside"})
    transition, started = Ledger.transition, int(1000 * time.time())

    def dying(self: Ledger, ids: Any, state: State, *args: Any, **more: Any) -> None:
        transition(self, ids, state, *args, **more)
        if state is State.FAILED:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "transition", dying)
        with pytest.raises(KeyboardInterrupt):
            correct(settings)
    assert correct(settings).outcome == "rejected"
    with Ledger(settings.ledger) as ledger:
        assert ledger.counts("set-aside")[State.FAILED] == settings.attempts - 1
    with tracking(mlflow_store) as client:
        place = experiment_id(client, f"{settings.experiment}-corrections")
        runs = client.search_runs([place], f"attributes.start_time >= {started}")
        assert len(runs) == settings.attempts
        assert {(run.info.status, run.data.params["verdict"]) for run in runs} == {("FINISHED", "REJECT")}
