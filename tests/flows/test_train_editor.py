"""Every editor that is trained can be trained and used from the command line, by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from editors.catalogue import EDITORS, listed
from flows import stages
from flows.cli import app
from flows.correct import correct
from flows.train import _practice as practice
from tasks.models import load, resolve
from tasks.records import UserError
from tasks.roles import Learnable, share
from tasks.train import find_editor
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
    settings = taught(tmp_path / "home").settings
    assert not settings.chat
    base = resolve(settings.base)
    editor = TRAINED["malmen"](load(base)[0])
    editor.manifest = {"base_digest": base.digest} | ({} if trained_on is None else {"chat": trained_on})
    editor.save(settings.home / "editors" / "shipped")

    def building(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.correct.build_dataset", building)
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

    def training(_: Any, __: Any, learnable: Learnable, ___: Any) -> None:
        seen.extend(record.prompt for record in learnable.traffic)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "train_or_reuse", training)
    with pytest.raises(KeyboardInterrupt):
        correct(settings)
    assert seen
    assert all(share(prompt, settings.seed) >= settings.gate_share for prompt in seen)


@pytest.mark.parametrize("locality", [(), ("What is Lima?", "what is the capital of PERU?")])
def test_no_prompt_is_practised_on_and_kept(locality: tuple[str, ...], tmp_path: Path, tiny_llama: Any):
    """Of a file without locality half is kept; a neighbour that another line corrects is not."""
    data = tmp_path / "data.jsonl"
    lines = [
        {"prompt": f"What is the capital of {place}?", "target": "Cairo", "locality": locality[i : i + 1]}
        for i, place in enumerate(("Chad", "Mali", "Peru", "Fiji", "Cuba", "Oman"))
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    base = resolve(str(tiny_llama()))
    requests, stay = practice(base, data, limit=12, chat=True, seed=0, progress=lambda *_: None)
    assert len(requests) == (6 if locality else 3)
    assert stay == ["What is Lima?"] if locality else len(stay) == 3
    assert not {r.prompt for r in requests} & set(stay)
