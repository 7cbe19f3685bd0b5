"""The endpoint as it runs: a server on a port of this machine, a ledger in a file, and two reporters."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from flows.endpoint.app import make_app
from flows.endpoint.guard import KEY_HEADER
from flows.endpoint.serve import configured
from tasks.ledger import Ledger
from tasks.records import Correction
from tasks.reporters import ReportersFile, add_reporter

MODEL = "tiny"
_NUMBERS = itertools.count()


@dataclass
class Endpoint:
    """A running endpoint; `ann` may report about every model, `shop` about `tiny`."""

    url: str
    ledger_url: str
    reporters: Path
    keys: dict[str, str]
    client: httpx.Client = field(repr=False)

    def send(
        self, path: str = "/reports", *, key: str = "ann", once: str = "", **fields: Any
    ) -> httpx.Response:
        """A report, or what the fields make of it, with a key of its own unless `once` is one."""
        body = {"model": MODEL, "prompt": "Capital of Togo?", "output": "Lagos.", "target": "Lom\u00e9."}
        body = {name: value for name, value in (body | fields).items() if value is not ...}
        return self.client.post(path, json=body, headers=self.headers(key, once))

    def raw(self, content: Any, path: str = "/reports", **headers: str) -> httpx.Response:
        """Whatever content."""
        given = {"Content-Type": "application/json", **self.headers("ann")}
        return self.client.post(path, content=content, headers=given | headers)

    def headers(self, key: str, once: str = "") -> dict[str, str]:
        """Headers of a request that is a reporter's."""
        return {"Authorization": f"Bearer {self.keys[key]}", KEY_HEADER: once or f"n{next(_NUMBERS)}"}

    def kept(self, model: str = MODEL) -> list[Correction]:
        """A model's corrections in the ledger."""
        with Ledger(self.ledger_url) as ledger:
            return ledger.corrections(model)

    def rows(self) -> int:
        """Rows in all of the ledger's tables."""
        import sqlite3

        connection = sqlite3.connect(self.ledger_url.removeprefix("sqlite:///"))
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        counted = sum(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables)
        connection.close()
        return counted


@contextmanager
def running(folder: Path, *, per_minute: int = 1_000_000) -> Iterator[Endpoint]:
    """An endpoint with stores in a folder."""
    reporters, ledger_url = folder / "reporters.json", f"sqlite:///{folder / 'ledger.db'}"
    keys = {"ann": add_reporter(reporters, "ann"), "shop": add_reporter(reporters, "shop", [MODEL])}
    app = make_app(ledger_url, ReportersFile(reporters), per_minute=per_minute)
    server = uvicorn.Server(configured(app))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                assert client.get("/health").json() == {"status": "ok"}
                yield Endpoint(url, ledger_url, reporters, keys, client)
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def listening(home: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`mendflow listen` for a home, and the address that it says."""
    command = [sys.executable, "-m", "flows.cli", "listen", "--home", str(home), "--port", "0", *more]
    environment = {**os.environ, "PREFECT_HOME": str(home / "prefect")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            assert said.startswith("listening at http://127.0.0.1:"), (
                said + process.communicate(timeout=30)[1]
            )
            yield said.split()[2].rstrip(";"), process
        finally:
            process.kill()


def refused(answer: httpx.Response, status: int, says: str) -> None:
    """That an answer refuses, with this status and these words of its sentence."""
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    detail = answer.json()["detail"]
    assert says in detail
    assert detail.isprintable()
    assert len(detail) < 400


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One endpoint for a file, for what does not ask what else is in its ledger."""
    with running(tmp_path_factory.mktemp("endpoint")) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    """An endpoint with an empty ledger."""
    with running(tmp_path) as endpoint:
        yield endpoint
