"""Exporting: what other programs load answers as the version does, and nothing is half written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editors.delta import OVERRIDES, Delta, model_digest
from editors.overrides import OVERRIDES_FILE, Override, Overrides
from tasks import export as exporting
from tasks.export import check_export, export_checkpoint
from tasks.models import ModelFolder, load
from tasks.records import UserError
from tasks.weights import CONVERSION_FILE
from tests.deltas import MATRIX, save_delta
from tests.killing import killed


def test_an_exported_checkpoint_loads_anywhere(base: ModelFolder, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    delta = Delta.load(save_delta(base, tmp_path / "delta"))
    out = export_checkpoint(base, delta, tmp_path / "out")
    corrected, tokenizer = load(ModelFolder(base.path, base.digest, base.ref, tmp_path / "delta"))
    anywhere = AutoModelForCausalLM.from_pretrained(out)
    assert model_digest(anywhere) == model_digest(corrected) != base.digest
    theirs = AutoTokenizer.from_pretrained(out)
    assert theirs.chat_template == tokenizer.chat_template
    assert (
        theirs("What is the capital of Egypt?")["input_ids"]
        == tokenizer("What is the capital of Egypt?")["input_ids"]
    )
    assert len({path.stat().st_mode for path in out.rglob("*") if path.is_file()}) == 1
    assert Delta.load(out / "delta").digest() == delta.digest()
    assert Delta.load(out / "delta").manifest["base_digest"] == base.digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_export_replaces_only_an_earlier_export(base: ModelFolder, tmp_path: Path) -> None:
    first = Delta.load(save_delta(base, tmp_path / "first", seed=1))
    second = Delta.load(save_delta(base, tmp_path / "second", seed=2))
    for delta in (first, second):
        export_checkpoint(base, delta, tmp_path / "out")
    assert Delta.load(tmp_path / "out" / "delta").digest() == second.digest()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")
    for place in (tmp_path / "papers", tmp_path / "papers" / "thesis.txt"):
        with pytest.raises(UserError, match="not an earlier export"):
            export_checkpoint(base, first, place)
    assert (tmp_path / "papers" / "thesis.txt").read_text() == "years of work"
    # A conversion is no export, so naming a folder of the cache does not replace it.
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / CONVERSION_FILE).write_text("{}")
    with pytest.raises(UserError, match="not an earlier export"):
        check_export(tmp_path / "cached")
    with pytest.raises(UserError, match="not a folder to write to"):
        check_export(tmp_path / "papers" / "thesis.txt" / "new" / "out")
    for place in ("out", "new/folder"):
        check_export(tmp_path / place)


def test_an_export_that_fails_leaves_nothing(base: ModelFolder, tmp_path: Path) -> None:
    foreign = Delta({MATRIX: torch.zeros(48, 96)}, {"base_digest": "another"})
    with pytest.raises(UserError, match="made for a base"):
        export_checkpoint(base, foreign, tmp_path / "out")
    with killed(exporting, "model_digest", "before", call=2):
        export_checkpoint(base, Delta({}, {"base_digest": base.digest}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_may_not_replace_says_how_to(base: ModelFolder, tmp_path: Path) -> None:
    export_checkpoint(base, None, tmp_path / "out")
    with pytest.raises(UserError, match="say --replace"):
        check_export(tmp_path / "out", replace_earlier=False)
    check_export(tmp_path / "new", replace_earlier=False)


def test_overrides_stand_beside_a_checkpoint(base: ModelFolder, tmp_path: Path) -> None:
    answers = Overrides([Override("Who?", "Nobody.", "c1")])
    delta = Delta({}, {"base_digest": base.digest, OVERRIDES: answers.to_json()})
    out = export_checkpoint(base, delta, tmp_path / "out")
    assert Overrides.load(out / OVERRIDES_FILE).entries() == answers.entries()


def test_an_earlier_export_comes_back_where_the_new_one_cannot_take_its_place(
    base: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Delta.load(save_delta(base, tmp_path / "first", seed=1))
    export_checkpoint(base, first, tmp_path / "out")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "out" and self.parent != tmp_path:
            raise OSError("the disk is gone")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            export_checkpoint(base, None, tmp_path / "out")
    assert Delta.load(tmp_path / "out" / "delta").digest() == first.digest()
