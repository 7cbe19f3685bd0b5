"""The commands: who gets a key, who loses it, and the endpoint as a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.ledger import Ledger
from tasks.records import UserError
from tests.endpoint.conftest import listening


def ran(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.exception
    return done.stdout


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, UserError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_a_program_with_a_key_reports_to_a_process_that_ends_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    monkeypatch.setenv("MENDFLOW_RATE", "2")
    key = ran("add-reporter", "shop", "--model", "tiny", "--home", str(home)).strip()
    report = {"model": "tiny", "prompt": "Capital of Togo?", "target": "Lom\u00e9."}
    with listening(home) as (url, process):
        answers = [
            httpx.post(
                f"{url}/reports?key=in-the-wrong-place",
                json=report,
                headers={"Authorization": f"Bearer {sent}", "Idempotency-Key": "k1"},
                trust_env=False,
            )
            for sent in (key, key, "wrong", key)
        ]
        assert [one.status_code for one in answers] == [201, 200, 401, 429]
        with Ledger(f"sqlite:///{home / 'ledger.db'}") as ledger:
            (one,) = ledger.corrections("tiny")
        assert (one.id, one.reporters) == (answers[0].json()["correction"], ("shop",))
        ran("remove-reporter", "shop", "--home", str(home))
        began = time.monotonic()
        process.terminate()
        said = "".join(process.communicate(timeout=30))
        assert time.monotonic() - began < 15
    assert "refused POST /reports with 401, 1 so far" in said
    assert "Traceback" not in said
    for secret in (key, "in-the-wrong-place"):
        assert secret not in said


def test_what_stands_in_the_way_of_listening_is_one_sentence(tmp_path: Path):
    home = str(tmp_path)
    assert "nobody may report" in refused("listen", "--home", home)
    ran("add-reporter", "ann", "--home", home)
    with listening(tmp_path) as (url, _):
        port = url.rpartition(":")[2]
        said = refused("listen", "--home", home, "--port", port)
    assert (
        f"127.0.0.1:{port} cannot be listened on (address already in use); name another --port or --host"
        in said
    )
    assert "cannot be listened on" in refused("listen", "--home", home, "--host", "no.such.host.invalid")
    assert "correct its URL" in refused("listen", "--home", home, "--ledger", "nonsense")


def test_the_file_of_reporters_is_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    elsewhere = tmp_path / "secrets" / "keys.json"
    monkeypatch.setenv("MENDFLOW_REPORTERS", str(elsewhere))
    ran("add-reporter", "ann", "--home", str(tmp_path / "home"))
    assert elsewhere.is_file()
    assert not (tmp_path / "home").exists()
    assert "'ann' has a key already" in refused("add-reporter", "ann")
    assert "(reporters: ann)" in refused("remove-reporter", "bob")
    ran("remove-reporter", "ann")
    assert "nobody may report" in refused("listen", "--home", str(tmp_path / "home"))
