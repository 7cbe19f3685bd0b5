"""What `mendflow up` is told of runs and of serving."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.options import settings_of
from flows.machine import DEPLOYMENTS, Machine
from flows.parts import PARTS, SERVE, Serving, commands_of_parts
from flows.registration import deployments_of
from flows.settings import CorrectSettings, given_to_runs
from tests.flows.test_machine import refused


def test_what_the_runs_and_the_served_model_are_given_is_held_to_be_right(tmp_path: Path):
    home, model = str(tmp_path / "home"), ("--model", "m")
    for options, said in (
        (("--serve",), "--serve serves the model that --model names"),
        (("--canary", "0.1", *model), "give --serve too"),
        (("--serve", "--canary", "1", *model), "a share is between 0 and 1"),
        (("--answerer", "table:x"), "answerer: settings of the model that --model names"),
        (("--answerer", "nobody", *model), "names no answerer"),
        (("--set", "attemps=3", *model), "write NAME=VALUE with the name of a setting"),
        (("--set", "attempts=none", *model), "attempts: "),
        (("--set", "home=/", *model), "home is what --home names"),
    ):
        assert said in refused("up", "--home", home, *options)
    assert Machine(Path(home)).running() == []


def test_settings_given_to_up_take_the_place_of_the_files_in_whatever_folder_runs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    # Named like a setting that names no folder.
    (tmp_path / "mendflow").mkdir()
    given: dict[str, Any] = {
        "answerer": "function:answers:answer",
        "promotion": "review",
        "gates": "gates.yaml",
        "methods": ["mine", "patcher"],
        "experiment": "mendflow",
    }
    settings = settings_of("m", tmp_path / "home", **given)
    content = yaml.safe_load(deployments_of(DEPLOYMENTS, "m", given_to_runs(settings, given)))
    starts = [
        start
        for deployment in content["deployments"]
        for start in (*deployment.get("schedules", ()), *deployment.get("triggers", ()))
    ]
    assert len(starts) > 3
    for start in starts:
        of_run = start["parameters"]["settings"]
        assert "{{" in of_run.pop("model_name")
        assert of_run == {
            "answerer": {"kind": "function", "function": "answers:answer", "folder": str(tmp_path)},
            "promotion": "review",
            "gates": str(tmp_path / "gates.yaml"),
            "methods": [str(tmp_path / "mine"), "patcher"],
            "experiment": "mendflow",
        }
        again = CorrectSettings(model_name="m", **of_run)
        assert again.answerer is not None
        assert again.answerer.kind == "function"


def test_a_model_is_served_by_a_command_of_its_own(tmp_path: Path):
    settings = settings_of("--odd name", tmp_path, experiment="shop")
    ports = dict.fromkeys(PARTS, 1)
    command, address = commands_of_parts(settings, tmp_path, ports, Serving(8123, 0.5, 0.1))[SERVE]
    assert address == "http://127.0.0.1:8123"
    assert command[:3] == [sys.executable, "-m", "flows.cli"]
    *options, name = command[3:]
    assert name == "--odd name"
    # All of them are understood: it is the last that is refused.
    assert "no device 'abacus'" in refused(*options[:-1], "--device", "abacus", "--", name)


def test_what_is_served_is_redacted_and_told_of_as_runs_are_and_anew_where_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"redact": "redact.yaml", "notify": "slack-webhook/ops"}

    def command(**given: Any) -> list[str]:
        settings = settings_of("m", tmp_path / "home", **given)
        return commands_of_parts(settings, tmp_path, dict.fromkeys(PARTS, 1), Serving(1))[SERVE][0]

    asked = command(**given)
    # Both are taken: the file is not there.
    assert f"{tmp_path / 'redact.yaml'} is no rule" in refused(*asked[3:])
    machine, waiting = Machine(tmp_path / "home"), [sys.executable, "-c", "import time; time.sleep(600)"]
    assert not machine.serves_otherwise(asked)
    machine.part(SERVE).start(waiting, os.environ, started_by=shlex.join(asked))
    assert not machine.serves_otherwise(command(**given))
    assert machine.serves_otherwise(command())
    machine.part(SERVE).stop(1)


def test_a_rule_that_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path):
    home = tmp_path / "home"
    options = ("--home", str(home), "--model", "m", "--base", "b", "--set", "redact=none.yaml")
    assert "none.yaml is no rule of what to redact" in refused("up", *options)
    assert Machine(home).running() == []
