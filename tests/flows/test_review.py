"""Review in MLflow by command and in a run: what people answer there frees what was held for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from flows.background import Background
from flows.cli import app
from flows.correct import correct
from flows.machine import HOST
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger
from tasks.records import State
from tests.flows.conftest import World
from tests.tasks.ledger_tools import report
from tests.tasks.review_tools import Review


def test_commands_put_questions_up_and_carry_answers_out(mlflow_store: str, tmp_path: Path):
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        review = Review(ledger, mlflow_store)
        ledger.record([report("Capital of Togo?", None, model_name=review.name)])
        stores = ["--home", str(tmp_path), "--tracking", mlflow_store, "--experiment", review.name]
        # No run has made a store of traces, and nobody was asked: as it was before there was a review.
        assert "has no experiment" in str(
            CliRunner().invoke(app, ["collect", review.name, *stores]).exception
        )
        put = CliRunner().invoke(app, ["review", review.name, *stores, "--reviewer", "ann"])
        assert (put.exit_code, put.output.splitlines()[0]) == (0, "1 put up, 0 withdrawn, 1 to answer")
        assert "http://127.0.0.1:5000/#/experiments/" in put.output
        review.says(review.item("Capital of Togo?"), wanted="Lomé.")
        got = CliRunner().invoke(app, ["collect", review.name, *stores])
        assert (got.exit_code, "(Capital of Togo?): answered by ann" in got.output) == (0, True), got.output
        assert review.states() == {None: State.DUPLICATE, "Lomé.": State.ACCEPTED}


@pytest.mark.slow
def test_two_who_put_the_same_up_at_once_put_it_up_once(mlflow_store: str, tmp_path: Path):
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        review = Review(ledger, mlflow_store)
        ledger.record([report(f"Capital of land {n}?", None, model_name=review.name) for n in range(5)])
        command = [sys.executable, "-m", "flows.cli", "review", review.name, "--home", str(tmp_path)]
        stores = ["--tracking", mlflow_store, "--experiment", review.name]
        started = [subprocess.Popen([*command, *stores], stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [process.wait(timeout=240) for process in started] == [0, 0]
        assert [item.status for item in review.items()] == ["pending"] * 5
        with review.store() as client:
            spans = [client.get_trace(item.trace_id).data.spans for item in review.items()]
        assert [len(of_one) for of_one in spans] == [1] * 5


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """`mlflow_server(home) -> URI` of a server over a store in this folder."""
    part = Background(tmp_path, "mlflow")

    def start(home: Path) -> str:
        with socket.create_server((HOST, 0)) as free:
            port = str(free.getsockname()[1])
        files = ["--no-serve-artifacts", "--default-artifact-root", str(home / "artifacts")]
        store = ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
        at = ["--workers", "1", "--host", HOST, "--port", port]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        part.start([sys.executable, "-m", "mlflow", "server", *store, *files, *at], environment)
        url, deadline = f"http://{HOST}:{port}", time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    return url
            except httpx.HTTPError:
                time.sleep(0.5)
        raise TimeoutError(part.log.read_text())

    yield start
    part.stop(grace_seconds=5)


@pytest.mark.slow
def test_answers_on_a_server_free_what_a_run_held(world: World, mlflow_server: Callable[[Path], str]):
    prompts, settings = world.report_bare()
    uri = mlflow_server(settings.home)
    settings = settings.model_copy(update={"review_queue": True, "tracking_uri": uri})

    held = correct(settings)
    assert held.outcome == "held", held.reason
    with Ledger(settings.ledger) as ledger:
        review = Review(ledger, uri)
        review.name, review.experiment, review.settings = "tiny", settings.experiment, settings
        answered = review.item(prompts[0], "Cairo")
        assert (answered.status, answered.kind) == ("pending", "check")
        # The rewordings are those that were taught and asked.
        assert len(answered.rewordings) == 2
        review.says(answered, right=True, meaning=["1"])
        review.says(review.item(prompts[1]), wanted="Cairo")
        freed = correct(settings)
        assert freed.outcome == "promoted", freed.reason
        active = ledger.corrections("tiny", State.ACTIVE)
        assert sorted(one.prompt for one in active) == sorted(prompts)
        assert [one.answerer for one in active] == [""] * 4
        rows = json.loads((Path(freed.folder) / "result.json").read_text())
        assert rows["counts"]["active"] == 4
        assert [item.status for item in review.items()] == ["complete", "complete"]
    taught = EditDataset.load(Path(freed.folder) / "dataset").edits
    of_one = taught[taught["prompt"] == prompts[0]].iloc[0]
    assert answered.rewordings[0] not in (*of_one["equivalents"], *of_one["held_out"])
