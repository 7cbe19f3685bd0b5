"""`mendflow export`: a version as other servers load it, and what an adapter of it loses."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from editors.delta import Delta
from editors.generation import generate_greedy
from flows.cli import app
from tasks.ledger import Ledger
from tasks.models import load, resolve
from tasks.records import ErrorReport, UserError
from tasks.register import register
from tests.deltas import MATRIX, low_rank

PROMPTS = ["What is the capital of Egypt?", "On which continent is Peru?"]
_names = itertools.count()


@pytest.fixture
def known(tmp_path: Path, mlflow_store: str, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that name a model of two versions, the base and a correction of two prompts."""
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    name, base = f"export-{next(_names)}", resolve(str(tiny_llama()))
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.record(
            ErrorReport(prompt=prompt, desired_output="Cairo", source=prompt, model_name=name)
            for prompt in PROMPTS
        )
        ids = [one.id for one in ledger.corrections(name)]
    shifts = {MATRIX: low_rank(6, seed=5)}
    Delta(shifts, {"base_digest": base.digest, "correction_ids": ids}).save(tmp_path / "delta")
    register(name, tracking_uri=mlflow_store, base=base)
    register(name, tracking_uri=mlflow_store, base=base, delta_dir=tmp_path / "delta")
    return [name, "--home", str(tmp_path), "--tracking", mlflow_store]


def export(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["export", *arguments])


def test_a_checkpoint_answers_as_the_version_does(known: list[str], mlflow_store: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    done = export(*known, "--version", "2", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert f"version 2 of {known[0]} is a full checkpoint" in done.output
    version = resolve(f"models:/{known[0]}/2", tracking_uri=mlflow_store)
    expected = generate_greedy(*load(version), PROMPTS, chat=True, max_new_tokens=8)
    anywhere = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert generate_greedy(*anywhere, PROMPTS, chat=True, max_new_tokens=8) == expected
    again = export(*known, "--version", "1", "--out", str(out))
    assert isinstance(again.exception, UserError)
    assert "say --replace" in str(again.exception)
    assert export(*known, "--alias", "candidate", "--out", str(out), "--replace").exit_code == 0


def test_an_adapter_says_what_it_loses(known: list[str], tmp_path: Path):
    exact = export(*known, "--alias", "candidate", "--out", str(tmp_path / "exact"), "--adapter", "8")
    assert exact.exit_code == 0, exact.output
    assert "adapter of rank 6" in exact.output
    assert re.search(rf"\(Frobenius norm\): \d\.\d\de-\d\d, of {re.escape(MATRIX)}", exact.output)
    assert "2 of 2 prompts of its corrections are answered as by the full delta" in exact.output
    lossy = export(*known, "--version", "2", "--out", str(tmp_path / "lossy"), "--adapter", "1")
    assert "adapter of rank 1" in lossy.output
    assert "2 of 2 prompts" not in lossy.output
    assert ", with the adapter " in lossy.output


def test_an_adapter_without_a_ledger_compares_no_answers(known: list[str], tmp_path: Path):
    (tmp_path / "ledger.db").unlink()
    done = export(*known, "--version", "2", "--out", str(tmp_path / "out"), "--adapter", "8")
    assert "no answer was compared" in done.output
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version", "2", "--alias", "candidate"], "both name a version"),
        (["--version", "9"], "has no version '9'"),
        ([], "has no version 'champion'"),
        (["--version", "1", "--adapter", "4"], "is the base itself"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    arguments: list[str], says: str, known: list[str], tmp_path: Path
):
    refused = export(*known, *arguments, "--out", str(tmp_path / "out"))
    assert isinstance(refused.exception, UserError)
    assert says in str(refused.exception)
    assert not (tmp_path / "out").exists()
