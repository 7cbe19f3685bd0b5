"""The processes of production on one machine: their names, commands and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.registration import MODEL_VARIABLE, POOL
from flows.settings import HOME_VARIABLE, CorrectSettings, stores_from_any_folder
from tasks.tracking import ROOT_VARIABLE

HOST = "127.0.0.1"
# In the home: what says which processes run, and their logs.
FOLDER = "up"
# Of what is installed: the folder that has `flows` in it.
ROOT = Path(__file__).parent.parent
PREFECT, MLFLOW, WORKER, ENDPOINT, SERVE = "prefect", "mlflow", "worker", "endpoint", "serve"
PARTS = (PREFECT, MLFLOW, WORKER, ENDPOINT, SERVE)
# Where nothing else is told.
PORTS = {PREFECT: 4200, MLFLOW: 5000, ENDPOINT: 4300, SERVE: 8000}


@dataclass(frozen=True)
class Serving:
    """How the model is served: the port, and the shares of requests by which a candidate is tried."""

    port: int
    shadow: float = 0.0
    canary: float = 0.0


def commands_of_parts(
    settings: CorrectSettings | None, home: Path, ports: Mapping[str, int], serving: Serving | None
) -> dict[str, tuple[list[str], str]]:
    """The command and address of every part; of the model to be served, where there is one."""
    python, at_port = [sys.executable, "-m"], [HOST, "--port"]
    store = CorrectSettings(model_name="none", home=home).tracking
    # Artifacts are written by whoever logs them: a store of files on one machine needs nobody in between.
    files = ["--no-serve-artifacts", "--default-artifact-root", artifact_root(home)]
    commands = {
        PREFECT: (
            [*python, "prefect", "server", "start", "--host", *at_port, str(ports[PREFECT])],
            f"http://{HOST}:{ports[PREFECT]}",
        ),
        MLFLOW: (
            [
                *(*python, "mlflow", "server", "--backend-store-uri", store, *files),
                *("--workers", "1", "--host", *at_port, str(ports[MLFLOW])),
            ],
            f"http://{HOST}:{ports[MLFLOW]}",
        ),
        WORKER: ([*python, "prefect", "worker", "start", "--pool", POOL, "--type", "process"], ""),
        ENDPOINT: (
            [*python, "flows.cli", "listen", "--home", str(home), "--host", *at_port, str(ports[ENDPOINT])],
            f"http://{HOST}:{ports[ENDPOINT]}",
        ),
    }
    if settings is not None and serving is not None:
        commands[SERVE] = _serve_command(settings, serving)
    return commands


def _serve_command(settings: CorrectSettings, serving: Serving) -> tuple[list[str], str]:
    """The command that serves a model, and its address."""
    port = str(serving.port)
    shares = ["--shadow", str(serving.shadow), "--canary", str(serving.canary)]
    stores = ["--home", str(settings.home), "--experiment", settings.experiment]
    command = [sys.executable, "-m", "flows.cli", "serve", *stores, *shares, "--host", HOST, "--port", port]
    # What runs are given that serving goes by too.
    if settings.redact is not None:
        command += ["--redact", str(settings.redact.absolute())]
    if settings.notify:
        command += ["--notify", settings.notify]
    return [*command, "--", settings.model_name], f"http://{HOST}:{port}"


def artifact_root(home: Path) -> str:
    """Where MLflow's files lie, unless its store is SQLite: as it is told, or in the home."""
    return os.environ.get(ROOT_VARIABLE) or (home / "artifacts").as_uri()


def environment_of_parts(settings: CorrectSettings | None, home: Path) -> dict[str, str]:
    """What all parts, and the runs that the worker starts, find in their environment."""
    return {
        **os.environ,
        # None of them runs in the folder that the user named the stores from.
        **stores_from_any_folder(),
        HOME_VARIABLE: str(home),
        ROOT_VARIABLE: artifact_root(home),
        MODEL_VARIABLE: settings.model_name if settings else "",
        # The flows that were deployed are those that run, installed or not.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PREFECT_HOME": str(home / "prefect"),
        # Of the command itself it is silent, so that what it says is its own; of these it fills a log.
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        # Seven processes of MLflow's for jobs that mendflow does not have.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PWD": str(home),
    }
