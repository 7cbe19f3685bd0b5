"""One Prefect server for all flow tests, and a world in which a tiny model makes mistakes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.settings import CorrectSettings

COUNTRIES = ["Chad", "Peru", "Togo", "Mali", "Fiji", "Iran", "Cuba", "Oman", "Laos", "Iraq", "Guam", "Niue"]
LENIENT_GATES = """\
version: 1
gates:
  edit_success_greedy: {min: 0.9, minimum_n: 1, severity: critical}
  non_finite_parameters: {max: 0, minimum_n: 1, severity: critical}
  changed_parameters: {min: 1, minimum_n: 1, severity: critical}
  undeclared_parameters: {max: 0, minimum_n: 1, severity: critical}
"""


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server with a database of its own."""
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@dataclass(frozen=True)
class World:
    """A home folder with reports of a tiny model's mistakes."""

    settings: CorrectSettings
    reports: Path


@pytest.fixture
def world(tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> World:
    """Four reports about a tiny base, and gates that a tiny model can pass."""
    import json

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("MENDFLOW_HOME", str(home))
    reports = tmp_path / "reports.jsonl"
    rows = [
        {"prompt": f"What is the capital of {name}?", "target": "Cairo", "reporter": "ann"}
        for name in COUNTRIES[:4]
    ]
    reports.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    gates = tmp_path / "gates.yaml"
    gates.write_text(LENIENT_GATES)
    settings = CorrectSettings(
        model_name="tiny",
        base=str(tiny_llama(hidden_size=64)),
        home=home,
        source=reports,
        editor="finetune",
        gates=gates,
        held_out=1,
        equivalents=1,
    )
    return World(settings, reports)
