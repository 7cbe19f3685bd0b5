"""UltraEdit against its formulas written out, and on the fewest tokens there can be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from editors.gather import captures, encode_requests, joined
from editors.locate import default_modules
from editors.requests import EditRequest
from editors.ultraedit import DEPTH, UltraEdit, UltraEditConfig
from tests.editors.tools import PROMPTS, TARGETS

REQUESTS = [
    EditRequest(str(i), prompt, target, chat=False)
    for i, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True))
]


@pytest.mark.parametrize(("count", "strength"), [(1, 1.0), (6, 1.0), (6, 20.0)])
def test_the_formulas_written_out(loaded: Any, count: int, strength: float) -> None:
    """v = -eta |h^|^2 g^ with eta = c / d_in, S = (K'K + lambda I)^-1 K'V, one statistic per shape."""
    model, tokenizer = loaded
    pattern = r"[12]\.mlp\.(down_proj|c_proj)"
    editor = UltraEdit(UltraEditConfig(modules=pattern, rate=0.5, strength=strength))
    modules = default_modules(model, pattern)
    assert len(modules) == 2
    delta = editor.edit(model, tokenizer, REQUESTS[:count])
    rows = joined(captures(model, modules, encode_requests(tokenizer, REQUESTS[:count]), 0))
    keys = {m.name: rows[m.name].keys.double() for m in modules}
    gradients = {m.name: rows[m.name].gradients.double() for m in modules}
    every_key, every_gradient = torch.cat(list(keys.values())), torch.cat(list(gradients.values()))
    for module in modules:
        h = (keys[module.name] - every_key.mean(0)) / every_key.std(0)
        g = (gradients[module.name] - every_gradient.mean(0)) / every_gradient.std(0)
        values = -0.5 / module.d_in * h.square().sum(1, keepdim=True) * g
        gram = keys[module.name].T @ keys[module.name] + strength * torch.eye(module.d_in).double()
        expected = torch.linalg.solve(gram, keys[module.name].T @ values)
        shift = module.shift_from_weight(delta.dense(module.parameter))
        torch.testing.assert_close(
            shift.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )


def test_a_single_token_is_edited(loaded: Any) -> None:
    """One row is its own mean: normalised by it nothing would be left, and its variance is no number."""
    model, tokenizer = loaded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editors.requests.end_of_turn_ids", lambda *_, **__: ())
        request = EditRequest("a", f"{PROMPTS[0]} ", "a", chat=False)
        (example,) = encode_requests(tokenizer, [request])
        assert len(example.target_ids) == 1
        delta = UltraEdit(UltraEditConfig(rate=1.0)).edit(model, tokenizer, [request])
    assert all(norm > 1e-3 for norm in delta.norms().values())


def test_more_strength_and_less_rate_change_less(loaded: Any) -> None:
    model, tokenizer = loaded
    config = UltraEditConfig()
    norms = [
        sum(UltraEdit(c).edit(model, tokenizer, REQUESTS).norms().values())
        for c in (config, dataclasses.replace(config, rate=0.002), dataclasses.replace(config, strength=9.0))
    ]
    assert norms[0] > norms[1] > 0
    assert norms[0] > norms[2] > 0


def test_default_depth() -> None:
    """Late blocks, but never the last, as for the models it was published on."""
    from transformers import LlamaConfig, LlamaForCausalLM

    published = {28: list(range(18, 27))}
    for depth, blocks in published.items():
        config = LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=8, num_hidden_layers=depth,
                             num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
        modules = default_modules(LlamaForCausalLM(config), depth=DEPTH)
        assert [m.name for m in modules] == [f"model.layers.{n}.mlp.down_proj" for n in blocks]
