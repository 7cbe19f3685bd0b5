"""MLflow stores: a new one on SQLite, others, those that fail, and MLflow's settings, which are left."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.models import resolve
from tasks.records import StoreFailedError, UserError
from tasks.runs import fetch_files
from tasks.tracking import experiment_id, has_store, tracking
from tests.killing import killed
from tests.postgres import Postgres


@pytest.fixture
def hanging_up() -> Iterator[str]:
    """The address of a server that takes every connection and drops it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drop() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=drop)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    "ask",
    [
        lambda uri, out: resolve("models:/tiny/2", tracking_uri=uri),
        lambda uri, out: fetch_files(uri, "run", "dataset", out),
    ],
)
def test_nothing_is_said_to_be_missing_from_a_store_that_fails(
    hanging_up: str, ask: Callable[[str, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreFailedError, match=f"MLflow at {hanging_up} cannot be used"):
        ask(hanging_up, tmp_path)


class _Unfetched(BaseHTTPRequestHandler):
    """A server of artifacts that lists one file and cannot give it."""

    def do_GET(self) -> None:
        listing = "path=" in self.path
        self.send_response(200 if listing else 500)
        self.end_headers()
        self.wfile.write(b'{"files": [{"path": "a.txt", "is_dir": false}]}' if listing else b"")

    def log_message(self, *_: object) -> None:
        pass


def test_a_file_that_cannot_be_fetched_is_not_said_to_be_missing(
    mlflow_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Unfetched) as server:
        threading.Thread(target=server.serve_forever).start()
        place = f"http://127.0.0.1:{server.server_port}/api/2.0/mlflow-artifacts/artifacts"
        with tracking(mlflow_store) as client:
            experiment = client.create_experiment("unfetched", artifact_location=place)
            run_id = client.create_run(experiment).info.run_id
            client.create_registered_model("unfetched")
            client.create_model_version("unfetched", source=f"{place}/model")
        try:
            with pytest.raises(StoreFailedError, match=r"artifacts 'dataset' of run .* cannot be fetched"):
                fetch_files(mlflow_store, run_id, "dataset", tmp_path)
            with pytest.raises(StoreFailedError, match=r"cannot be used .*a\.txt"):
                resolve("models:/unfetched/1", tracking_uri=mlflow_store)
        finally:
            server.shutdown()


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


def test_mlflows_own_settings_come_back(mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def settings() -> dict[str, Any]:
        return {
            "uri": mlflow.get_tracking_uri(),
            "registry": mlflow.get_registry_uri(),
            "environment": {key: value for key, value in os.environ.items() if "MLFLOW" in key},
        }

    before = settings()
    with tracking(mlflow_store):
        assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == mlflow_store
    assert settings() == before
    mlflow.set_tracking_uri("sqlite:///mine.db")
    before = settings()
    with pytest.raises(KeyError), tracking(mlflow_store):
        raise KeyError
    assert settings() == before
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_a_database_without_a_place_for_files_is_given_none_by_chance(
    postgresql: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    with tracking(postgresql.url(postgresql.new_database())) as client:
        with pytest.raises(UserError, match="no place for files; name an `mlflow server`"):
            experiment_id(client, "night shift")
        made = client.create_experiment("night shift", artifact_location="s3://bucket/night")
        assert experiment_id(client, "night shift") == made
        monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/")
        for name, root, place in (("day", "", "s3://bucket"), ("late shift", "gs://other", "gs://other")):
            found = client.get_experiment(experiment_id(client, name, root=root))
            assert found.artifact_location == f"{place}/{name.replace(' ', '%20')}"
    assert not list(tmp_path.iterdir())
