"""Recent requests asked of both models: counted, shown side by side, and a gate where one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import correct
from tests.flows.conftest import World
from validation.outcomes import REPLAY

GATE = f"  {REPLAY}: {{min: %s, minimum_n: 3, severity: critical}}\n"


@pytest.mark.slow
def test_recent_requests_are_asked_again_and_what_changed_is_shown(
    taught: Callable[[Path], World], tmp_path: Path
) -> None:
    world = taught(tmp_path / "home")
    gates = tmp_path / "gates.yaml"
    gates.write_text(world.settings.gates.read_text() + GATE % "0.0")
    change = {"editor": "finetune", "training_data": None, "replay": 5, "gates": gates}
    settings = world.settings.model_copy(update=change)
    run = correct(settings)
    assert run.outcome == "promoted", run.reason
    metric = run.metrics[REPLAY]
    assert (metric["n"], metric["champion"], metric["status"]) == (5, 1.0, "passed")
    outcomes = pd.read_parquet(Path(run.folder) / "measured" / "outcomes.parquet")
    replayed = outcomes[outcomes["metric"] == REPLAY]
    assert set(replayed["kind"]) == {"text"}
    assert list(replayed["expected"]) == list(replayed["champion_output"])
    asked = set(outcomes.loc[outcomes["metric"] == "edit_success_greedy", "prompt"])
    assert not asked & set(replayed["prompt"])
    changed = int((replayed["candidate_ok"] == 0).sum())
    assert metric["value"] == 1 - changed / 5
    page = Path(run.report).read_text()
    assert f"{changed} of the last 5 requests" in page
    home = ["--home", str(settings.home)]
    done = CliRunner().invoke(app, ["verify", "tiny", "--remeasure", *home])
    assert (done.exit_code, "holds: PROMOTE" in done.output) == (0, True), done.output


@pytest.mark.slow
def test_a_gate_on_a_replay_that_did_not_take_place_decides_nothing(world: World, tmp_path: Path) -> None:
    gates = tmp_path / "replayed.yaml"
    gates.write_text(world.settings.gates.read_text() + GATE % "0.9")
    run = correct(world.settings.model_copy(update={"gates": gates}))
    assert run.outcome == "insufficient"
    assert f"{REPLAY} was not measured" in run.reason
    assert "Recent requests" not in Path(run.report).read_text()
