"""Prefect is told of every report that is new, once; and nobody waits where there is no Prefect."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.collect import report_error
from tasks.records import ErrorReport
from tasks.reporting import take_reports


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The events that a Prefect API is sent; it is the one that is configured."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    events: list[dict[str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith("/api/csrf-token")
            self.send_response(404)
            self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/api/events"
            events.extend(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
            yield events
        server.shutdown()
        thread.join()


def report(source: str, prompt: str = "Capital of Chad?", **fields: Any) -> ErrorReport:
    given = {"desired_output": "N'Djamena", "model_name": "capitals", **fields}
    return ErrorReport(prompt=prompt, source=source, **given)


def test_every_new_report_is_an_event_and_a_repeated_one_is_none(url: str, told: list[dict[str, Any]]):
    reports = [report("row:1"), report("row:2"), report("row:1"), report("row:3", model_name="other")]
    take_reports(reports, ledger_url=url)
    assert [event["payload"]["model"] for event in told] == ["capitals", "capitals", "other"]
    assert len({event["id"] for event in told}) == 3
    take_reports(reports, ledger_url=url)
    assert len(told) == 3
    take_reports([*reports, report("row:4")], ledger_url=url)
    assert len(told) == 4


def test_an_event_names_model_correction_and_state_and_no_text(url: str, told: list[dict[str, Any]]):
    made = report_error("Capital of Chad?", "Lagos", "N'Djamena", "m 1", ledger_url=url, reporter="ann")
    report_error("Capital of Peru?", "Quito", None, "m 1", ledger_url=url, reporter="ann")
    one, other = told
    assert one["event"] == "model.error.flagged"
    assert one["resource"]["prefect.resource.id"] == "mendflow.model.m 1"
    assert one["payload"] == {"model": "m 1", "correction": made.id, "state": "accepted"}
    assert other["resource"]["mendflow.correction.state"] == "needs_answer"
    assert not {"Chad", "Lagos", "Djamena", "ann"} & set(json.dumps(told).replace('"', " ").split())


def test_a_report_is_kept_where_prefect_cannot_be_told(url: str, caplog: pytest.LogCaptureFixture):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        made = report_error("Capital of Chad?", "", "N'Djamena", "m", ledger_url=url, reporter="ann")
    assert made.state == "accepted"
    (record,) = [one for one in caplog.records if one.name == "tasks.events"]
    assert "1 reports are in the ledger, but Prefect was not told" in record.getMessage()
    assert record.exc_info is None


def test_a_prefect_that_hangs_is_waited_for_once(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr("tasks.events._TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        began = time.monotonic()
        with temporary_settings({PREFECT_API_URL: api}):
            made = report_error("Capital of Chad?", "", "N'Djamena", "m", ledger_url=url, reporter="ann")
        assert time.monotonic() - began < 10
    assert made.state == "accepted"
    assert "Prefect was not told of them" in caplog.text


REPORT = """
import sys
from tasks.collect import report_error
report_error("Capital of Chad?", "", "N'Djamena", "m", ledger_url=sys.argv[1], reporter="ann")
print("prefect" in sys.modules)
"""


def test_without_a_prefect_api_it_is_not_even_imported(url: str, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", REPORT, url],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
