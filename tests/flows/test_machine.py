"""What `mendflow up` starts is found again by its files, and stopped without touching anything else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from flows.background import Background
from flows.cli import app
from flows.cli.options import settings_of
from flows.machine import DEPLOYMENTS, Machine, use_running_server
from flows.parts import PREFECT, environment_of_parts
from flows.registration import deployments_of
from tasks.records import UserError

# Has a child of its own; neither ends by itself, and the child does not end when told.
PARENT = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-u", "-c", stubborn])
time.sleep(600)
"""


@pytest.fixture
def bystander() -> Iterator[psutil.Process]:
    """A process that nobody here started for `up`."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def started(folder: Path, name: str = "part", *, program: str = PARENT) -> Background:
    part = Background(folder, name)
    part.start([sys.executable, "-c", program], os.environ, url="http://127.0.0.1:1")
    deadline = time.monotonic() + 30
    while "up" not in part.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    return part


def point_at(part: Background, process: psutil.Process, started_at: float) -> None:
    """As if this had been the number of what was started then."""
    part.folder.mkdir(parents=True, exist_ok=True)
    known = {"pid": process.pid, "started": started_at, "url": "http://127.0.0.1:1"}
    (part.folder / f"{part.name}.json").write_text(json.dumps(known))


def test_a_part_is_found_by_another_command_and_stopped_with_its_children(tmp_path: Path):
    started(tmp_path)
    # Another command knows the folder alone.
    part = Background(tmp_path, "part")
    process = part.running()
    assert process is not None
    (child,) = process.children()
    assert part.about["url"] == "http://127.0.0.1:1"
    assert part.stop(grace_seconds=1)
    assert part.running() is None
    for one in (process, child):
        assert not one.is_running() or one.status() == psutil.STATUS_ZOMBIE
    assert not part.stop(grace_seconds=1)
    assert part.about == {}


def test_another_process_with_the_same_number_is_left_alone(tmp_path: Path, bystander: psutil.Process):
    part = Background(tmp_path, "part")
    point_at(part, bystander, bystander.create_time() - 3600)
    assert part.running() is None
    assert not part.stop(grace_seconds=1)
    assert bystander.is_running()
    assert bystander.status() != psutil.STATUS_ZOMBIE
    # The same number and start: it is the one.
    point_at(part, bystander, bystander.create_time())
    assert part.running() == bystander


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a start is known by the clock")
def test_a_step_of_the_clock_makes_no_other_process_of_it(tmp_path: Path, bystander: psutil.Process):
    part = started(tmp_path)
    process = part.running()
    assert process is not None
    file = tmp_path / "part.json"
    # All starts are counted from that of the machine, which is moved with the clock.
    file.write_text(json.dumps({**part.about, "started": process.create_time() - 3}))
    assert part.running() == process
    known = part.about
    file.write_text(json.dumps({**known, "pid": bystander.pid, "started": bystander.create_time()}))
    assert part.running() is None
    file.write_text(json.dumps(known))
    assert part.stop(grace_seconds=1)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# As a worker with a run, which starts a process of its own while the worker is told to end.
WORKER_WITH_A_RUN = """
import signal, subprocess, sys, time
from pathlib import Path
ending, started = Path("ending"), Path("started")
run = '''
import subprocess, sys, time
from pathlib import Path
while not Path("ending").exists():
    time.sleep(0.02)
late = subprocess.Popen(["sleep", "600"])
Path("partial").write_text(str(late.pid))
Path("partial").rename("started")
time.sleep(600)
'''
def end(*_):
    ending.touch()
    while not started.exists():
        time.sleep(0.02)
    sys.exit()
signal.signal(signal.SIGTERM, end)
subprocess.Popen([sys.executable, "-c", run])
print("up", flush=True)
time.sleep(600)
"""


def test_what_is_started_while_a_part_is_told_to_end_ends_with_it(tmp_path: Path):
    part = started(tmp_path, program=WORKER_WITH_A_RUN)
    assert part.stop(grace_seconds=10)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(int((tmp_path / "started").read_text())).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x", "started": 0}', '{"pid": 999999999}'])
def test_a_file_that_names_no_process_is_no_process(tmp_path: Path, content: str):
    part = Background(tmp_path, "part")
    (tmp_path / "part.json").write_text(content)
    assert part.running() is None
    assert not part.stop(grace_seconds=1)
    assert not (tmp_path / "part.json").exists()


def test_commands_use_the_running_server_unless_the_user_named_one(
    tmp_path: Path, bystander: psutil.Process, monkeypatch: pytest.MonkeyPatch
):
    server = Machine(tmp_path).part(PREFECT)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    point_at(server, bystander, bystander.create_time() - 3600)
    use_running_server(tmp_path)
    assert "PREFECT_API_URL" not in os.environ
    point_at(server, bystander, bystander.create_time())
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    use_running_server(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://elsewhere/api"
    monkeypatch.delenv("PREFECT_API_URL")
    use_running_server(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:1/api"


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, UserError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_what_stands_in_the_way_is_one_sentence_and_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = str(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused("up", "--home", home, "--port", port)
        assert said == f"port {port} cannot be used (address already in use); name another one with --port"
        # The endpoint's port matters where somebody has a key.
        CliRunner().invoke(app, ["add-reporter", "ann", "--home", home])
        others = ["--port", free_port(), "--mlflow-port", free_port()]
        said = refused("up", "--home", home, *others, "--endpoint-port", port)
        assert said.endswith("name another one with --endpoint-port")
    no_deployments = tmp_path / "no.yaml"
    no_deployments.write_text("deployments: 3")
    no_text = tmp_path / "no-text.yaml"
    no_text.write_bytes(b"\xff\xfe\x00")
    for file in (no_deployments, no_text, tmp_path / "missing.yaml"):
        said = refused("up", "--home", home, "--deployments", str(file))
        assert f"{file} is not a file of deployments" in said
    monkeypatch.setenv("PREFECT_API_URL", "http://ann:secret@elsewhere/api")
    said = refused("up", "--home", home)
    assert "PREFECT_API_URL names a Prefect server" in said
    assert "secret" not in said
    assert Machine(Path(home)).running() == []


@pytest.mark.parametrize("model", ["", "m"])
def test_stores_named_from_the_users_folder_are_the_same_ones_in_every_part(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_HOME", "")
    monkeypatch.chdir(tmp_path)
    named = {
        "MENDFLOW_LEDGER": (
            "sqlite:///led%20ger.db?timeout=3",
            f"sqlite:///{tmp_path}/led%20ger.db?timeout=3",
        ),
        "MENDFLOW_TRACKING": ("sqlite:///../mlflow.db", f"sqlite:///{tmp_path}/../mlflow.db"),
        "MENDFLOW_REPORTERS": ("keys.json", f"{tmp_path}/keys.json"),
        "MENDFLOW_REDACT": ("redact.yaml", f"{tmp_path}/redact.yaml"),
    }
    for variable, (given, _) in named.items():
        monkeypatch.setenv(variable, given)
    settings = settings_of(model, tmp_path / "home") if model else None
    found = environment_of_parts(settings, tmp_path / "home")
    # What the command itself prepares is what they find.
    assert settings is None or settings.ledger == named["MENDFLOW_LEDGER"][1]
    assert {variable: found[variable] for variable in named} == {
        variable: everywhere for variable, (_, everywhere) in named.items()
    }
    monkeypatch.setenv("MENDFLOW_LEDGER", "postgresql://host/ledger")
    monkeypatch.delenv("MENDFLOW_TRACKING")
    found = environment_of_parts(None, tmp_path / "home")
    assert found["MENDFLOW_LEDGER"] == "postgresql://host/ledger"
    assert "MENDFLOW_TRACKING" not in found


def test_down_where_nothing_runs_says_so_and_makes_nothing(tmp_path: Path):
    home = tmp_path / "home"
    done = CliRunner().invoke(app, ["down", "--home", str(home)])
    assert (done.exit_code, "nothing of `mendflow up` runs" in done.output) == (0, True)
    assert not home.exists()


def test_without_a_model_nothing_is_scheduled_and_events_start_runs_all_the_same():
    named, unnamed = (yaml.safe_load(deployments_of(DEPLOYMENTS, name)) for name in ("m", ""))
    assert [("schedules" in one, "triggers" in one) for one in named["deployments"][:2]] == [
        (True, True),
        (True, False),
    ]
    assert [("schedules" in one, "triggers" in one) for one in unnamed["deployments"][:2]] == [
        (False, True),
        (False, False),
    ]
    assert deployments_of(DEPLOYMENTS, "m") != deployments_of(DEPLOYMENTS, "other")
