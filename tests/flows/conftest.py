"""One Prefect server for all flow tests, and a world in which a tiny model makes mistakes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.settings import CorrectSettings
from tasks import validate

if TYPE_CHECKING:
    from tests.flows.serving_tools import Known

IN_FRESH_PROCESS = validate._in_fresh_process
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
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # A flow that has ended waits up to a second for the thread of its heartbeats.
    without_heartbeats = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with prefect_test_harness(server_startup_timeout=120), without_heartbeats:
        yield


@pytest.fixture(scope="package", autouse=True)
def measured_here() -> Iterator[None]:
    """To start Python anew takes seconds for every candidate; `anew` does it all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "_in_fresh_process", measure_here)
        yield


def measure_here(request_file: Path, _: object) -> None:
    """In place of `tasks.validate._in_fresh_process`, whose output nobody sees either."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        validate._measure(request_file)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are measured as they are in production."""
    monkeypatch.setattr(validate, "_in_fresh_process", IN_FRESH_PROCESS)


@pytest.fixture
def known(tmp_path: Path, mlflow_store: str, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> Known:
    """A model of three versions to be served; the second is the champion."""
    from tasks.models import resolve
    from tests.flows.serving_tools import known_model

    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    return known_model(tmp_path, mlflow_store, resolve(str(tiny_llama())))


@dataclass(frozen=True)
class World:
    """A home folder with reports of a tiny model's mistakes."""

    settings: CorrectSettings
    reports: Path

    def report_bare(self) -> tuple[list[str], CorrectSettings]:
        """Take the answer from the first two of the four reports; a table knows that of the first.

        Returns the four prompts, and settings that name the table.
        """
        prompts = [json.loads(line)["prompt"] for line in self.reports.read_text().splitlines()]
        bare = [{"prompt": prompt, "target": None, "output": "Rome."} for prompt in prompts[:2]]
        kept = [{"prompt": prompt, "target": "Cairo"} for prompt in prompts[2:]]
        self.reports.write_text("".join(json.dumps(row) + "\n" for row in [*bare, *kept]))
        table = self.reports.with_name("right.jsonl")
        table.write_text(json.dumps({"prompt": prompts[0], "target": "Cairo"}) + "\n")
        answerer = CorrectSettings(model_name="m", answerer=f"table:{table}").answerer
        return prompts, self.settings.model_copy(update={"answerer": answerer})


@pytest.fixture
def world(tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> World:
    """Four reports about a tiny base, and gates that a tiny model can pass."""
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


@pytest.fixture
def calm(world: World, tmp_path: Path) -> CorrectSettings:
    """The same world in another home, where nothing fails; nothing is reported in it yet."""
    world.reports.unlink()
    settings = world.settings.model_copy(update={"home": tmp_path / "calm"})
    settings.home.mkdir()
    return settings


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], World]:
    """`taught(home) -> world`: a base that learnt facts; four are reported, what it keeps was served before.

    A `malmen` editor is trained in the run, on facts that nobody reported.
    """
    import torch

    from tests import tiny_models
    from tests.editors.facts import learnt

    folder = tmp_path_factory.mktemp("taught")
    base = tiny_models.build(folder / "base", "llama", initializer_range=0.1)
    facts = learnt(base)
    with torch.no_grad():
        # The same function; but an editor's first step goes by the size of the matrices it edits.
        for layer in facts.model.model.layers:
            layer.mlp.up_proj.weight /= 16
            layer.mlp.down_proj.weight *= 16
    facts.model.save_pretrained(base)
    reported, practised = facts.requests[:4], facts.requests[4:]
    reports = folder / "reports.jsonl"
    reports.write_text(
        "".join(
            json.dumps({"prompt": r.prompt, "target": r.target, "rephrases": list(r.equivalents)}) + "\n"
            for r in reported
        )
    )
    practice = folder / "practice.jsonl"
    stay = [kept.prompt for kept in facts.keep]
    practice.write_text(
        "".join(
            json.dumps(
                {
                    "prompt": r.prompt,
                    "target": r.target,
                    "rephrases": list(r.equivalents),
                    "locality": stay[i :: len(practised)],
                }
            )
            + "\n"
            for i, r in enumerate(practised)
        )
    )
    gates = folder / "gates.yaml"
    gates.write_text(LENIENT_GATES)
    store = folder / "store"
    store.mkdir()
    serve(f"sqlite:///{store / 'mlflow.db'}", [(k.prompt, k.answer) for k in facts.keep])

    def make(home: Path) -> World:
        shutil.copytree(store, home)
        settings = CorrectSettings(
            model_name="tiny",
            base=str(base),
            home=home,
            source=reports,
            chat=False,
            editor="malmen",
            training_data=practice,
            training_steps=24,
            gates=gates,
            held_out=1,
            equivalents=2,
        )
        return World(settings, reports)

    return make


def everything(folder: Path) -> dict[str, str]:
    """All files of a folder as text, whatever they are, by path."""
    import pyarrow.parquet as parquet

    found = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".parquet":
            found[str(file)] = json.dumps(parquet.read_table(file).to_pylist(), ensure_ascii=False)
        elif file.is_file():
            found[str(file)] = file.read_bytes().decode("utf-8", "replace")
    return found


def serve(tracking_uri: str, answered: list[tuple[str, str]]) -> None:
    """Traces of requests whose answers users called right, in a new store."""
    from tasks.tracing import Request, new_trace_id, write_traces
    from tasks.tracking import tracking
    from tasks.traffic import Feedback, give_feedback

    now = time.time_ns()
    requests = [
        Request(new_trace_id(), prompt, output, now + i, now + i + 1)
        for i, (prompt, output) in enumerate(answered)
    ]
    with tracking(tracking_uri, create=True) as client:
        # An experiment whose artifacts lie nowhere: the store is copied, and traces need none.
        experiment = client.create_experiment("mendflow", artifact_location="file:///nowhere")
        write_traces(tracking_uri, experiment, requests, tags={}, metadata={}, attributes={})
    clicks = [Feedback(request.trace_id, True, "ann", request.output) for request in requests]
    give_feedback(clicks, tracking_uri=tracking_uri)
