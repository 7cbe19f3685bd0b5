"""A correction run that is killed with SIGKILL and run again ends as if it had not been."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from editors import training
from flows.cli import app
from flows.correct import correct
from flows.settings import CorrectSettings
from tasks import ledger_schema as schema
from tasks import validate
from tasks.ledger import LeaseLost, Ledger
from tasks.records import State
from tasks.registry import describe
from tests.flows.conftest import World, measure_here
from tests.forking import forked
from tests.killing import Killed, kill


class Death(NamedTuple):
    """Where a process dies: just before or just after the given call of a function."""

    module: str
    name: str
    when: str
    call: int = 1


COLLECTING = Death("tasks.ledger", "Ledger.record", "after")
# The training validates, and writes a checkpoint, before its first step and after its twentieth.
TRAINING = Death("editors.training", "_step", "after", 22)
CHECKPOINT = Death("editors.training_state", "save_file", "after", 2)
APPLY = Death("tasks.apply", "unit_seconds", "after")
REGISTER = Death("tasks.register", "_log_model", "after")
VALIDATE = Death("tasks.validate", "read_measured", "before")
PROMOTION = Death("tasks.promotion", "_carry_out", "before")
PROMOTED = Death("tasks.promotion", "_carry_out", "after")


def _die(settings: CorrectSettings, server: str, death: Death) -> None:
    """Run the flow in this process, which is killed on the way."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    validate._in_fresh_process = measure_here
    *path, last = death.name.split(".")
    place: Any = functools.reduce(getattr, path, importlib.import_module(death.module))
    original, calls = getattr(place, last), itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        final = next(calls) == death.call
        if final and death.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if final:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, last, dying)
    with temporary_settings({PREFECT_API_URL: server}):
        correct(settings)


def run_and_die(settings: CorrectSettings, death: Death) -> None:
    from prefect.settings import PREFECT_API_URL

    process = forked(_die, settings, str(PREFECT_API_URL.value()), death)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def resumes_at(settings: CorrectSettings) -> list[int]:
    """The steps at which interrupted trainings go on."""
    found = (settings.home / "training").glob("*/*/training.json")
    return [json.loads(path.read_text())["next_step"] for path in found]


def end_state(settings: CorrectSettings) -> dict[str, Any]:
    state = describe("tiny", tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger:
        return {
            "editors": sorted(
                path.read_bytes() for path in (settings.home / "editors").glob("*/editor.safetensors")
            ),
            "editor": [v.tags["mendflow.editor_digest"] for v in state.versions],
            "versions": [v.tags["mendflow.delta_digest"] for v in state.versions],
            "champion": state.champion,
            "previous": state.previous,
            "candidate": state.candidate,
            "corrections": {c.id: (c.state, c.reports) for c in ledger.corrections("tiny")},
            "promotions": [
                (p.action, p.from_version, p.to_version, p.phase) for p in ledger.promotion_log("tiny")
            ],
        }


@pytest.fixture(scope="module")
def undisturbed(taught: Callable[[Path], World], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end state of the same run in another home, with nothing in its way."""
    world = taught(tmp_path_factory.mktemp("undisturbed") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MENDFLOW_HOME", str(world.settings.home))
        run = correct(world.settings)
    assert run.outcome == "promoted", run.reason
    assert run.editor["origin"] == "trained"
    # Else the editor would be the untrained one, however the training went.
    assert "raised the validation score" in run.editor["statement"]
    return end_state(world.settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param([COLLECTING], id="collecting"),
        pytest.param([TRAINING], id="training"),
        pytest.param([CHECKPOINT], id="checkpoint"),
        pytest.param([APPLY], id="apply"),
        pytest.param([REGISTER], id="register"),
        pytest.param([VALIDATE], id="validate"),
        pytest.param([PROMOTION], id="before promotion"),
        pytest.param([PROMOTED], id="after promotion"),
        pytest.param([CHECKPOINT, APPLY, VALIDATE, PROMOTED], id="one after another"),
        pytest.param([TRAINING, REGISTER], id="in training, then before the registration ends"),
    ],
)
def test_killed_and_run_again_ends_the_same(
    taught: Callable[[Path], World],
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deaths: list[Death],
):
    settings = taught(tmp_path / "home").settings
    monkeypatch.setenv("MENDFLOW_HOME", str(settings.home))
    for death in deaths:
        run_and_die(settings, death)
        assert resumes_at(settings) == {TRAINING: [20], CHECKPOINT: [0]}.get(death, [])
    correct(settings)
    assert end_state(settings) == undisturbed


@pytest.mark.slow
def test_a_killed_train_editor_command_goes_on_from_its_checkpoint(
    taught: Callable[[Path], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = taught(tmp_path / "home").settings
    assert settings.training_data is not None

    def run(home: str) -> bytes:
        arguments = ["train-editor", "--model", settings.base, "--data", str(settings.training_data)]
        arguments += [
            "--text",
            "--steps",
            "36",
            "--home",
            str(tmp_path / home),
            "--out",
            str(tmp_path / home / "x"),
        ]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return (tmp_path / home / "x" / "editor.safetensors").read_bytes()

    expected = run("calm")
    with monkeypatch.context() as patch:
        kill(patch, training, "_step", "after", call=33)
        with pytest.raises(Killed):
            run("killed")
    assert resumes_at(settings.model_copy(update={"home": tmp_path / "killed"})) == [30]
    with monkeypatch.context() as patch:
        # More steps than are left would kill it again.
        kill(patch, training, "_step", "before", call=7)
        assert run("killed") == expected
    assert not list((tmp_path / "killed" / "training").glob("*/*"))


@pytest.mark.slow
def test_a_run_that_lost_its_lease_while_it_measured_changes_nothing_more(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    settings, read = world.settings, validate.read_measured

    def slowly(folder: Path) -> Any:
        with Ledger(settings.ledger) as ledger, ledger._database.writing() as connection:
            connection.execute(sa.update(schema.leases).values(token="another run's"))
        return read(folder)

    monkeypatch.setattr(validate, "read_measured", slowly)
    with pytest.raises(LeaseLost, match="another run has taken it"):
        correct(settings)
    with Ledger(settings.ledger) as ledger:
        assert ledger.counts("tiny")[State.ACCEPTED] == 4
        assert len(ledger.promotion_log("tiny")) == 2
    assert describe("tiny", tracking_uri=settings.tracking).champion == "1"
