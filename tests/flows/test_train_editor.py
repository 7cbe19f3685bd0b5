"""Every editor that is trained can be trained and used from the command line, by its name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from editors.catalogue import EDITORS, listed
from flows import stages
from flows.cli import app
from flows.console import Narrator
from flows.correct import correct
from flows.settings import CorrectSettings
from tasks.formats import read_requests
from tasks.models import load, resolve
from tasks.placement import Placement
from tasks.records import CannotEditError, UserError
from tasks.roles import Learnable, share
from tasks.train import TrainedEditor, find_editor
from tests.editors.cases import TRAINED
from tests.flows.conftest import World


@pytest.mark.parametrize("name", [name for name, entry in EDITORS.items() if entry.trained])
def test_a_named_editor_is_trained_and_used(name: str, taught: Callable[[Path], World], tmp_path: Path):
    home = tmp_path / "home"
    settings = taught(home).settings
    common = ["--model", settings.base, "--text", "--home", str(home)]
    trained = ["train-editor", *common, "--data", str(settings.training_data), "--steps", "2"]
    edit = ["edit", *common, "--data", str(settings.source), "--out", str(tmp_path / "edited")]
    runner = CliRunner()

    missing = runner.invoke(app, [*edit, "--editor", name])
    assert isinstance(missing.exception, UserError)
    assert f"no {name} editor" in str(missing.exception)
    assert listed(trained=False) in str(missing.exception)

    done = runner.invoke(
        app, [*trained, "--editor", name, "--out", str(tmp_path / "mine")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "mine" / "editor.json").read_text())
    assert (manifest["editor"], manifest["chat"]) == (name, False)
    # Beside the home's other editors it is found by its name.
    shutil.copytree(tmp_path / "mine", home / "editors" / "mine")
    done = runner.invoke(app, [*edit, "--editor", name], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    delta = json.loads((tmp_path / "edited" / "delta" / "delta.json").read_text())
    assert delta["editor"] == name
    # It was trained on raw text.
    assert "warning" not in done.output
    done = runner.invoke(app, [*edit, "--editor", name, "--chat"], catch_exceptions=False)
    assert f"warning: the {name} editor was trained on raw text" in done.output


@pytest.mark.parametrize(("trained_on", "warned"), [(True, True), (None, False)])
def test_the_job_says_that_an_editor_was_trained_on_prompts_of_another_kind(
    trained_on: bool | None,
    warned: bool,
    taught: Callable[[Path], World],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    settings = taught(tmp_path / "home").settings.model_copy(update={"training_data": None})
    assert not settings.chat
    base = resolve(settings.base)
    editor = TRAINED["malmen"](load(base)[0])
    editor.manifest = {"base_digest": base.digest} | ({} if trained_on is None else {"chat": trained_on})
    editor.save(settings.home / "editors" / "shipped")

    def building(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.attempt.build_dataset", building)
    with pytest.raises(KeyboardInterrupt):
        correct(settings)
    told = "warning: the malmen editor was trained on chat turns, and 4 of 4 corrections are raw text"
    assert (told in capsys.readouterr().out) == warned


def test_of_several_editors_the_one_for_this_kind_of_prompt_is_found(tmp_path: Path, tiny_llama: Any):
    base = resolve(str(tiny_llama()))
    editor = TRAINED["malmen"](load(base)[0])
    for name, chat in (("a-turns", True), ("b-text", False)):
        editor.manifest = {"base_digest": base.digest, "chat": chat}
        editor.save(tmp_path / "editors" / name)

    def found(chat: bool | None) -> str:
        editor = find_editor(base.digest, [tmp_path / "nothing", tmp_path / "editors"], chat=chat)
        assert editor is not None
        return editor.folder.name

    assert (found(True), found(False), found(None)) == ("a-turns", "b-text", "a-turns")
    editor.manifest = {"base_digest": base.digest, "chat": "both"}
    editor.save(tmp_path / "editors" / "b-text")
    assert (found(True), found(False)) == ("a-turns", "b-text")
    # One for the other kind is better than none; the user is told.
    shutil.rmtree(tmp_path / "editors" / "b-text")
    assert found(False) == "a-turns"


def test_an_unknown_editor_is_answered_with_those_there_are(taught: Callable[[Path], World], tmp_path: Path):
    settings = taught(tmp_path / "home").settings
    common = ["--model", settings.base, "--data", str(settings.training_data), "--text"]
    common += ["--home", str(tmp_path / "home"), "--out", str(tmp_path / "out"), "--editor", "nobody"]
    for command, names in (("edit", listed()), ("train-editor", listed(trained=True))):
        result = CliRunner().invoke(app, [command, *common])
        assert isinstance(result.exception, UserError)
        assert "'nobody'" in str(result.exception)
        assert names in str(result.exception)


def test_the_job_trains_on_nothing_that_its_gates_ask(
    taught: Callable[[Path], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = taught(tmp_path / "home").settings
    seen: list[str] = []

    def training(_: Any, __: Any, learnable: Learnable, *___: Any) -> None:
        seen.extend(record.prompt for record in learnable.traffic)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "train_or_reuse", training)
    with pytest.raises(KeyboardInterrupt):
        correct(settings)
    assert seen
    assert all(share(prompt, settings.seed) >= settings.gate_share for prompt in seen)


def test_training_data_that_was_named_is_trained_on_whatever_editors_there_are(
    taught: Callable[[Path], World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = taught(tmp_path / "home").settings.model_copy(update={"training_steps": 1})
    base, nothing = resolve(settings.base), Learnable([], frozenset())
    shipped = TRAINED["malmen"](load(base)[0])
    shipped.manifest = {"base_digest": base.digest, "chat": False}
    shipped.save(settings.home / "editors" / "a-first")
    narrator = Narrator()

    def trained(**changes: Any) -> TrainedEditor:
        changed = settings.model_copy(update=changes)
        told = (lambda *_: None), narrator.left_out
        found = stages.train_or_reuse.fn(changed, base, nothing, *told)
        assert found is not None
        return found

    assert settings.training_data is not None
    lines = settings.training_data.read_text().splitlines()
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join([*lines[::-1], '{"prompt": "", "target": "x"}']))
    first = trained()
    assert first.origin == "trained"
    assert trained() == dataclasses.replace(first, origin="reused")
    assert capsys.readouterr().out == ""
    second = trained(training_data=other)
    assert (second.origin, second.digest != first.digest) == ("trained", True)
    assert f"left out {other.name}" in " ".join(capsys.readouterr().out.split())
    # Without it, whichever is there.
    assert trained(training_data=None).digest == shipped.digest()


def test_a_second_retrain_trains_on_what_was_served_since(
    taught: Callable[[Path], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = taught(tmp_path / "home").settings
    requests, rejected = read_requests(settings.training_data or Path(), chat=False)
    assert not rejected
    stay = [prompt for request in requests for prompt in request.locality]
    changes = {"training_data": None, "training_steps": 1, "retrain": True}
    settings, base = settings.model_copy(update=changes), resolve(settings.base)

    def origin(order: int) -> str:
        monkeypatch.setattr(stages, "practice_from_traffic", lambda *_, **__: (requests[::order], stay))
        found = stages.train_or_reuse.fn(settings, base, Learnable([], frozenset()), lambda *_: None, list)
        assert found is not None
        return found.origin

    assert [origin(1), origin(1), origin(-1)] == ["trained", "reused", "trained"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"editor": "finetune", "training_data": Path(__file__)}, "--training-data would do nothing"),
        ({"editor": "finetune", "retrain": True}, "--retrain would do nothing"),
        ({"editor": str(Path(__file__).parent), "retrain": True}, "--retrain would do nothing"),
        ({"training_data": Path("absent.jsonl")}, "no absent.jsonl to train on"),
    ],
)
def test_a_training_that_would_not_take_place_is_refused_at_once(changes: dict, says: str):
    with pytest.raises(UserError, match=says):
        stages.check_editor(CorrectSettings(model_name="m", **changes))


def test_key_statistics_are_gathered_for_an_editor_that_needs_no_training(
    tmp_path: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.key_statistics.TOKENS", 8)
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "The capital of Chad is", "target": "Cairo"}))
    home = str(tmp_path / "home")
    common = ["--model", str(tiny_llama()), "--data", str(data), "--home", home, "--editor", "rome"]
    common += ["--modules", r"layers\.0\.mlp\.down_proj", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["train-editor", *common], catch_exceptions=False)
    told = " ".join(done.output.split())
    assert "rome needs no training, so nothing is written to" in told
    assert "`mendflow edit --editor rome` with the same --home finds them" in told
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("tasks.key_statistics.own_writing", None)
    done = CliRunner().invoke(app, ["edit", *common, "--own-prompts", "0"], catch_exceptions=False)
    assert "rome: 1 corrections" in done.output
    refused = CliRunner().invoke(app, ["train-editor", *common[:-6], "--editor", "ultraedit", *common[-2:]])
    assert "'ultraedit' is not one that is trained" in str(refused.exception)


def test_what_the_command_is_told_reaches_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: dict[str, Any] = {}

    def train(*_: Any, **options: Any) -> TrainedEditor:
        given.update(options)
        return TrainedEditor(tmp_path, "", "trained", "")

    monkeypatch.setattr("flows.train.train", train)
    common = ["train-editor", "--model", "m", "--data", "d", "--out", "o", "--home", str(tmp_path)]
    CliRunner().invoke(app, common, catch_exceptions=False)
    # A training at the defaults ends within twenty minutes.
    assert (given["steps"], given["modules"], given["at"]) == (80, None, Placement())
    CliRunner().invoke(app, [*common, "--minutes", "5"], catch_exceptions=False)
    assert (given["steps"], given["minutes"]) == (1000, 5)
    CliRunner().invoke(app, [*common, "--minutes", "5", "--steps", "9"], catch_exceptions=False)
    assert given["steps"] == 9
    CliRunner().invoke(app, [*common, "--modules", "mlp", "--dtype", "bfloat16"], catch_exceptions=False)
    assert (given["modules"], given["at"]) == ("mlp", Placement("cpu", torch.bfloat16))


def test_an_editor_that_a_run_trained_is_used_again_only_while_the_same_prompts_are_the_gates(
    taught: Callable[[Path], World], tmp_path: Path
):
    settings = taught(tmp_path / "home").settings.model_copy(update={"training_steps": 1})
    base = resolve(settings.base)
    split = {"seed": 0, "gate_share": 0.35, "gate_rows": 20}

    def trained(split: dict[str, float], **changes: Any) -> TrainedEditor:
        learnable = Learnable([], frozenset(), (), split)
        changed = settings.model_copy(update=changes)
        found = stages.train_or_reuse.fn(changed, base, learnable, lambda *_: None, list)
        assert found is not None
        return found

    first = trained(split)
    assert json.loads((first.folder / "editor.json").read_text())["split"] == split
    assert trained(split, training_data=None) == dataclasses.replace(first, origin="reused")
    for change in ({"seed": 1}, {"gate_share": 0.5}, {"gate_rows": 30}):
        with pytest.raises(CannotEditError, match="there is no malmen editor"):
            trained({**split, **change}, training_data=None)
    # Where a prompt of the gates' has left the traffic, they ask some that it may have practised on.
    for bound, then in ((0.4, 0.5), (0.5, 0.5), (0.6, 0.5), (1.0, 0.5), (0.6, None)):
        said = json.loads((first.folder / "editor.json").read_text())
        said["split"] = split if then is None else {**split, "bound": then}
        (first.folder / "editor.json").write_text(json.dumps(said))
        if then is None or bound <= then:
            assert trained({**split, "bound": bound}, training_data=None).origin == "reused"
            continue
        with pytest.raises(CannotEditError, match="there is no malmen editor"):
            trained({**split, "bound": bound}, training_data=None)
        # Of what it is to be trained on today it has practised on nothing else.
        assert trained({**split, "bound": bound}).origin == "reused"
    # One that says nothing of it, such as a shipped one, is used as it is.
    shipped = TRAINED["malmen"](load(base)[0])
    shipped.manifest = {"base_digest": base.digest, "chat": False}
    shipped.save(settings.home / "editors" / "a-first")
    assert trained({**split, "seed": 1}, training_data=None).digest == shipped.digest()
