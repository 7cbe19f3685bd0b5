"""Capture what a gradient is made of: layer inputs (keys) and output gradients at chosen positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from editors.locate import EditableModule
from editors.requests import TokenBatch

# Why a result is not finite where the weights are, for a person to read.
OVERFLOWS = "the model's weights are finite and what it computes overflows; float32 has the most room"


@dataclass(frozen=True)
class Captured:
    """One module's share of the gradient: `keys` (tokens, d_in) and `gradients` (tokens, d_out), fp32.

    `counts` is the number of tokens of each example, in order; empty where that is not known. `weights`
    (tokens,) is how much each row counts, for an editor that asks; None where all count alike.
    """

    keys: Tensor
    gradients: Tensor
    counts: tuple[int, ...] = ()
    weights: Tensor | None = None


def answer_logits(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Logits at the answer positions of a batch, row by row: (positions, vocabulary), fp32."""
    return batch.kind.logits(model, batch.to(device_of(model))).float()


def answer_labels(batch: TokenBatch, logits: Tensor) -> Tensor:
    """What `answer_logits` should be highest at: (positions,)."""
    return batch.labels[batch.answer_mask].to(logits.device)


def answer_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Summed negative log-likelihood of the answers, in nats.

    A sum, not a mean: what one correction asks for must not depend on what shares its batch.
    """
    logits = answer_logits(model, batch)
    return nn.functional.cross_entropy(logits, answer_labels(batch, logits), reduction="sum")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


class _ReachedError(Exception):
    """All that was to be run has been."""


@contextmanager
def run_ends_at(model: nn.Module, *names: str) -> Iterator[None]:
    """Within, a forward pass ends when all named modules have spoken, and so does this context's block."""
    silent = set(names)

    def hook_for(name: str) -> Any:
        def hook(*_: Any) -> None:
            silent.discard(name)
            if not silent:
                raise _ReachedError

        return hook

    # Behind the hooks that are there already, of which a raise would keep it from none.
    with suppress(_ReachedError):
        handles = [model.get_submodule(name).register_forward_hook(hook_for(name)) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def by_row(values: Tensor, batch: TokenBatch) -> Tensor:
    """What a module reads or says of a batch as (rows, length, d), also where the model joins all rows.

    One vector an example, pooled from all tokens, stays (rows, d).
    """
    for ids in (batch.input_ids, batch.decoder_input_ids):
        if values.dim() == 2 and ids is not None and len(values) == ids.numel():
            return values.unflatten(0, ids.shape)
    return values


@contextmanager
def traced(
    model: nn.Module, names: Sequence[str], batch: TokenBatch
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Record inputs and outputs of the named modules while the model reads a batch, as `by_row` has them.

    Hooks are gone on leaving. Where gradients are enabled, zeros that are added to an output stand for it:
    they have its gradient, and a backward pass ends at the lowest traced module.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            inputs[name] = by_row(args[0].detach(), batch)
            shaped = by_row(output, batch)
            if not torch.is_grad_enabled():
                outputs[name] = shaped
                # Some models add to what they are handed, in place.
                return output.clone()
            # One number in memory, whatever the shape.
            outputs[name] = shaped.new_zeros(()).expand(shaped.shape).requires_grad_()
            return output + outputs[name].view(output.shape)

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


@contextmanager
def editing(model: nn.Module) -> Iterator[None]:
    """As `evaluating`, of a model that an edit can be made of.

    Raises:
        ValueError: a parameter is not finite; it is named before any work is spent on the model.
    """
    check_finite(model)
    with evaluating(model):
        yield


def check_finite(model: nn.Module) -> None:
    """Raise ValueError naming the model's first parameter that is not finite; one reading of the weights."""
    for name, parameter in model.named_parameters():
        # A sum has no mask to write, which would take longer than an edit; a finite one hides nothing.
        if torch.isfinite(parameter.detach().sum(dtype=torch.float32)):
            continue
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"{name} of the model is not finite: its weights are damaged; fetch or train the model again"
            )


def capture_gradients(
    model: nn.Module, modules: Sequence[EditableModule], batch: TokenBatch, *, all_tokens: bool = False
) -> dict[str, Captured]:
    """Keys and output gradients of the summed answer loss, at answer positions or all, by module name.

    One forward pass and a backward pass over activations that ends at the lowest module; no gradient of any
    weight is formed, and the model's own `.grad` fields stay untouched.
    """
    names = [module.name for module in modules]
    with frozen(model), traced(model, names, batch) as (inputs, outputs), torch.enable_grad():
        loss = answer_loss(model, batch)
        gradients = torch.autograd.grad(loss, [outputs[name] for name in names])
    return {
        name: _rows(model, name, batch, inputs[name], gradient, all_tokens=all_tokens)
        for name, gradient in zip(names, gradients, strict=True)
    }


def capture_unsure(
    model: nn.Module, modules: Sequence[EditableModule], batch: TokenBatch, certainty: float
) -> tuple[list[bool], dict[str, Captured]]:
    """Whether the model is sure of each answer, and the gradients of those that it is not sure of.

    It is sure where every answer token is the most probable one and has more than `certainty`. One forward
    pass, and the backward pass of `capture_gradients` where it is unsure of any.

    Returns:
        By example, whether it is sure; and by module name the rows of all examples, with gradients of zero
        for an answer that it is sure of.
    """
    names = [module.name for module in modules]
    with frozen(model), traced(model, names, batch) as (inputs, outputs), torch.enable_grad():
        logits = answer_logits(model, batch)
        sure = [each > certainty for each in certainties(batch, logits.detach())]
        if all(sure):
            gradients = [torch.zeros_like(outputs[name]) for name in names]
        else:
            losses = nn.functional.cross_entropy(logits, answer_labels(batch, logits), reduction="none")
            tokens = losses.split(batch.answer_mask.sum(1).tolist())
            loss = torch.cat([row for row, is_sure in zip(tokens, sure, strict=True) if not is_sure]).sum()
            gradients = list(torch.autograd.grad(loss, [outputs[name] for name in names]))
    return sure, {
        name: _rows(model, name, batch, inputs[name], gradient)
        for name, gradient in zip(names, gradients, strict=True)
    }


def capture_keys(
    model: nn.Module,
    modules: Sequence[EditableModule],
    batch: TokenBatch,
    mask: Tensor | None = None,
    *,
    once: bool = False,
) -> dict[str, Tensor]:
    """Inputs of the modules at the positions of the edit (or at `mask`), by name: (positions, d_in), fp32.

    Of modules that the model runs but `once` in a pass nothing is run behind the last.
    """
    names = [module.name for module in modules]
    end = run_ends_at(model, *names) if once else nullcontext()
    with torch.no_grad(), traced(model, names, batch) as (inputs, _), end:
        batch.kind.read(model, batch.to(device_of(model)))
    chosen = {name: _positions(model, name, batch, inputs[name]) if mask is None else mask for name in names}
    return {name: inputs[name][chosen[name]].float() for name in names}


def read_answers(
    model: nn.Module, modules: Sequence[EditableModule], batch: TokenBatch
) -> tuple[list[float], dict[str, list[Tensor]]]:
    """How sure the model is of each answer of a batch, and its keys there: one forward pass.

    Returns:
        By example, the least probability of an answer token, 0 where another token is more probable; and by
        module name, each example's keys (tokens, d_in), fp32.
    """
    names = [module.name for module in modules]
    with torch.no_grad(), traced(model, names, batch) as (inputs, _):
        logits = answer_logits(model, batch)
    keys = {}
    for name in names:
        mask = _positions(model, name, batch, inputs[name])
        counts = mask.reshape(len(mask), -1).sum(1).tolist()
        keys[name] = list(inputs[name][mask].float().split(counts))
    return certainties(batch, logits), keys


def certainties(batch: TokenBatch, logits: Tensor) -> list[float]:
    """By example, the least probability of an answer token, 0 where another token is more probable.

    `logits` are those of `answer_logits`. Greedy decoding gives the answer where it is above 0.
    """
    labels = answer_labels(batch, logits)
    probable = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
    probable = torch.where(logits.argmax(-1) == labels, probable, torch.zeros_like(probable))
    return [float(row.min()) for row in probable.split(batch.answer_mask.sum(1).tolist())]


def _rows(
    model: nn.Module,
    name: str,
    batch: TokenBatch,
    given: Tensor,
    gradient: Tensor,
    *,
    all_tokens: bool = False,
) -> Captured:
    """One module's rows of a batch at the positions of the edit, or at all."""
    mask = _positions(model, name, batch, given, all_tokens=all_tokens)
    counts = tuple(mask.reshape(len(mask), -1).sum(1).tolist())
    return Captured(given[mask].float(), gradient[mask].float(), counts)


def _positions(
    model: nn.Module, name: str, batch: TokenBatch, given: Tensor, *, all_tokens: bool = False
) -> Tensor:
    """Which of a module's inputs `given` belong to the edit: bool, of its shape without the features."""
    if given.dim() == 2 and len(given) == len(batch.input_ids):
        # It reads one vector an example, pooled from all tokens.
        return torch.ones(len(given), dtype=torch.bool, device=given.device)
    mask = batch.kind.positions(model, name, batch, all_tokens=all_tokens)
    if given.shape[:-1] != mask.shape:
        raise ValueError(
            f"{name} does not read the tokens of the prompt or of the answer; name other modules to edit"
        )
    return mask.to(given.device)
