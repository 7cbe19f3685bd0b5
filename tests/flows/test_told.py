"""What `mendflow up` was told before holds until the model is named again."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.machine import FOLDER, Machine
from flows.parts import ENDPOINT, MLFLOW, PREFECT, WORKER, Serving, environment_of_parts
from flows.told import TOLD_FILE, Told, last_told, remember
from tasks.records import UserError
from tests.flows.test_machine import free_port, refused

REVIEWED = Told(
    model="m",
    deployments=Path("/srv/mine.yaml"),
    given={"promotion": "review", "attempts": 3},
    ports={PREFECT: 4201},
    serving=Serving(8001, 0.5, 0.0),
)


def test_what_is_told_besides_is_added_and_a_model_named_again_begins_anew(tmp_path: Path):
    assert last_told(tmp_path) == Told()
    remember(tmp_path, REVIEWED)
    last = last_told(tmp_path)
    assert last == REVIEWED
    assert last.and_now(Told()) == REVIEWED
    more = last.and_now(Told(given={"attempts": 5}, ports={MLFLOW: 5001}, serving=Serving(8001, 0.0, 0.1)))
    assert (more.model, more.deployments) == ("m", REVIEWED.deployments)
    assert more.given == {"promotion": "review", "attempts": 5}
    assert more.ports == {PREFECT: 4201, MLFLOW: 5001}
    assert more.serving == Serving(8001, 0.0, 0.1)
    assert last.left_out(more) == []
    anew = Told(model="m", given={"attempts": 3})
    assert last.and_now(anew) == anew
    left = last.left_out(anew)
    assert ["promotion: review" in left[0], "/srv/mine.yaml" in left[1], len(left)] == [True, True, 2]
    # Another model was never told of them.
    assert last.left_out(Told(model="other")) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"model": 1}', b'{"modle": "m"}'])
def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path: Path, content: bytes):
    (tmp_path / TOLD_FILE).write_bytes(content)
    with pytest.raises(UserError, match="name the model and all settings"):
        last_told(tmp_path)


def test_up_says_what_it_goes_on_with_and_what_is_told_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = tmp_path / "home"
    (home / FOLDER).mkdir(parents=True)
    remember(home / FOLDER, REVIEWED.model_copy(update={"deployments": None}))

    def said(*arguments: str) -> str:
        """Of a call that ends where MLflow's port is another program's."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = ["--port", free_port(), "--mlflow-port", str(taken.getsockname()[1])]
            done = CliRunner().invoke(
                app, ["up", "--home", str(home), *ports, *arguments], env={"COLUMNS": "300"}
            )
        assert "name another one with --mlflow-port" in str(done.exception)
        return done.output

    again = said("--set", "attempts=4")
    assert "as told before: --model m, promotion: review, attempts: 4, served on port 8001" in again
    assert "50% in shadow" in again
    anew = said("--model", "m", "--set", "attempts=4")
    assert "as told before" not in anew
    assert "promotion: review is told no more" in anew
    # What did not start is not remembered.
    assert last_told(home / FOLDER).given == REVIEWED.given
    assert "redact" in refused("up", "--home", str(home), "--set", "redact=none.yaml")


def test_a_variable_that_what_runs_was_given_otherwise_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_NOTIFY", "slack-webhook/ops")
    machine, waiting = Machine(tmp_path), [sys.executable, "-c", "import time; time.sleep(600)"]
    now = environment_of_parts(None, tmp_path)
    assert machine.otherwise_set(now) == set()
    machine.part(WORKER).start(waiting, {**now, "MENDFLOW_MODEL": "other"})
    machine.part(ENDPOINT).start(waiting, now)
    try:
        assert machine.otherwise_set(now) == set()
        monkeypatch.delenv("MENDFLOW_NOTIFY")
        monkeypatch.setenv("MENDFLOW_RATE", "7")
        assert machine.otherwise_set(environment_of_parts(None, tmp_path)) == {
            "MENDFLOW_NOTIFY",
            "MENDFLOW_RATE",
        }
    finally:
        machine.part(WORKER).stop(1)
        machine.part(ENDPOINT).stop(1)
