"""`mendflow edit`: where the model is put, which modules are edited, and until when an answer holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from flows.cli import app
from tasks.records import UserError

# Questions, whose answers end: a model of random weights goes on with the last word of a text.
ROWS = [{"prompt": f"The capital of {place}?", "target": "Cairo"} for place in ("Chad", "Peru")]


@pytest.fixture
def run(tmp_path: Path, tiny_llama: Any) -> Any:
    """Edit a tiny model with these options; what is told, and the folder written."""
    data, out = tmp_path / "edits.jsonl", tmp_path / "out"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    common = [
        "--model",
        str(tiny_llama(hidden_size=64)),
        "--data",
        str(data),
        "--home",
        str(tmp_path / "home"),
    ]

    def edit(*options: str) -> tuple[str, Path]:
        arguments = ["edit", *common, "--out", str(out), "--own-prompts", "0", *options]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return " ".join(done.output.split()), out

    return edit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_edited_and_written_in_its_dtype_and_edited_in_full_precision(run: Any, dtype: str):
    told, out = run("--editor", "finetune", "--dtype", dtype, "--device", "auto", "--modules", r"layers\.1\.")
    assert "2 of 2 answered with the target" in told
    written = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {getattr(torch, dtype)}
    delta = load_file(out / "delta" / "delta.safetensors")
    assert {tensor.dtype for tensor in delta.values()} == {torch.float32}
    assert all(name.startswith("model.layers.1.") for name in delta)
    assert len(delta) > 1
    manifest = json.loads((out / "delta" / "delta.json").read_text())
    assert manifest["placement"]["dtype"] == dtype
    assert manifest["editor_configuration"]["config"]["modules"] == r"layers\.1\."


def test_an_override_holds_until_the_date(run: Any):
    told, out = run("--editor", "override", "--expires", "2999-01-31")
    assert "2 of 2 answered with the target" in told
    stored = json.loads((out / "overrides.json").read_text())["overrides"]
    assert {entry["expires_at"] for entry in stored} == {"2999-01-31T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--editor", "finetune", "--expires", "2999-01-31"], r"no setting 'expires_at'.*one of `override`$"),
        (["--editor", "override", "--modules", "mlp"], r"no setting 'modules': .*`finetune`.*`rome`"),
        (["--editor", "override", "--expires", "2001-01-31"], "2001-01-31 is past"),
        (["--editor", "override", "--expires", "soon"], "'soon' is no date; write 2027-01-31"),
        (["--editor", "finetune", "--modules", "mlp("], "no regular expression .* correct --modules"),
        (["--editor", "finetune", "--modules", "nothing"], "no linear map of the model matches"),
        (["--editor", "finetune", "--dtype", "int8"], "no dtype 'int8'"),
        (["--editor", "finetune", "--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_what_an_editor_cannot_do_is_said(run: Any, options: list[str], says: str):
    with pytest.raises(UserError, match=says):
        run(*options)
