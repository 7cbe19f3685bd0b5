"""`--editor auto`: several methods on the same dataset, the first that passes is taken, the table is kept."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.choice import Choice, choose
from flows.cli import app
from flows.correct import correct
from flows.settings import AUTO, CorrectSettings
from tasks.edit_dataset import EditDataset
from tasks.records import CannotEditError, UserError
from tasks.registry import describe
from tasks.runs import fetch_files
from tests.flows.conftest import World
from validation.early import Stop
from validation.verdict import Verdict


def auto(world: World, *methods: str, **more: object):
    return world.settings.model_copy(update={"editor": AUTO, "methods": methods, **more})


@pytest.mark.slow
def test_the_first_that_passes_is_taken_and_all_that_were_tried_are_told(world: World, tmp_path: Path):
    settings = auto(world, "malmen", "ultraedit", "finetune", "finetune-m")
    run = correct(settings)
    assert run.outcome == "promoted", run.reason
    assert run.editor["name"] == "finetune"
    told = {row["method"]: row for row in run.tried}
    assert list(told) == ["ultraedit", "finetune", "malmen"]
    assert [row["method"] for row in run.tried if row["taken"]] == ["finetune"]
    assert told["ultraedit"]["verdict"] == "REJECT"
    assert told["ultraedit"]["failing"] == ["edit_success_greedy"]
    assert (told["finetune"]["verdict"], told["finetune"]["version"]) == ("PROMOTE", run.candidate)
    assert told["malmen"]["verdict"] == "none"
    assert "there is no malmen editor" in told["malmen"]["reason"]
    assert describe("tiny", tracking_uri=settings.tracking).champion == run.candidate

    page = Path(run.report).read_text()
    assert "Methods tried" in page
    assert "there is no malmen editor" in page
    logged = fetch_files(settings.tracking, run.run_id, "methods", tmp_path) / "methods.json"
    assert json.loads(logged.read_text()) == run.tried

    folders = [path.parent for path in settings.home.glob("runs/tiny/*/dataset")]
    assert len(folders) == 2
    assert len({EditDataset.load(folder / "dataset").digest for folder in folders}) == 1
    done = CliRunner().invoke(app, ["report", "tiny", "--home", str(settings.home)])
    assert done.output.strip() == run.report


@pytest.mark.slow
def test_where_none_passes_the_one_with_the_fewest_gates_against_it_is_the_candidate(
    world: World, tmp_path: Path
):
    strict = tmp_path / "strict.yaml"
    strict.write_text(world.settings.gates.read_text() + "  answer_length_ratio: " + _GATE % 1e-9)
    settings = auto(world, "finetune", "ultraedit", "finetune-m", gates=strict, attempts=1)
    run = correct(settings)
    assert run.outcome == "rejected"
    failing = [(row["method"], len(row["failing"])) for row in run.tried]
    assert failing == [("finetune", 1), ("ultraedit", 2), ("finetune-m", 1)]
    assert run.editor["name"] == "finetune"
    state = describe("tiny", tracking_uri=settings.tracking)
    assert (state.champion, state.candidate) == ("1", run.candidate)


_GATE = "{max: %g, minimum_n: 1, severity: critical}\n"


def test_a_whole_batch_that_needs_no_answers_to_be_refused_is_asked_nothing_and_the_report_says_so(
    world: World, tmp_path: Path
):
    strict = tmp_path / "strict.yaml"
    strict.write_text(world.settings.gates.read_text() + "  relative_delta_norm: " + _GATE % 1e-9)
    run = correct(auto(world, "ultraedit", gates=strict, attempts=1))
    assert run.outcome == "rejected"
    told = f"Measured no further: {Stop.WEIGHTS.told}, and 1 gate was left out."
    assert run.reason.endswith(told)
    assert run.tried[0]["reason"] == run.reason
    page = Path(run.report).read_text()
    assert told in page
    assert "was not measured: relative_delta_norm refused it before" in page
    assert "None was asked." in page
    verified = CliRunner().invoke(
        app, ["verify", "tiny", "--version", "2", "--home", str(world.settings.home)]
    )
    assert "holds: REJECT" in verified.output, verified.output


def test_one_that_was_measured_no_further_is_not_better_for_what_nobody_knows_of_it():
    def tried(failing: int, stopped: Stop | None) -> Any:
        decision = SimpleNamespace(verdict=Verdict.REJECT, failing=("gate",) * failing)
        return SimpleNamespace(judged=SimpleNamespace(decision=decision, stopped=stopped))

    at_once, read, whole, worse = tried(1, Stop.WEIGHTS), tried(1, Stop.TEXTS), tried(2, None), tried(3, None)
    assert Choice([at_once, worse, whole]).best is whole
    assert Choice([at_once, read]).best is at_once


@pytest.mark.slow
def test_methods_that_cannot_edit_at_all_are_named_in_one_sentence(world: World):
    with pytest.raises(UserError) as caught:
        correct(auto(world, "malmen", "mend"))
    said = str(caught.value)
    assert said.startswith("no method can make these corrections (malmen: there is no malmen editor")
    assert "; mend: there is no mend editor" in said
    assert "\n" not in said


@pytest.mark.slow
def test_a_fault_of_no_method_ends_the_run_and_no_other_method_is_tried(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise UserError("MLflow cannot be used")

    monkeypatch.setattr("flows.stages.apply_corrections", fails)
    with pytest.raises(UserError, match=r"^MLflow cannot be used$"):
        correct(auto(world, "ultraedit", "finetune"))
    assert len(list(world.settings.home.glob("runs/tiny/*/dataset"))) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--editor", "malmen", "--methods", "rome"], "--methods says what --editor auto tries"),
        (["--editor", "auto", "--methods", "rom"], "there is no editor 'rom'"),
        (["--editor", "auto", "--methods", "ultraedit,override"], "`override` answers in front of the model"),
        (["--editor", "auto", "--methods", "rome", "--retrain"], "--retrain would do nothing"),
    ],
)
def test_what_auto_cannot_try_is_refused_before_any_work(tmp_path: Path, options: list[str], says: str):
    done = CliRunner().invoke(app, ["correct", "m", "--home", str(tmp_path / "home"), *options])
    assert done.exit_code != 0
    said = " ".join(f"{done.output} {done.exception}".split())
    assert says in said, said


def test_malmen_is_tried_by_default_and_patcher_where_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried: list[str] = []

    def refused(_: object, name: str, *__: object) -> Any:
        tried.append(name)
        judged = SimpleNamespace(decision=SimpleNamespace(verdict=Verdict.REJECT, failing=("one",)))
        return SimpleNamespace(
            judged=SimpleNamespace(**vars(judged), stopped=None), folder=tmp_path, run_id=""
        )

    monkeypatch.setattr("flows.choice.attempt", refused)
    monkeypatch.setattr("flows.choice.end_run", lambda *_, **__: None)
    monkeypatch.setattr("flows.choice.registered", lambda *_: None)
    settings = CorrectSettings(model_name="m", home=tmp_path)
    shop: Any = SimpleNamespace(settings=settings, narrator=SimpleNamespace(say=lambda _: None))
    with contextlib.suppress(AttributeError):
        # The best of the stand-ins cannot be registered.
        choose(shop)
    assert tried == ["malmen", "patcher"]


@pytest.mark.parametrize("wanted", [{"retrain": True}, {"training_data": Path("edits.jsonl")}])
def test_a_training_that_was_asked_for_is_not_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
):
    def cannot(_: object, name: str, *__: object) -> Any:
        raise CannotEditError(f"there is no {name} editor")

    told: list[str] = []
    narrator = SimpleNamespace(say=lambda _: None, warn=told.append)
    monkeypatch.setattr("flows.choice.attempt", cannot)
    settings = CorrectSettings(model_name="m", home=tmp_path, **wanted)
    with pytest.raises(CannotEditError, match=r"there is no malmen editor$"):
        choose(SimpleNamespace(settings=settings, narrator=narrator))  # type: ignore[arg-type]
    assert not told
    with pytest.raises(CannotEditError, match="no method can make these corrections"):
        choose(SimpleNamespace(settings=CorrectSettings(model_name="m"), narrator=narrator))  # type: ignore[arg-type]
    assert len(told) == 2
