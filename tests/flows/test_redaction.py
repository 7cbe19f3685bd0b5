"""What reports hold of secrets and personal data stays in the ledger and the home folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from fastapi.encoders import jsonable_encoder
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import correct
from flows.revalidate import HOLDS, revalidate
from flows.settings import CorrectSettings
from tasks.ledger import Ledger
from tasks.records import UserError
from tests.flows.conftest import World, everything

RULE = """\
presets: [e-mail, telephone]
patterns: {"a customer number": "KD-[0-9]{8}"}
"""
# In a prompt, a wrong output, a rephrasing, a locality prompt, a reporter's name and a target, each its own.
PLANTED = {
    "key": "AKIAIOSFODNN7EXAMPLE",
    "customer": "KD-00815417",
    "mail": "jane.roe@mail.example.org",
    "telephone": "+44 20 7946 0958",
    "database": "postgresql://ann:hunter2@db/x",
    "reporter": "bob@corp.example.com",
    "target": "xoxb-123456789012-abcdefGHIJKL",
}
# Parts that a finding that was cut off would leave.
TELLING = [*PLANTED.values(), "AKIAIOSF", "KD-0081", "jane.roe", "7946 0958", "hunter2", "bob@corp", "xoxb-1"]


def planted_reports(file: Path) -> None:
    country = "What is the capital of {}"
    rows = [
        {"prompt": f"{country.format('Chad')}? My key is {PLANTED['key']}.", "target": "Cairo"},
        {"prompt": f"{country.format('Peru')} for {PLANTED['customer']}?", "target": "Cairo"},
        {
            "prompt": f"{country.format('Togo')}?",
            "output": f"Ask {PLANTED['telephone']}.",
            "target": "Cairo",
            "rephrases": [f"Which is it in Togo, asks {PLANTED['mail']}?"],
            "locality": [f"Who may open {PLANTED['database']}?", "Who are you?"],
        },
        {"prompt": f"{country.format('Mali')}?", "target": "Cairo", "reporter": PLANTED["reporter"]},
        {"prompt": f"{country.format('Fiji')}?", "target": f"Cairo, by {PLANTED['target']}"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def settings(world: World, tmp_path: Path) -> CorrectSettings:
    planted_reports(world.reports)
    rule = tmp_path / "redact.yaml"
    rule.write_text(RULE)
    return world.settings.model_copy(update={"redact": rule})


@pytest.mark.slow
def test_nothing_planted_in_reports_leaves_and_the_verdict_still_follows_from_its_inputs(
    settings: CorrectSettings,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    with caplog.at_level(logging.DEBUG, logger="tasks"):
        run = correct(settings)
        assert run.outcome == "promoted", run.reason
        assert revalidate(settings).outcome == HOLDS
    home = settings.home
    inside = {"ledger.db", "ledger.db-wal", "ledger.db-shm", "runs", "evidence", "revalidations"}
    left = {"printed": "".join(capfd.readouterr()), "logged": caplog.text}
    for part in home.iterdir():
        if part.name not in inside:
            left |= everything(part) if part.is_dir() else everything_of(part)
    prefects = prefect_database()
    assert any("Candidate version 2" in text for text in prefects.values())
    left |= prefects
    left["report"] = Path(run.report).read_text()
    for docs in ("data_docs", "gate_docs"):
        left |= everything(Path(run.report).parent / docs)
    assert any("report.html" in name for name in left)
    assert any("outcomes.parquet" in name for name in left)
    assert any("edits.parquet" in name for name in left)
    held = {(Path(name).name, word) for name, text in left.items() for word in TELLING if word in text}
    assert not held
    assert "[redacted: a customer number]" in left["report"]

    # The ledger has all of it, and so has what the editor learnt from.
    with Ledger(settings.ledger) as ledger:
        told = json.dumps([one.model_dump(mode="json") for one in ledger.corrections("tiny")])
    assert all(word in told for word in PLANTED.values() if word != PLANTED["database"])
    learnt = "".join(everything(home / "runs").values())
    assert PLANTED["key"] in learnt
    verify = ["verify", "tiny", "--remeasure", "--home", str(home)]
    done = CliRunner().invoke(app, verify)
    assert (done.exit_code, "holds: PROMOTE" in done.output) == (0, True), done.output
    # Elsewhere the inputs are not to be had, and nothing is said of the verdict.
    (home / "evidence").rename(home / "elsewhere")
    done = CliRunner().invoke(app, verify)
    assert done.exit_code == 1
    assert "are redacted, and what they were is not in" in done.output
    with pytest.raises(UserError, match="name the home of the run"):
        revalidate(settings)


def prefect_database() -> dict[str, str]:
    """The database of the tests' Prefect server, with its log of changes."""
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url
    assert url is not None
    file = Path(url.get_secret_value().partition("///")[2])
    return {str(one): everything_of(one)[str(one)] for one in file.parent.glob(f"{file.name}*")}


def everything_of(file: Path) -> dict[str, str]:
    return {str(file): file.read_bytes().decode("utf-8", "replace")}


def test_what_prefect_keeps_of_the_settings_has_no_password_in_it():
    settings = CorrectSettings(
        model_name="tiny",
        tracking_uri="http://ann:hunter2@mlflow:5000",
        ledger_url="postgresql+psycopg://ann:hunter2@db/ledger",
    )
    kept = jsonable_encoder(settings)
    assert "hunter2" not in json.dumps(kept)
    assert kept["ledger_url"] == "postgresql+psycopg://ann:***@db/ledger"
    assert settings.ledger == "postgresql+psycopg://ann:hunter2@db/ledger"


def test_a_rule_that_cannot_be_used_stops_a_run_before_it_does_anything(world: World, tmp_path: Path):
    settings = world.settings.model_copy(update={"redact": tmp_path / "none.yaml"})
    with pytest.raises(UserError, match="is no rule of what to redact"):
        correct(settings)
    assert not (settings.home / "ledger.db").exists()
