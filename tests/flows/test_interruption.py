"""A correction run that is killed with SIGKILL and run again ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.correct import correct
from flows.settings import CorrectSettings
from tasks.ledger import Ledger
from tasks.registry import describe
from tests.flows.conftest import World

# Runs the flow in a process of its own, which dies just before or just after a function was called.
DIES = """
import functools, importlib, json, os, signal, sys
from flows.settings import CorrectSettings
settings, module, name, when = json.loads(sys.argv[1])
place = importlib.import_module(module)
target = place
*path, last = name.split(".")
for part in path:
    target = getattr(target, part)
original = getattr(target, last)

@functools.wraps(original)
def dying(*args, **kwargs):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(target, last, dying)
from flows.correct import correct
correct(CorrectSettings.model_validate(settings))
"""


def run_and_die(settings: CorrectSettings, module: str, name: str, when: str) -> None:
    from prefect.settings import PREFECT_API_URL

    arguments = json.dumps([settings.model_dump(mode="json"), module, name, when])
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    done = subprocess.run(
        [sys.executable, "-c", DIES, arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def end_state(settings: CorrectSettings) -> dict[str, Any]:
    state = describe("tiny", tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger:
        return {
            "versions": [v.tags["mendflow.delta_digest"] for v in state.versions],
            "champion": state.champion,
            "previous": state.previous,
            "candidate": state.candidate,
            "corrections": {c.id: (c.state, c.reports) for c in ledger.corrections("tiny")},
            "promotions": [
                (p.action, p.from_version, p.to_version, p.phase) for p in ledger.promotion_log("tiny")
            ],
        }


@pytest.fixture
def undisturbed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The end state of the same run in another home, with nothing in its way."""
    home = tmp_path / "undisturbed"
    home.mkdir()
    settings = world.settings.model_copy(update={"home": home})
    monkeypatch.setenv("MENDFLOW_HOME", str(home))
    assert correct(settings).outcome == "promoted"
    monkeypatch.setenv("MENDFLOW_HOME", str(world.settings.home))
    return end_state(settings)


@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        pytest.param("tasks.ledger", "Ledger.record", "after", id="after collecting", marks=pytest.mark.slow),
        pytest.param("tasks.apply", "_unit_seconds", "after", id="during apply", marks=pytest.mark.slow),
        pytest.param("tasks.register", "_log_model", "after", id="during register"),
        pytest.param("tasks.validate", "_read", "before", id="during validate", marks=pytest.mark.slow),
        pytest.param("tasks.promotion", "_carry_out", "before", id="before promote", marks=pytest.mark.slow),
        pytest.param("tasks.promotion", "_carry_out", "after", id="after promote"),
    ],
)
def test_killed_and_run_again_ends_the_same(
    world: World, undisturbed: dict[str, Any], module: str, name: str, when: str
):
    run_and_die(world.settings, module, name, when)
    correct(world.settings)
    assert end_state(world.settings) == undisturbed
