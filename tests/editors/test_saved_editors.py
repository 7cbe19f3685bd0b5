"""What is kept of a trained editor: loaded, it gives the same delta; nothing half or damaged is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from editors.finetune import Finetune, FinetuneConfig
from editors.hypereditor import HyperEditor
from editors.protocol import (
    EDITOR_FILE,
    WEIGHTS_FILE,
    EditorMismatchError,
    configuration_digest,
    load_editor,
)
from tests.editors.cases import KEPT, REQUESTS, TRAINED
from tests.editors.tools import folder_of, load


@pytest.fixture(params=list(TRAINED))
def untrained(request: pytest.FixtureRequest) -> Callable[..., HyperEditor]:
    return TRAINED[request.param]


def test_a_saved_editor_gives_the_same_delta(loaded: Any, untrained: Any, tmp_path: Path) -> None:
    model, tokenizer = loaded
    editor = untrained(model, seed=4)
    with torch.no_grad():  # as if trained
        for number, parameter in enumerate(editor.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    editor.manifest["base_digest"] = "b" * 64
    editor.save(tmp_path)
    expected = editor.edit(model, tokenizer, REQUESTS, KEPT)
    for loaded_editor in (type(editor).load(tmp_path), load_editor(tmp_path)):
        assert loaded_editor.digest() == editor.digest()
        assert loaded_editor.edit(model, tokenizer, REQUESTS, KEPT).digest() == expected.digest()
        loaded_editor.check_base("b" * 64)
    # Saved again it is the same editor: rounding to half precision happens once.
    load_editor(tmp_path).save(tmp_path / "again")
    assert load_editor(tmp_path / "again").digest() == editor.digest()


def test_an_editor_of_an_earlier_version_is_loaded(loaded: Any, untrained: Any, tmp_path: Path) -> None:
    """What its version had no setting for is as its default."""
    untrained(loaded[0]).save(tmp_path)
    editor = load_editor(tmp_path)
    assert isinstance(editor, HyperEditor)
    manifest = json.loads((tmp_path / EDITOR_FILE).read_text())
    del manifest["config"]["depth"]
    written = {"editor": editor.name, **editor.configuration(), "config": manifest["config"]}
    manifest["editor_digest"] = configuration_digest(written, dict(editor.state_dict()))
    (tmp_path / EDITOR_FILE).write_text(json.dumps(manifest))
    assert load_editor(tmp_path).digest() == editor.digest()


def test_an_editor_of_many_blocks_survives_saving(
    tmp_path: Path, untrained: Any, request: pytest.FixtureRequest
) -> None:
    """Blocks 8, 9 and 10: sorted as text the tenth comes first, and each has statistics of its own."""
    model, tokenizer = load(folder_of("llama", request, num_hidden_layers=12, hidden_size=16))
    editor = untrained(model)
    assert len(editor.modules_edited) in (3, 6)
    with torch.no_grad():
        editor.log_rate += torch.arange(len(editor.log_rate)) / 3
    editor.save(tmp_path)
    reloaded = load_editor(tmp_path)
    assert reloaded.modules_edited == editor.modules_edited
    expected = editor.edit(model, tokenizer, REQUESTS)
    assert reloaded.edit(model, tokenizer, REQUESTS).digest() == expected.digest()


def test_tampered_editors_are_refused(loaded: Any, untrained: Any, tmp_path: Path) -> None:
    model, _ = loaded
    editor = untrained(model)

    def tampered(case: str) -> Path:
        folder = tmp_path / case
        editor.save(folder)
        tensors = load_file(folder / WEIGHTS_FILE)
        manifest = json.loads((folder / EDITOR_FILE).read_text())
        if case == "weight":
            next(t for name, t in tensors.items() if name.endswith("down"))[0, 0] += 0.5
        elif case == "missing":
            del tensors["log_rate"]
        elif case == "shape":
            tensors["log_rate"] = torch.zeros(5)
        elif case == "config":
            manifest["config"]["rate"] = 3.0
        elif case == "modules":
            manifest["modules"] = list(manifest["modules"])
        elif case == "kind":
            manifest["editor"] = "another"
        save_file(tensors, folder / WEIGHTS_FILE)
        (folder / EDITOR_FILE).write_text(json.dumps(manifest))
        if case == "cut":
            (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-5])
        return folder

    load_editor(tampered("not at all"))
    for case in ("weight", "missing", "shape", "config", "modules", "cut"):
        with pytest.raises(ValueError, match="damaged"):
            load_editor(tampered(case))
    with pytest.raises(ValueError, match="'another', which this version does not know"):
        load_editor(tampered("kind"))
    with pytest.raises(FileNotFoundError, match="holds no editor"):
        load_editor(tmp_path / "nowhere")
    broken = tampered("not at all")
    (broken / EDITOR_FILE).write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_editor(broken)


def test_a_save_that_is_killed_leaves_no_half_of_an_editor(
    loaded: Any, untrained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an earlier editor stood, its manifest must not be read with the weights of the new one."""
    untrained(loaded[0]).save(tmp_path)
    replace, calls = os.replace, 0

    def dying(*paths: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        replace(*paths)

    newer = untrained(loaded[0], seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            newer.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no editor"):
        load_editor(tmp_path)
    newer.save(tmp_path)
    assert load_editor(tmp_path).digest() == newer.digest()


def test_an_editor_of_another_base_is_refused(loaded: Any, untrained: Any) -> None:
    editor = untrained(loaded[0])
    editor.manifest["base_digest"] = "a" * 64
    editor.check_base("a" * 64)
    with pytest.raises(EditorMismatchError, match=r"base aaaaaaaaaaaa, not on bbbbbbbbbbbb: train one"):
        editor.check_base("b" * 64)


def test_digests_follow_everything_that_matters(loaded: Any) -> None:
    model, _ = loaded
    assert Finetune().digest() == Finetune(FinetuneConfig()).digest()
    for change in ({"epochs": 3}, {"seed": 1}, {"modules": "mlp"}, {"learning_rate": 1e-4}):
        assert Finetune(dataclasses.replace(FinetuneConfig(), **change)).digest() != Finetune().digest()
    for untrained in TRAINED.values():
        digests = {untrained(model).digest(), untrained(model, seed=1).digest()}
        nudged = untrained(model)
        with torch.no_grad():
            nudged.log_rate += 1e-3
        assert len({*digests, nudged.digest()}) == 3
        assert untrained(model).digest() in digests
