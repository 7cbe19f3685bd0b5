"""Deltas: applied and undone bit for bit, refused when they do not fit, and kept whole on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from editors.delta import MANIFEST_FILE, TENSORS_FILE, Delta, LowRank, add_in_place, applied, model_digest
from tests.editors.tools import folder_of, load, same_bits, snapshot

NAMES = {
    "llama": ["model.layers.2.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"],
    "gpt2": ["transformer.h.2.mlp.c_proj.weight", "transformer.h.1.attn.c_attn.weight"],
}


def some_delta(model: Any, names: list[str], size: float = 0.37) -> Delta:
    generator = torch.Generator().manual_seed(3)
    shapes = [model.get_parameter(name).shape for name in names]
    first = size * torch.randn(shapes[0], generator=generator)
    left = size * torch.randn(shapes[1][0], 3, generator=generator)
    return Delta(
        {names[0]: first, names[1]: LowRank(left, torch.randn(3, shapes[1][1], generator=generator))},
        {"editor": "none", "seed": 3},
    )


@pytest.fixture(params=["llama", "gpt2"])
def names(request: pytest.FixtureRequest) -> list[str]:
    return NAMES[request.param]


@pytest.fixture
def model(request: pytest.FixtureRequest, names: list[str]) -> Any:
    return load(folder_of("llama" if names is NAMES["llama"] else "gpt2", request))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_leaving_restores_every_bit(model: Any, names: list[str], dtype: torch.dtype) -> None:
    model = model.to(dtype)
    before, delta = snapshot(model), some_delta(model, names)
    with applied(model, delta) as edited:
        assert edited is model
        for name in names:
            expected = (before[name].float() + delta.dense(name)).to(dtype)
            assert torch.equal(model.get_parameter(name), expected)
            assert not torch.equal(expected, before[name])
        others = {name: t for name, t in before.items() if name not in names}
        assert same_bits(model, {**snapshot(model), **others})
    assert same_bits(model, before)
    with pytest.raises(KeyError), applied(model, delta):
        raise KeyError("inside")
    assert same_bits(model, before)
    # Subtracting what was added would not do in this dtype.
    with torch.no_grad():
        drifted = model.get_parameter(names[0]) + delta.dense(names[0]).to(dtype)
        drifted -= delta.dense(names[0]).to(dtype)
    assert not torch.equal(drifted, before[names[0]])


def test_what_cannot_be_applied_is_refused_by_name_and_changes_nothing(model: Any, names: list[str]) -> None:
    before, good = snapshot(model), some_delta(model, names)
    dense, low = good.shifts[names[0]], good.shifts[names[1]]
    assert isinstance(dense, torch.Tensor)
    assert isinstance(low, LowRank)
    missing = dense.clone()
    missing[1, 2] = torch.nan
    endless = LowRank(low.left, low.right * torch.inf)
    refused = [
        ({**good.shifts, names[0]: missing}, ValueError, names[0]),
        ({**good.shifts, names[1]: endless}, ValueError, names[1]),
        ({**good.shifts, names[0]: dense[:, :-1]}, ValueError, f"{names[0]} has shape"),
        ({**good.shifts, names[0]: dense[:1]}, ValueError, f"{names[0]} has shape"),
    ]
    for shifts, error, message in refused:
        with pytest.raises(error, match=message.replace(".", r"\.")):
            add_in_place(model, Delta(shifts))
        with pytest.raises(error), applied(model, Delta(shifts)):
            pytest.fail("it was applied")
        assert same_bits(model, before)
    stranger = Delta({**good.shifts, "no.such.weight": dense})
    with pytest.raises(ValueError, match=r"no parameter no\.such\.weight"), applied(model, stranger):
        pytest.fail("it was applied")
    assert same_bits(model, before)


def test_an_edit_beyond_the_range_of_half_precision_is_refused(model: Any, names: list[str]) -> None:
    model = model.half()
    before = snapshot(model)
    shift = torch.full(model.get_parameter(names[0]).shape, 1e5)
    with pytest.raises(ValueError, match="would not be finite"):
        add_in_place(model, Delta({names[0]: shift}))
    assert same_bits(model, before)


def test_save_and_load_are_equal(model: Any, names: list[str], tmp_path: Path) -> None:
    delta = some_delta(model, names)
    delta.save(tmp_path)
    loaded = Delta.load(tmp_path)
    assert loaded.digest() == delta.digest()
    assert set(loaded.shifts) == set(delta.shifts)
    assert isinstance(loaded.shifts[names[1]], LowRank)
    assert all(torch.equal(loaded.dense(name), delta.dense(name)) for name in names)
    assert {**loaded.manifest, "delta_digest": None} == {**delta.manifest, "delta_digest": None}
    assert loaded.norms() == delta.norms()
    # An edit of nothing has files too.
    Delta({}, {"editor": "none"}).save(tmp_path / "empty")
    assert Delta.load(tmp_path / "empty").shifts == {}


def test_tampered_files_are_refused(model: Any, names: list[str], tmp_path: Path) -> None:
    delta = some_delta(model, names)

    def tampered(case: str) -> Path:
        folder = tmp_path / case
        delta.save(folder)
        tensors = load_file(folder / TENSORS_FILE)
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        if case == "bit":
            tensors[names[0]].view(torch.int32)[0, 0] ^= 1
        elif case == "dropped":
            del tensors[names[0]]
        elif case == "half":
            del tensors[f"{names[1]}#right"]
        elif case == "renamed":
            tensors["other.weight"] = tensors.pop(names[0])
        elif case == "no digest":
            del manifest["delta_digest"]
        save_file(tensors, folder / TENSORS_FILE)
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
        return folder

    Delta.load(tampered("not at all"))
    for case in ("bit", "dropped", "half", "renamed", "no digest"):
        with pytest.raises(ValueError, match="damaged"):
            Delta.load(tampered(case))
    cut = tampered("cut")
    (cut / TENSORS_FILE).write_bytes((cut / TENSORS_FILE).read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged"):
        Delta.load(cut)


def test_low_rank_is_the_dense_shift(model: Any, names: list[str]) -> None:
    delta = some_delta(model, names)
    dense = Delta({name: delta.dense(name) for name in names})
    with applied(model, delta):
        low = snapshot(model)
    with applied(model, dense):
        assert same_bits(model, low)


def test_the_digest_of_a_model_is_its_bits(model: Any, names: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype)
        digest = model_digest(model)
        model.save_pretrained(tmp_path / str(dtype))
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(dtype), dtype=dtype)
        assert model_digest(reloaded) == digest
        words = reloaded.get_parameter(names[0]).detach().view(torch.int32)  # shares its memory
        words[3, 1] ^= 1
        assert model_digest(reloaded) != digest
        words[3, 1] ^= 1
        assert model_digest(reloaded) == digest
    assert model_digest(model.float()) != digest
