"""What `mendflow up` was told before holds until the model is named again."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.machine import Machine
from flows.parts import ENDPOINT, FOLDER, MLFLOW, PREFECT, WORKER, Serving, environment_of_parts
from flows.told import TOLD_FILE, Telling, Told, and_now, last_told, remember, told_no_more
from tasks.records import UserError
from tests.flows.production import free_port, until
from tests.flows.test_machine import refused

REVIEWED = Told(
    model="m",
    deployments=Path("/srv/mine.yaml"),
    given={"promotion": "review", "attempts": 3},
    ports={PREFECT: 4201},
    serving=Serving(8001, 0.5, 0.0),
)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's tells anything; that of the home is put back."""
    monkeypatch.setenv("MENDFLOW_HOME", "")
    for name in {name for name in os.environ if name.startswith("MENDFLOW_")} - {"MENDFLOW_HOME"}:
        monkeypatch.delenv(name)
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_it_goes_on_with_what_it_was_told_and_what_it_is_told_besides(tmp_path: Path):
    assert last_told(tmp_path) == Told()
    remember(tmp_path, REVIEWED)
    last = last_told(tmp_path)
    assert last == REVIEWED
    assert and_now(last, Telling()) == REVIEWED
    more = and_now(last, Telling(given={"attempts": 5}, ports={MLFLOW: 5001}, canary=0.1))
    assert (more.model, more.deployments) == ("m", REVIEWED.deployments)
    assert more.given == {"promotion": "review", "attempts": 5}
    assert more.ports == {PREFECT: 4201, MLFLOW: 5001}
    assert more.serving == Serving(8001, 0.5, 0.1)
    assert and_now(last, Telling(serve=True)).serving == REVIEWED.serving
    assert and_now(last, Telling(serve_port=8002, shadow=0.0)).serving == Serving(8002, 0.0, 0.0)
    assert told_no_more(last, more) == []


def test_a_model_that_is_named_is_told_of_anew():
    again = and_now(REVIEWED, Telling("m", given={"attempts": 3}))
    assert again == Told(model="m", given={"attempts": 3}, ports={PREFECT: 4201})
    review, deployments, serving = told_no_more(REVIEWED, again)
    assert review.startswith("promotion: review is told no more")
    assert "/srv/mine.yaml" in deployments
    assert "m is served until `mendflow down`" in serving
    served = and_now(REVIEWED, Telling("m", serve=True)).serving
    assert served == Serving(8000)
    # Of the runs of another model nothing was told.
    assert told_no_more(REVIEWED, and_now(REVIEWED, Telling("other"))) == [deployments, serving]
    assert and_now(REVIEWED, Telling("")) == Told(ports={PREFECT: 4201})


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (Telling("m", serve_port=8001), "give --serve too"),
        (Telling("m", shadow=0.0), "give --serve too"),
        (Telling("", serve=True), "--serve serves the model"),
        (Telling("", given={"attempts": 3}), "attempts: settings of the model"),
    ],
)
def test_what_is_told_of_no_model_is_refused(now: Telling, why: str):
    with pytest.raises(UserError, match=why):
        and_now(REVIEWED, now)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "object"),
        (b"\xff", "UnicodeDecodeError"),
        (b'{"model": 1}', r"\(model\)"),
        (b'{"modle": "m", "serving": {"prot": 1}}', "modle"),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path: Path, content: bytes, why: str):
    (tmp_path / TOLD_FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf"told.json does not say what .*{why}.* name --model"):
        last_told(tmp_path)


def test_up_says_what_it_goes_on_with_and_what_is_told_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    (home / FOLDER).mkdir(parents=True)
    told = REVIEWED.model_copy(update={"deployments": None, "variables": ("MENDFLOW_NOTIFY",)})
    remember(home / FOLDER, told)
    monkeypatch.setenv("MENDFLOW_NOTIFY", "slack-webhook/ops")

    def said(*arguments: str) -> str:
        """Of a call that ends where MLflow's port is another program's."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = ["--port", str(free_port()), "--mlflow-port", str(taken.getsockname()[1])]
            done = CliRunner().invoke(
                app, ["up", "--home", str(home), *ports, *arguments], env={"COLUMNS": "300"}
            )
        assert "name another one with --mlflow-port" in str(done.exception)
        return done.output

    again = said("--set", "attempts=4")
    assert "goes on with --model m, promotion: review, attempts: 4, prefect on port" in again
    assert again.split("goes on")[1].splitlines()[0].endswith("served on port 8001, 0.5 in shadow")
    anew = said("--model", "m", "--set", "attempts=4")
    assert "goes on with" not in anew
    assert "promotion: review is told no more" in anew
    # What did not start is not remembered.
    assert last_told(home / FOLDER) == told
    # It is the model's setting that cannot be used, and no setting of none.
    assert "none.yaml is no rule" in refused("up", "--home", str(home), "--set", "redact=none.yaml")
    monkeypatch.delenv("MENDFLOW_NOTIFY")
    assert "MENDFLOW_NOTIFY: set when" in refused("up", "--home", str(home))
    said("--model", "m")
    (home / FOLDER / TOLD_FILE).write_text("{")
    assert "does not say" in refused("up", "--home", str(home))
    assert "does not say" in said("--model", "m")


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
        monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket")
        assert machine.otherwise_set(environment_of_parts(None, tmp_path)) == {
            "MENDFLOW_NOTIFY",
            "MENDFLOW_RATE",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        }
    finally:
        machine.part(WORKER).stop(1)
        machine.part(ENDPOINT).stop(1)


def test_runs_that_the_worker_has_under_way_are_counted(tmp_path: Path):
    """A run is its process and all that this has started; what is no run of Prefect's is none."""
    wait = "import time; time.sleep(600)"
    family = f"""
import os, subprocess, sys
for run in ("one", "two", ""):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', {wait!r}])"
    given = {{"PREFECT__FLOW_RUN_ID": run}} if run else {{}}
    subprocess.Popen([sys.executable, "-c", code], env={{**os.environ, **given}})
{wait}
"""
    machine = Machine(tmp_path)
    assert machine.runs_under_way() == 0
    machine.part(WORKER).start([sys.executable, "-c", family], os.environ)
    try:
        worker = machine.part(WORKER).running()
        assert worker is not None
        until(lambda: len(worker.children(recursive=True)) == 6)
        assert machine.runs_under_way() == 2
    finally:
        machine.part(WORKER).stop(1)
    assert machine.runs_under_way() == 0
