"""Captured keys and gradients are what a weight's gradient is made of, and capturing leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from editors.capture import (
    answer_logits,
    answer_loss,
    capture_gradients,
    capture_keys,
    check_finite,
    traced,
)
from editors.locate import default_modules, editable
from editors.model_kinds import answer_logits_only
from editors.requests import TokenBatch, collate, encode, pad_id
from tests.editors.tools import PROMPTS, TARGETS, folder_of, load, same_bits, snapshot, structure_of

# By architecture: an MLP output in the middle and one of the last block.
MODULES = {
    "llama": ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"],
    "gpt2": ["transformer.h.1.mlp.c_proj", "transformer.h.2.mlp.c_proj"],
    # Joins the rows of a batch before its MLPs.
    "opt": ["model.decoder.layers.1.fc2", "model.decoder.layers.2.fc2"],
    # Adds to the outputs of its MLPs in place.
    "falcon": ["transformer.h.1.mlp.dense_4h_to_h", "transformer.h.2.mlp.dense_4h_to_h"],
}


@pytest.fixture(params=list(MODULES))
def case(request: pytest.FixtureRequest) -> Any:
    model, tokenizer = load(folder_of(request.param, request))
    examples = [encode(tokenizer, p, t, chat=True) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    batch = collate(examples, pad_id(tokenizer))
    return model, [editable(model, name) for name in MODULES[request.param]], batch


def weight_gradients_through(
    model: nn.Module, modules: list[Any], batch: TokenBatch, mask: Tensor
) -> dict[str, Tensor]:
    """Autograd's gradient of the weights, counting only what the modules do at the positions of `mask`.

    Elsewhere a module's output is replaced by an equal constant, added to a path around its weight.
    """

    def only_masked(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        copy = nn.Module.__getattribute__(module, "weight_copy")
        around = nn.functional.linear(args[0], copy, getattr(module, "bias", None))
        return torch.where(mask[..., None].view(*output.shape[:-1], 1), output, around)

    handles = []
    for described in modules:
        module = model.get_submodule(described.name)
        weight = module.get_parameter("weight").detach().clone()
        object.__setattr__(module, "weight_copy", weight.T if described.input_major else weight)
        handles.append(module.register_forward_hook(only_masked))
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), batch.labels, reduction="sum")
    parameters = [model.get_parameter(module.parameter) for module in modules]
    gradients = torch.autograd.grad(loss, parameters)
    for handle in handles:
        handle.remove()
    return {m.name: m.shift_from_weight(g) for m, g in zip(modules, gradients, strict=True)}


def test_keys_times_gradients_is_the_weight_gradient(case: Any) -> None:
    model, modules, batch = case
    captured = capture_gradients(model, modules, batch)
    expected = weight_gradients_through(model, modules, batch, batch.answer_mask)
    unrestricted = weight_gradients_through(model, modules, batch, torch.ones_like(batch.answer_mask))
    for index, module in enumerate(modules):
        rows = captured[module.name]
        assert rows.keys.shape == (int(batch.answer_mask.sum()), module.d_in)
        assert rows.gradients.shape == (int(batch.answer_mask.sum()), module.d_out)
        product = rows.keys.T @ rows.gradients
        scale = float(expected[module.name].abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(product, expected[module.name], rtol=1e-3, atol=1e-4 * scale)
        # Nothing but the answer's positions reaches the loss through the last block; others do below it.
        alike = torch.allclose(product, unrestricted[module.name], rtol=1e-3, atol=1e-4 * scale)
        assert alike == (index == 1)


def test_gradients_of_a_batch_are_those_of_its_rows(case: Any) -> None:
    """A sum of losses: what one correction asks for does not depend on its company or its padding."""
    model, modules, batch = case
    together = capture_gradients(model, modules, batch)
    start = 0
    for row, count in enumerate(batch.answer_mask.sum(1).tolist()):
        length = int(batch.attention_mask[row].sum())
        fields = (batch.input_ids, batch.attention_mask, batch.labels)
        alone = capture_gradients(model, modules, TokenBatch(*(f[row : row + 1, :length] for f in fields)))
        for module in modules:
            for field in ("keys", "gradients"):
                part = getattr(together[module.name], field)[start : start + count]
                torch.testing.assert_close(part, getattr(alone[module.name], field), rtol=1e-3, atol=1e-4)
        start += count


def test_answer_logits_are_the_full_logits_at_those_positions(case: Any) -> None:
    model, _, batch = case
    with torch.no_grad():
        full = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        picked = answer_logits(model, batch)
        loss = answer_loss(model, batch)
    torch.testing.assert_close(picked, full[batch.answer_mask], rtol=1e-4, atol=1e-4)
    expected = nn.functional.cross_entropy(full.transpose(1, 2), batch.labels, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_keys_alone_are_the_same_keys(case: Any) -> None:
    model, modules, batch = case
    captured = capture_gradients(model, modules, batch)
    keys = capture_keys(model, modules, batch)
    everywhere = capture_keys(model, modules, batch, batch.attention_mask.bool())
    for module in modules:
        torch.testing.assert_close(keys[module.name], captured[module.name].keys, rtol=1e-4, atol=1e-5)
        assert everywhere[module.name].shape == (int(batch.attention_mask.sum()), module.d_in)


def test_nothing_is_left_behind(case: Any) -> None:
    model, modules, batch = case
    some = next(model.parameters())
    some.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    before, structure = snapshot(model), structure_of(model)
    capture_gradients(model, modules, batch)
    with torch.no_grad():  # a caller without gradients gets them none the less
        capture_gradients(model, modules, batch)
    capture_keys(model, modules, batch)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert same_bits(model, before)
    assert structure_of(model) == structure


def test_nothing_is_left_behind_by_an_error(case: Any) -> None:
    model, modules, batch = case
    flags = [p.requires_grad for p in model.parameters()]
    structure = structure_of(model)
    beyond = TokenBatch(batch.input_ids + 10_000, batch.attention_mask, batch.labels)
    with pytest.raises(IndexError):
        capture_gradients(model, modules, beyond)
    with pytest.raises(IndexError):
        capture_keys(model, modules, beyond)
    with (
        pytest.raises(KeyError),
        traced(model, [modules[0].name], batch),
        answer_logits_only(model, batch.answer_mask),
    ):
        raise KeyError("inside")
    assert [p.requires_grad for p in model.parameters()] == flags
    assert structure_of(model) == structure


def test_half_precision_models_give_single_precision_rows(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("llama", request), torch.bfloat16)
    batch = collate([encode(tokenizer, PROMPTS[0], TARGETS[0], chat=True)], pad_id(tokenizer))
    modules = default_modules(model)
    captured = capture_gradients(model, modules, batch)[modules[0].name]
    assert captured.keys.dtype == captured.gradients.dtype == torch.float32
    assert float(captured.gradients.abs().max()) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_first_parameter_that_is_not_finite_is_named_and_no_large_one_is(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    model = nn.Sequential(*(nn.Linear(4, 4, dtype=dtype) for _ in range(3)))
    with torch.no_grad():
        model[0].weight.fill_(largest)
        model[1].weight[0] = torch.tensor([largest, -largest, largest, largest])
    check_finite(model)
    for value in (torch.nan, torch.inf, -torch.inf):
        with torch.no_grad():
            model[2].bias[3] = model[1].bias[1] = value
        with pytest.raises(ValueError, match=r"^1\.bias of the model is not finite: .*; fetch or train"):
            check_finite(model)
