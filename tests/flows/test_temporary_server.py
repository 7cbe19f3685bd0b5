"""A command that is ended while a flow runs leaves no process behind, and says what it was doing in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import temporary_server
from tests.flows.conftest import World


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the temporary servers, one after another: to make its database takes seconds."""
    return tmp_path_factory.mktemp("temporary-server")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "group"),
    [
        pytest.param(signal.SIGTERM, False, id="SIGTERM"),
        pytest.param(signal.SIGTERM, True, id="SIGTERM to the group"),
        pytest.param(signal.SIGINT, True, id="Ctrl-C"),
        pytest.param(signal.SIGKILL, False, id="SIGKILL"),
    ],
)
def test_a_command_that_is_ended_leaves_no_process(
    number: signal.Signals, group: bool, world: World, prefect_home: Path
):
    settings = world.settings
    arguments = ["correct", "tiny", "--base", settings.base, "--source", str(settings.source)]
    arguments += ["--editor", settings.editor, "--home", str(settings.home), "--gates", str(settings.gates)]
    command = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PREFECT_HOME": str(prefect_home)},
        text=True,
        start_new_session=True,
    )
    with command:
        assert command.stdout is not None
        said = []
        for line in command.stdout:
            said.append(line)
            if line == "Ask the champion whether they are errors still ...\n":
                (os.killpg if group else os.kill)(command.pid, number)
                break
        # The pipe is closed once the last process has ended that may write to it.
        rest, _ = command.communicate(timeout=60)
    assert command.returncode == (130 if number is signal.SIGINT else -number), said
    assert "Traceback" not in rest
    assert all(line.isprintable() for line in "".join([*said, rest]).splitlines())
    with pytest.raises(ProcessLookupError):
        os.killpg(command.pid, 0)


def test_a_server_that_has_not_begun_to_listen_is_ended_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(temporary_server, "GRACE_SECONDS", 0.1)
    busy = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
    temporary_server._end(busy)
    assert busy.returncode == -signal.SIGKILL
