"""A full disk, databases that drop connections, an MLflow server that is down: nothing is lost or repeated.

The figures that these tests print are in docs/crashes.md.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from flows.settings import CorrectSettings
from tasks.tracking import tracking
from tests.flows.conftest import World
from tests.flows.crashes import Fault, Rounds, Run, fill
from tests.flows.invariants import broken_always
from tests.flows.production import free_port
from tests.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FULL, IN_A_ROW = 8, 4
ROUNDS = 2
# Seconds on average.
BETWEEN_DROPS = (0.5, 1, 2)
# Seconds for which the server is down, one after another.
DOWN = (60, 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512m", "mendflow", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: that takes root")
    yield folder
    # A process that a run left behind may be in it still.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(
    world: World, calm: CorrectSettings, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = world.settings.model_copy(update={"home": disk / "home"})
    settings.home.mkdir()
    chance, ballast = random.Random(0), disk / "ballast"

    def draw(undisturbed: Run) -> Fault:
        return Fault(change=chance.randint(1, undisturbed.changes), does=partial(fill, ballast))

    mend = partial(ballast.unlink, missing_ok=True)
    rounds = Rounds(settings, calm, world.reports, tmp_path / "log", mend)
    rounds.go_on(draw, FULL, IN_A_ROW)
    assert all("full" in ended.said or "disk I/O" in ended.said for _, ended in rounds.ended)
    with capsys.disabled():
        print(rounds.told())


def test_databases_that_drop_their_connections(
    world: World,
    calm: CorrectSettings,
    postgresql: Postgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    databases = [postgresql.new_database() for _ in range(2)]
    ledger, store = map(postgresql.url, databases)
    with tracking(store) as client:
        # MLflow makes its tables; on a server of its own it would have made them when that was started.
        client.search_experiments()
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
    settings = world.settings.model_copy(update={"ledger_url": ledger, "tracking_uri": store})
    chance, drops = random.Random(0), itertools.count()

    def drop() -> None:
        next(drops)
        for database in databases:
            postgresql.drop_connections(database)

    rounds = Rounds(settings, calm, world.reports, tmp_path / "log")
    for _ in range(ROUNDS):
        rounds.begin()
        for seconds in BETWEEN_DROPS:
            with _again_and_again(drop, chance, seconds):
                rounds.suffer(Fault(), stores=False)
            assert not broken_always(settings)
        rounds.recover()
    assert rounds.ended
    with capsys.disabled():
        print(f"{rounds.told()}\nconnections dropped {next(drops)} times")


def test_an_mlflow_server_that_is_down_for_a_while(
    world: World, calm: CorrectSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    port = free_port()
    settings = world.settings.model_copy(update={"tracking_uri": f"http://127.0.0.1:{port}"})
    chance = random.Random(0)
    servers = [_mlflow_server(tmp_path / "server", port)]
    rounds = Rounds(settings, calm, world.reports, tmp_path / "log")

    def start_again(seconds: float) -> None:
        servers[-1].wait()
        time.sleep(seconds)
        servers.append(_mlflow_server(tmp_path / "server", port))

    try:
        rounds.begin()
        changes = rounds.recover().changes
        for seconds in DOWN:
            rounds.begin()
            restart = threading.Thread(target=start_again, args=(seconds,))
            restart.start()
            kill = partial(os.killpg, servers[-1].pid, signal.SIGKILL)
            fault = Fault(change=chance.randint(1, changes), does=kill)
            went_on = not rounds.suffer(fault, stores=False)
            _kill(servers[-1])
            refused = 0
            while restart.is_alive():
                refused += rounds.suffer(Fault(), stores=False)
                time.sleep(1)
            rounds.recover()
            with capsys.disabled():
                how = "waited and went on" if went_on else f"ended ({rounds.ended[-refused - 1][1].stage})"
                print(f"\nMLflow down for {seconds} s: the run {how}, {refused} further runs refused")
        assert rounds.ended
    finally:
        _kill(servers[-1])


@contextmanager
def _again_and_again(action: Callable[[], object], chance: random.Random, seconds: float) -> Iterator[None]:
    """Do something until the end of the block, so many seconds apart on average."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(chance.expovariate(1 / seconds)):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _mlflow_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server on SQLite, once it answers."""
    folder.mkdir(exist_ok=True)
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    store += ["--no-serve-artifacts", "--default-artifact-root", str(folder / "artifacts")]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, "--workers", "1", "--port", str(port)],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).raise_for_status()
            return server
        except httpx.HTTPError:
            time.sleep(0.3)
    raise AssertionError((folder / "log").read_text()[-2000:])
