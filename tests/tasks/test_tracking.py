"""A new MLflow store on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.tracking import has_store, tracking
from tests.killing import killed


def _make_and_die(uri: str) -> None:
    """Begin to make a store; some of its tables are made when it ends."""
    from mlflow.store.db import utils

    with killed(utils, "_upgrade_db", "before"), tracking(uri, create=True):
        pass


def test_no_part_of_a_store_is_left_where_its_making_is_killed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    _make_and_die(uri)
    assert not has_store(uri)


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    _make_and_die(uri)
    (tmp_path / ".mlflow.db.making-killed").mkdir()
    with tracking(uri, create=True) as client:
        experiment = client.search_experiments()[0]
        assert experiment.artifact_location == (tmp_path / "artifacts" / "0").as_uri()
    left = {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm", ".mlflow.db.lock"}
    assert {path.name for path in tmp_path.iterdir()} <= left
