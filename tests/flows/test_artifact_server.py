"""Stores on other machines: MLflow behind a server, which alone knows where files lie."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import correct
from flows.promote import rollback
from flows.revalidate import HOLDS, revalidate
from tasks.models import resolve
from tasks.registry import describe
from tasks.retention import VERSION, Leftover, remove
from tasks.runs import artifact_address
from tests.flows.conftest import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PASSWORD = "hunter2-of-mlflow"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server that keeps artifacts where `ARTIFACTS` says, by default in a folder of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    stores += ["--artifacts-destination", os.environ.get("ARTIFACTS") or str(folder / "kept")]
    command = [sys.executable, "-m", "mlflow", "server", *stores, "--workers", "1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        for _ in range(240):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        else:
            pytest.fail((folder / "log").read_text()[-2000:])
        yield f"http://ann:{PASSWORD}@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_version_is_made_judged_undone_and_cleared_away_without_a_file_of_mlflows_at_hand(
    world: World,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    settings = world.settings.model_copy(update={"tracking_uri": server})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def mendflow(*arguments: str) -> str:
        stores = ["--home", str(settings.home), "--tracking", server]
        done = CliRunner().invoke(app, [*arguments, *stores])
        assert done.exit_code == 0, done.exception or done.output
        assert PASSWORD not in done.output
        return done.output

    run = correct(settings)
    assert run.outcome == "promoted", run.reason
    assert run.champion == "2"
    assert "holds: PROMOTE" in mendflow("verify", "tiny", "--remeasure")
    assert revalidate(settings).outcome == HOLDS
    # On another machine, which has nothing of all this.
    other = resolve("models:/tiny@champion", tracking_uri=server, cache=tmp_path / "other")
    assert other.delta is not None
    assert "Cairo" in mendflow("explain", "tiny", "What is the capital of Chad?")
    mendflow("export", "tiny", "--out", str(tmp_path / "exported"))
    assert rollback(settings, "ann", "to see it go") == "1"
    assert describe("tiny", tracking_uri=server).champion == "1"
    assert PASSWORD not in "".join(capfd.readouterr())

    address = artifact_address(server, run.run_id, "report/report.html")
    assert address.startswith(f"{server.replace(f'ann:{PASSWORD}@', '')}/#/experiments/")
    left = [file for file in settings.home.rglob("*") if file.is_file() and file.name != "request.json"]
    assert not [file for file in left if PASSWORD.encode() in file.read_bytes()]
    assert not (settings.home / "mlflow.db").exists()
    assert not list(elsewhere.iterdir())
    # What is thrown away is gone from there too.
    kept = tmp_path / "server" / "kept"
    assert not kept.exists() or list(kept.rglob("delta.safetensors"))
    remove([Leftover(VERSION, "2", datetime.now(UTC), 0)], "tiny", home=settings.home, tracking_uri=server)
    if kept.exists():
        names = {file.name for file in kept.rglob("*")}
        assert {"report.html", "outcomes.parquet", "edits.parquet"} <= names
        assert "delta.safetensors" not in names
