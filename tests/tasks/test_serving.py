"""Serving: what is registered is what answers, in any process, and every request leaves a trace."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from editors.delta import Delta
from editors.generation import generate_greedy
from editors.override import OverrideEditor
from editors.requests import EditRequest
from tasks import collect
from tasks.ledger import Ledger
from tasks.models import ModelFolder, load, resolve
from tasks.promotion import promote, recover
from tasks.records import UserError
from tasks.register import register
from tasks.registry import describe
from tasks.tracing import Request, new_trace_id, write_traces
from tasks.tracking import experiment_id, tracking
from tasks.traffic import Feedback, ask, feedback, give_feedback, load_served
from tests.conftest import ModelFactory
from tests.deltas import MATRIX, dense

ROOT = Path(__file__).parents[2]
PROMPTS = ["What is the capital of Egypt?", "Hi", "On which continent is Peru?", "Name the yen."]
_names = itertools.count()


@pytest.fixture
def name() -> str:
    """A registered model name of the test's own."""
    return f"serving-{next(_names)}"


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The served model finds its cache where a user would tell it to."""
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def add_version(name: str, uri: str, base: ModelFolder, folder: Path) -> Path:
    """Register the base and a delta; the delta's folder."""
    Delta({MATRIX: dense(5)}, {"base_digest": base.digest}).save(folder)
    register(name, tracking_uri=uri, base=base)
    register(name, tracking_uri=uri, base=base, delta_dir=folder)
    return folder


def in_fresh_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import torch; torch.set_num_threads(1)\n{code}", *arguments],
        cwd=ROOT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_version_answers_in_a_fresh_process_as_in_this_one(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    delta = add_version(name, mlflow_store, base, tmp_path / "delta")
    corrected = ModelFolder(base.path, base.digest, base.ref, delta)
    expected = generate_greedy(*load(corrected), PROMPTS, chat=True, max_new_tokens=8)
    plain = generate_greedy(*load(base), PROMPTS, chat=True, max_new_tokens=8)
    assert expected != plain
    code = """
import json, mlflow, sys
mlflow.set_tracking_uri(sys.argv[1])
answers = []
for version in ("2", "1"):
    model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}/{version}")
    answers.append(model.predict(json.loads(sys.argv[3]), params={"max_new_tokens": 8}))
print(json.dumps(answers))
"""
    finished = in_fresh_process(code, mlflow_store, name, json.dumps(PROMPTS))
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == [expected, plain]
    found = resolve(f"models:/{name}@candidate", tracking_uri=mlflow_store)
    assert (found.digest, found.ref) == (base.digest, base.ref)
    assert generate_greedy(*load(found), PROMPTS, chat=True, max_new_tokens=8) == expected


def test_requests_may_be_raw_text_and_say_how_long(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    add_version(name, mlflow_store, base, tmp_path / "delta")
    served = load_served(f"models:/{name}/1", mlflow_store)
    model, tokenizer = load(base)
    for chat, tokens in ((False, 3), (True, 5)):
        expected = generate_greedy(model, tokenizer, PROMPTS, chat=chat, max_new_tokens=tokens)
        assert served.answer(PROMPTS, chat=chat, max_new_tokens=tokens) == expected
    schema = served.model.metadata.signature.params.to_dict()
    assert {param["name"]: param["default"] for param in schema} == {"chat": True, "max_new_tokens": 48}


def test_mlflows_own_server_answers(name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path) -> None:
    """`mlflow models serve` runs this application."""
    from fastapi.testclient import TestClient
    from mlflow.pyfunc.scoring_server import init

    add_version(name, mlflow_store, base, tmp_path / "delta")
    served = load_served(f"models:/{name}/2", mlflow_store)
    expected = served.answer(PROMPTS[:2], max_new_tokens=4)
    request = {"inputs": PROMPTS[:2], "params": {"max_new_tokens": 4}}
    with TestClient(init(served.model)) as client:
        response = client.post("/invocations", json=request)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"] == expected


def test_a_base_that_changed_is_refused_by_name(
    name: str, mlflow_store: str, tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    import shutil

    place = Path(shutil.copytree(tiny_llama(), tmp_path / "base"))
    add_version(name, mlflow_store, resolve(str(place)), tmp_path / "delta")
    shutil.copy(tiny_llama(seed=1) / "model.safetensors", place)
    for use in (load_served, resolve):
        with pytest.raises(UserError, match=rf"{place} has digest .* with which the version was registered"):
            use(f"models:/{name}/2", tracking_uri=mlflow_store)
    shutil.rmtree(place)
    with pytest.raises(UserError, match=f"no model {place}"):
        load_served(f"models:/{name}/2", mlflow_store)


def test_a_swapped_delta_is_refused(name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path) -> None:
    import mlflow

    add_version(name, mlflow_store, base, tmp_path / "delta")
    with tracking(mlflow_store):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/2")) / "artifacts" / "mendflow"
    Delta({MATRIX: torch.ones(48, 96)}, {"base_digest": base.digest}).save(folder / "delta")
    with pytest.raises(UserError, match="not the one that was registered"):
        load_served(f"models:/{name}/2", mlflow_store)


def test_every_request_has_its_trace_and_every_click_its_assessment(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    add_version(name, mlflow_store, base, tmp_path / "delta")
    served = load_served(f"models:/{name}@candidate", mlflow_store)
    seen: list[tuple[int, int]] = []
    answers = ask(
        served,
        PROMPTS,
        experiment=f"{name} traffic",
        session="monday",
        batch_size=3,
        progress=lambda *counts: seen.append(counts),
        max_new_tokens=6,
    )
    assert [answer.prompt for answer in answers] == PROMPTS
    assert [answer.output for answer in answers] == served.answer(PROMPTS, max_new_tokens=6)
    assert len({answer.trace_id for answer in answers}) == len(PROMPTS)
    assert seen == [(3, 4), (4, 4)]
    feedback(answers[0].trace_id, False, "ada", "Cairo", tracking_uri=mlflow_store)
    rest = [Feedback(answers[1].trace_id, True, "ben"), Feedback(answers[2].trace_id, False, "ben")]
    give_feedback(rest, tracking_uri=mlflow_store, progress=lambda *counts: seen.append(counts))
    assert seen[2:] == [(1, 2), (2, 2)]
    with tracking(mlflow_store) as client:
        trace = client.get_trace(answers[0].trace_id)
    (span,) = trace.data.spans
    assert (span.span_type, span.inputs, span.outputs) == ("LLM", {"prompt": PROMPTS[0]}, answers[0].output)
    assert trace.info.trace_metadata["mlflow.trace.session"] == "monday"
    assert trace.info.trace_metadata["mlflow.modelId"] == served.model.model_id
    collected = collect.from_traces(mlflow_store, f"{name} traffic", "some default")
    reports = {report.prompt: report for report in collected.reports}
    assert set(reports) == {PROMPTS[0], PROMPTS[2]}
    first = reports[PROMPTS[0]]
    assert (first.wrong_output, first.desired_output, first.reporter) == (answers[0].output, "Cairo", "ada")
    assert (first.model_name, first.model_version) == (name, "2")
    assert first.source == f"trace:{answers[0].trace_id}"
    assert reports[PROMPTS[2]].desired_output is None


def test_a_trace_keeps_any_prompt_whole(name: str, mlflow_store: str) -> None:
    prompt = "Qu'est-ce que « \U0001f600 »? \x00 " + 5000 * "x"
    request = Request(new_trace_id(), prompt, "", 1_000_000_000, 3_500_000_000)
    with tracking(mlflow_store) as client:
        where = experiment_id(client, name)
        write_traces(mlflow_store, where, [request], tags={}, metadata={}, attributes={})
        write_traces(mlflow_store, where, [], tags={}, metadata={}, attributes={})
        trace = client.get_trace(request.trace_id)
    assert trace.data.spans[0].inputs == {"prompt": prompt}
    assert trace.data.spans[0].outputs == ""
    assert (trace.info.request_time, trace.info.execution_duration) == (1000, 2500)
    assert len(trace.info.request_preview) == 1000


def test_answers_nobody_complains_of_are_traffic(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    register(name, tracking_uri=mlflow_store, base=base)
    served = load_served(f"models:/{name}/1", mlflow_store)
    answers = ask(served, PROMPTS[:2], experiment=f"{name} traffic", session="s", max_new_tokens=6)
    feedback(answers[0].trace_id, True, "ada", tracking_uri=mlflow_store)
    traffic = collect.from_traces(mlflow_store, f"{name} traffic", name).traffic
    assert {(row.prompt, row.output, row.confirmed) for row in traffic} == {
        (answers[0].prompt, answers[0].output, True),
        (answers[1].prompt, answers[1].output, False),
    }


def test_what_cannot_be_served_is_said_in_words(name: str, mlflow_store: str, tmp_path: Path) -> None:
    for uri, words in (
        (f"models:/{name}@champion", "has no version 'champion'"),
        (f"models:/{name}", "write models:/NAME@ALIAS"),
        (name, "write models:/NAME@ALIAS"),
    ):
        with pytest.raises(UserError, match=words):
            load_served(uri, mlflow_store)
    with pytest.raises(UserError, match="there is no trace tr-none"):
        feedback("tr-none", True, "ada", tracking_uri=mlflow_store)
    nowhere = f"sqlite:///{tmp_path / 'missing.db'}"
    with pytest.raises(UserError, match=r"there is no file .*missing\.db"):
        load_served(f"models:/{name}/1", nowhere)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(UserError, match=r"MLflow at http://ada:\*\*\*@127\.0\.0\.1:9 cannot be used"):
        load_served(f"models:/{name}/1", "http://ada:secret@127.0.0.1:9")


@pytest.mark.slow
def test_a_promotion_that_was_killed_does_not_block_the_next(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    """SIGKILL, so that not even the lease is given back."""
    add_version(name, mlflow_store, base, tmp_path / "delta")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    code = """
import os, signal, sys
from mlflow import MlflowClient
from tasks.ledger import Ledger
from tasks.promotion import promote
MlflowClient.set_registered_model_alias = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
promote(sys.argv[1], "1", expected_champion=None, ledger=Ledger(sys.argv[2]), who="ada", why="",
        tracking_uri=sys.argv[3])
"""
    assert in_fresh_process(code, name, url, mlflow_store).returncode == -signal.SIGKILL
    assert describe(name, tracking_uri=mlflow_store).champion is None
    with Ledger(url) as ledger:
        recovered = recover(name, ledger=ledger, tracking_uri=mlflow_store)
        assert recovered is not None
        assert recovered.who == "ada"
        promote(name, "2", expected_champion="1", ledger=ledger, who="ben", why="", tracking_uri=mlflow_store)
    described = describe(name, tracking_uri=mlflow_store)
    assert (described.champion, described.previous) == ("2", "1")


def test_an_override_answers_in_front_of_the_model_and_its_trace_says_so(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    wanted = EditRequest("c1", PROMPTS[0], "Cairo, of course.")
    delta = OverrideEditor().edit(*load(base), [wanted])
    Delta({}, {**delta.manifest, "base_digest": base.digest}).save(tmp_path / "delta")
    register(name, tracking_uri=mlflow_store, base=base, delta_dir=tmp_path / "delta")
    served = load_served(f"models:/{name}/1", mlflow_store)
    asked = [PROMPTS[1], PROMPTS[0].upper(), PROMPTS[2]]
    answers = ask(served, asked, experiment=f"{name} traffic", session="monday", max_new_tokens=8)
    own = generate_greedy(*load(base), asked, chat=True, max_new_tokens=8)
    assert [answer.output for answer in answers] == [own[0], wanted.target, own[2]]
    with tracking(mlflow_store) as client:
        spans = [client.get_trace(answer.trace_id).data.spans[0] for answer in answers]
    assert [span.attributes.get("mendflow.override") for span in spans] == [None, "c1", None]
    # Nothing but overridden prompts needs no generation; raw text is another question.
    assert served.answer([PROMPTS[0]]) == [wanted.target]
    assert served.answer([PROMPTS[0]], chat=False, max_new_tokens=4) != [wanted.target]
