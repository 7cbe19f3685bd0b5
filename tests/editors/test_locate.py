"""The matrices to edit are found by structure: late MLP outputs, Linear or Conv1D, by whatever name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from editors.locate import blocks, default_modules, editable
from tests.editors.tools import folder_of, load


@pytest.fixture
def llama(request: pytest.FixtureRequest) -> Any:
    return load(folder_of("llama", request))[0]


@pytest.fixture
def gpt2(request: pytest.FixtureRequest) -> Any:
    return load(folder_of("gpt2", request))[0]


def test_defaults(llama: Any, gpt2: Any) -> None:
    (module,) = default_modules(llama)
    assert module.parameter == "model.layers.2.mlp.down_proj.weight"
    assert (module.d_in, module.d_out, module.input_major) == (96, 48, False)
    (module,) = default_modules(gpt2)
    assert module.parameter == "transformer.h.2.mlp.c_proj.weight"
    assert (module.d_in, module.d_out, module.input_major) == (192, 48, True)


@pytest.mark.parametrize(
    ("depth", "edited"), [(1, [0]), (2, [1]), (6, [4, 5]), (12, [8, 9, 10]), (30, list(range(20, 28)))]
)
def test_default_depth(depth: int, edited: list[int]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=8, num_hidden_layers=depth,
                         num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
    modules = default_modules(LlamaForCausalLM(config))
    assert [m.name for m in modules] == [f"model.layers.{n}.mlp.down_proj" for n in edited]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow, self.norm = nn.Linear(6, 20), nn.Linear(20, 6), nn.LayerNorm(6)
        self.attention = nn.ModuleDict({"query": nn.Linear(6, 6), "out": nn.Linear(6, 6)})


class Unusual(nn.Module):
    """Blocks of no known name, attention last, beside a longer list of modules of different kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Embedding(9, 6)
        self.tower = nn.ModuleList(Block() for _ in range(3))
        self.others = nn.ModuleList([nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)])

    def get_input_embeddings(self) -> nn.Module:
        return self.read


def test_names_do_not_matter() -> None:
    assert [name for name, _ in blocks(Unusual())] == ["tower.0", "tower.1", "tower.2"]
    (module,) = default_modules(Unusual())
    assert (module.name, module.d_in, module.d_out) == ("tower.2.narrow", 20, 6)


def test_pattern(llama: Any, gpt2: Any) -> None:
    chosen = default_modules(llama, r"layers\.[01]\.mlp\.(up|down)_proj$")
    assert [m.name for m in chosen] == [
        f"model.layers.{n}.mlp.{which}_proj" for n in (0, 1) for which in ("up", "down")
    ]
    assert [(m.d_in, m.d_out) for m in chosen] == [(48, 96), (96, 48)] * 2
    # A block matches too, but only linear maps are taken.
    assert all(isinstance(llama.get_submodule(m.name), nn.Linear) for m in default_modules(llama, "layers"))
    (fused,) = default_modules(gpt2, r"h\.1\.attn\.c_attn")
    assert (fused.d_in, fused.d_out, fused.input_major) == (48, 144, True)


def test_what_cannot_be_edited_is_named(llama: Any) -> None:
    with pytest.raises(ValueError, match=r"no linear map .* '\^encoder'"):
        default_modules(llama, "^encoder")
    with pytest.raises(ValueError, match=r"no module named model\.layers\.7\.mlp"):
        editable(llama, "model.layers.7.mlp")
    with pytest.raises(ValueError, match=r"embed_tokens is a Embedding, not a linear map"):
        editable(llama, "model.embed_tokens")
    with pytest.raises(ValueError, match="no list of repeated blocks; name the modules"):
        default_modules(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="no input embeddings; name the modules"):
        default_modules(nn.Sequential(nn.ModuleList([Block(), Block()])))


def test_layout(llama: Any, gpt2: Any) -> None:
    """A shift of (d_in, d_out) moves the output by key @ shift, in either layout."""
    for model, module in ((llama, default_modules(llama)[0]), (gpt2, default_modules(gpt2)[0])):
        key, shift = torch.randn(1, module.d_in), torch.randn(module.d_in, module.d_out)
        layer = model.get_submodule(module.name)
        with torch.no_grad():
            before = layer(key)
            layer.weight += module.shift_for_weight(shift)
            torch.testing.assert_close(layer(key) - before, key @ shift, rtol=1e-3, atol=1e-3)
        assert torch.equal(module.shift_from_weight(module.shift_for_weight(shift)), shift)
