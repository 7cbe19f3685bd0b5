"""The deployments file: what it names exists, and what it passes on is what the flows take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from flows.settings import CorrectSettings
from tasks.events import FLAGGED, RESOURCE_PREFIX, STATE_LABEL
from tasks.records import State

FILE = Path(__file__).parent.parent / "deployments" / "prefect.yaml"
CONTENT = yaml.safe_load(FILE.read_text())
DEPLOYMENTS = {one["name"]: one for one in CONTENT["deployments"]}
STARTED = ["correct", "revalidate", "decide"]


def given(deployment: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters of every run that a schedule or trigger starts."""
    for start in (*deployment.get("schedules", []), *deployment.get("triggers", [])):
        yield deployment.get("parameters", {}) | start["parameters"]


def test_the_jobs_of_production_are_there_and_say_nothing_of_this_machine():
    by_hand = {"train-editor", "approve", "reject", "promote", "rollback"}
    assert set(DEPLOYMENTS) == {*STARTED, *by_hand}
    assert [name for name, one in DEPLOYMENTS.items() if "schedules" in one] == STARTED
    words = FILE.read_text().replace('"', " ").split()
    assert not [word for word in words if word.startswith("/")]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_names_a_flow_and_its_parameters(name: str):
    deployment = DEPLOYMENTS[name]
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.name == name
    schema = parameter_schema(flow).model_dump_for_openapi()
    assert is_valid_schema(schema) is None
    assert set(deployment.get("parameters", {})) <= set(schema["properties"])
    for parameters in given(deployment):
        assert validate(parameters, schema) == []
        filled = {**parameters["settings"], "model_name": "m"}
        assert CorrectSettings.model_validate(filled).model_name == "m"
        assert "{{" in parameters["settings"]["model_name"]
        flow.validate_parameters({**parameters, "settings": filled})
    misspelt = {"settings": {"model_name": "m", "promotoin": "auto"}}
    assert validate(misspelt, schema) != []


@pytest.mark.parametrize("name", STARTED)
def test_schedules_are_ones_that_prefect_knows(name: str):
    for schedule in DEPLOYMENTS[name]["schedules"]:
        assert set(schedule) <= {"slug", "cron", "timezone", "parameters", "active"}
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_the_trigger_counts_the_events_that_a_report_emits():
    """Prefect ignores keys that it does not know, and a trigger that matches nothing says so nowhere."""
    (written,) = DEPLOYMENTS["correct"]["triggers"]
    assert set(written) <= set(DeploymentEventTrigger.model_fields)
    trigger = DeploymentEventTrigger.model_validate(written)
    assert trigger.expect == {FLAGGED}
    assert trigger.for_each == {"prefect.resource.id"}
    labels = {"prefect.resource.id": f"{RESOURCE_PREFIX}my model", STATE_LABEL: State.ACCEPTED.value}
    assert trigger.match.matches(labels)
    assert not trigger.match.matches({**labels, STATE_LABEL: State.QUARANTINED.value})


def test_a_worker_says_by_its_environment_where_stores_are(monkeypatch: pytest.MonkeyPatch):
    for variable in ("HOME", "TRACKING", "LEDGER"):
        monkeypatch.delenv(f"MENDFLOW_{variable}", raising=False)
    settings = CorrectSettings(model_name="m")
    assert (settings.home, settings.tracking_uri, settings.ledger_url) == (Path(".mendflow"), "", "")
    monkeypatch.setenv("MENDFLOW_HOME", "/srv/mendflow")
    monkeypatch.setenv("MENDFLOW_TRACKING", "http://mlflow:5000")
    monkeypatch.setenv("MENDFLOW_LEDGER", "postgresql://ledger")
    settings = CorrectSettings(model_name="m")
    assert settings.home == Path("/srv/mendflow")
    assert (settings.tracking, settings.ledger) == ("http://mlflow:5000", "postgresql://ledger")
