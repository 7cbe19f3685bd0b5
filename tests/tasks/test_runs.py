"""MLflow runs of several correction runs at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.edit_dataset import EditDataset
from tasks.runs import log_run, run_of
from tasks.tracking import experiment_id, tracking
from tests.tasks.test_edit_dataset import EDIT
from tests.threads import at_once


def test_two_runs_log_the_same_dataset_at_once(mlflow_store: str, tmp_path: Path) -> None:
    dataset = EditDataset.from_rows([EDIT], [], {})
    runs = [run_of(mlflow_store, "shared", key) for key in ("one", "two")]
    # Both have looked for the dataset, and found none, before either adds it.
    both, met = threading.Barrier(2), threading.local()

    def wait(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO datasets") and not hasattr(met, "other"):
            met.other = both.wait(timeout=60)

    def log(run_id: str) -> None:
        log_run(mlflow_store, run_id, parameters={}, metrics={}, dataset=dataset, artifacts={})

    sa.event.listen(sa.Engine, "before_cursor_execute", wait)
    try:
        # MLflow's own URI is the store's for both until the end.
        with tracking(mlflow_store):
            at_once(log, runs)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", wait)
    with tracking(mlflow_store) as client:
        logged = [client.get_run(run_id).inputs.dataset_inputs for run_id in runs]
    assert [len(inputs) for inputs in logged] == [1, 1]
    assert logged[0][0].dataset.digest == logged[1][0].dataset.digest


def test_an_experiment_that_another_run_makes_meanwhile_is_found(
    mlflow_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking(mlflow_store) as client:
        looks, look = [], client.get_experiment_by_name

        def late(name: str) -> Any:
            """At the first look, it was not there yet."""
            looks.append(name)
            return look(name) if len(looks) > 1 else None

        made = experiment_id(client, "shared")
        monkeypatch.setattr(client, "get_experiment_by_name", late)
        assert experiment_id(client, "shared") == made
