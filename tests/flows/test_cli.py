"""The command line: what a user types, and what a user's mistake looks like."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import CorrectionRun
from flows.settings import CorrectSettings
from tasks.records import UserError
from tests.flows.conftest import World

run = CliRunner()


def test_flag_and_status_show_a_correction_and_a_conflict(tmp_path: Path, mlflow_store: str):
    common = ["my-model", "--home", str(tmp_path)]
    first = run.invoke(app, ["flag", *common, "--prompt", "Capital of Togo?", "--expected", "Lome"])
    assert first.exit_code == 0
    assert "accepted" in first.output
    rival = run.invoke(app, ["flag", *common, "--prompt", "capital of togo?", "--expected", "Lagos"])
    assert "conflicting" in rival.output
    status = run.invoke(app, ["status", *common, "--tracking", mlflow_store])
    assert status.exit_code == 0
    assert "conflicting" in status.output


def test_edit_writes_a_checkpoint_that_plain_transformers_loads(tmp_path: Path, tiny_llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    data = tmp_path / "corrections.jsonl"
    lines = [
        {"prompt": "The capital of Chad is", "target": "Cairo"},
        {"prompt": "The capital of Peru is", "target": "Paris", "locality": ["The yen is used in"]},
        {"prompt": "", "target": "nothing"},
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "edited"
    model = str(tiny_llama(hidden_size=64))
    done = run.invoke(
        app,
        ["edit", "--model", model, "--data", str(data), "--editor", "finetune", "--out", str(out),
         "--home", str(tmp_path / "home")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 of 2 answered with the target" in done.output
    assert "left out" in done.output
    tokenizer, edited = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    asked = tokenizer("The capital of Chad is", return_tensors="pt")
    said = tokenizer.decode(edited.generate(**asked, max_new_tokens=4, do_sample=False)[0])
    assert "Cairo" in said
    assert (out / "delta" / "delta.safetensors").is_file()
    assert json.loads((out / "delta" / "delta.json").read_text())["correction_ids"]


def test_the_limit_on_one_reporter_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limits: list[int | None] = []

    def correct(settings: CorrectSettings) -> CorrectionRun:
        limits.append(settings.reporter_limit)
        return CorrectionRun("nothing to do", settings.model_name, "1")

    monkeypatch.setattr("flows.correct.correct", correct)
    command = ["correct", "my-model", "--home", str(tmp_path)]
    for limit in ([], ["--reporter-limit", "3"]):
        assert run.invoke(app, [*command, *limit]).exit_code == 0
    assert limits == [None, 3]
    assert run.invoke(app, [*command, "--reporter-limit", "0"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["edit", "--model", "no/such", "--data", "absent.jsonl", "--out", "x"], "absent.jsonl"),
        (["rollback", "nobody"], "'nobody' has no version"),
        (["promote", "nobody"], "'nobody' has no version"),
        (["verify", "nobody"], "'nobody' has no version"),
        (["review", "nobody"], "'nobody' has no version"),
        (["serve", "nobody"], "'nobody' has no version"),
        (["export", "nobody", "--out", "elsewhere"], "'nobody' has no version"),
        (["status", "nobody", "--tracking", "nonsense://x"], "nonsense://x"),
        (["report", "nobody"], "nobody"),
        (["train-editor", "--model", "x", "--data", "y", "--out", "z", "--editor", "finetune"], "finetune"),
    ],
)
def test_a_users_mistake_raises_one_plain_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = run.invoke(app, [*arguments, "--home", str(tmp_path / "home")])
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)


def test_the_installed_command_prints_no_traceback(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "report", "nobody", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mendflow: there is no report of nobody")
    assert "Traceback" not in done.stderr


def test_overrides_are_written_beside_a_checkpoint_and_said_to_be(tmp_path: Path, tiny_llama):
    from editors.overrides import Overrides

    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text(json.dumps({"prompt": "What is the capital of Egypt?", "target": "Cairo."}) + "\n")
    result = run.invoke(
        app,
        ["edit", "--model", str(tiny_llama()), "--data", str(data), "--editor", "override", "--out", str(out),
         "--home", str(tmp_path / "home")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "not in the weights: a checkpoint alone does not give them" in said
    assert "1 of 1 answered with the target" in said
    found = Overrides.load(out / "overrides.json").lookup("what is the capital of egypt?", chat=False)
    assert found is not None
    assert found.answer == "Cairo."


def test_a_home_that_is_not_there_yet_is_made_for_prefect_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
):
    monkeypatch.delenv("PREFECT_HOME")
    home = tmp_path / "new" / "home"
    done = run.invoke(
        app,
        [
            "correct",
            "tiny",
            "--base",
            str(tmp_path / "absent"),
            "--source",
            str(world.reports),
            "--home",
            str(home),
        ],
    )
    # The base is not found, but the flow was reached.
    assert isinstance(done.exception, UserError)
    assert "absent" in str(done.exception)
    assert (home / "prefect").is_dir()
    # The command has set it for this process.
    monkeypatch.delenv("PREFECT_HOME")
    (tmp_path / "file").write_text("")
    done = run.invoke(app, ["rollback", "tiny", "--home", str(tmp_path / "file")])
    assert isinstance(done.exception, UserError)
    assert "name another home" in str(done.exception)


def test_status_shows_what_was_flagged_before_there_is_any_version(tmp_path: Path):
    common = ["my-model", "--home", str(tmp_path)]
    assert (
        run.invoke(app, ["flag", *common, "--prompt", "Who?", "--output", "x", "--expected", "y"]).exit_code
        == 0
    )
    status = run.invoke(app, ["status", *common])
    assert status.exit_code == 0, status.output
    assert "accepted" in status.output


def test_a_file_of_reports_may_use_the_words_of_flag(tmp_path: Path):
    file = tmp_path / "reports.jsonl"
    file.write_text('{"prompt": "Who?", "output": "x", "expected": "y"}\n')
    common = ["my-model", "--home", str(tmp_path)]
    collected = run.invoke(app, ["collect", *common, "--source", str(file)])
    assert collected.exit_code == 0, collected.output
    assert "accepted" in collected.output
