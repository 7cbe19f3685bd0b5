"""Capture what a gradient is made of: layer inputs (keys) and output gradients at chosen positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editors.locate import EditableModule
from editors.requests import TokenBatch


@dataclass(frozen=True)
class Captured:
    """One module's share of the gradient: `keys` (tokens, d_in) and `gradients` (tokens, d_out), fp32."""

    keys: Tensor
    gradients: Tensor


@contextmanager
def answer_logits_only(model: nn.Module, mask: Tensor) -> Iterator[None]:
    """Within, the model computes logits at the positions of `mask` only: (1, positions, vocabulary).

    The output head is the dearest matrix of a small model, and an edit looks at few positions.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][mask.to(args[0].device)].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def answer_logits(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Logits at the answer positions of a batch, row by row: (positions, vocabulary), fp32."""
    with answer_logits_only(model, batch.answer_mask):
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return output.logits[0].float()


def answer_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Summed negative log-likelihood of the answers, in nats.

    A sum, not a mean: what one correction asks for must not depend on what shares its batch.
    """
    logits = answer_logits(model, batch)
    return nn.functional.cross_entropy(logits, batch.labels[batch.answer_mask], reduction="sum")


@contextmanager
def traced(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Record inputs and outputs of the named modules during a forward pass; hooks are gone on leaving.

    Outputs are made to require a gradient where nothing before them does, so that a backward pass ends at
    the lowest traced module.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            inputs[name] = args[0].detach()
            if torch.is_grad_enabled() and not output.requires_grad:
                output.requires_grad_(True)
            outputs[name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_for(name)) for name in names]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within, no parameter requires a gradient; on leaving, each requires one as before."""
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model does not drop out and holds no gradients; on leaving it has its own again."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.eval()
    model.zero_grad(set_to_none=True)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def capture_gradients(
    model: nn.Module, modules: Sequence[EditableModule], batch: TokenBatch, *, all_tokens: bool = False
) -> dict[str, Captured]:
    """Keys and output gradients of the summed answer loss, at answer positions or all, by module name.

    One forward pass and a backward pass over activations that ends at the lowest module; no gradient of any
    weight is formed, and the model's own `.grad` fields stay untouched.
    """
    mask = batch.attention_mask.bool() if all_tokens else batch.answer_mask
    names = [module.name for module in modules]
    with frozen(model), traced(model, names) as (inputs, outputs), torch.enable_grad():
        loss = answer_loss(model, batch)
        gradients = torch.autograd.grad(loss, [outputs[name] for name in names])
    return {
        name: Captured(inputs[name][mask].float(), gradient[mask].float())
        for name, gradient in zip(names, gradients, strict=True)
    }


def capture_keys(
    model: nn.Module, modules: Sequence[EditableModule], batch: TokenBatch, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Inputs of the modules at the answer positions (or at `mask`), by name: (positions, d_in), fp32."""
    chosen = batch.answer_mask if mask is None else mask
    names = [module.name for module in modules]
    body = getattr(model, "base_model", model)
    with torch.no_grad(), traced(model, names) as (inputs, _):
        body(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return {name: inputs[name][chosen].float() for name in names}
