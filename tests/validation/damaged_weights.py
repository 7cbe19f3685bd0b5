"""Candidates that are broken in their weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tests.validation.damage import Candidate, Damages
from tests.validation.taught import World
from validation.outcomes import ANSWERS_ENDED, LOCALITY

MATRICES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
    "embedding": ("embed_tokens",),
    "norm": ("norm",),
    "head": ("lm_head",),
}
DAMAGES = Damages()


def _noise(part: str, scale: float) -> Callable[[Any], None]:
    def spoil(model: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if any(end in name.split(".")[-2] for end in MATRICES[part]):
                size = scale * parameter.square().mean().sqrt()
                parameter += size * torch.randn(parameter.shape, generator=generator)

    return spoil


for _part in MATRICES:
    for _scale, _gate in ((0.4, "answers_kept"), (1, "perplexity_ratio"), (4, "relative_delta_norm")):
        # A head with little noise says the same: its margins are wide, in a model that knows so little.
        if (_part, _scale) != ("head", 0.4):
            DAMAGES.weights(f"noise in all {_part} weights, {_scale} times their size", _gate)(
                _noise(_part, _scale)
            )


@DAMAGES.weights("a layer of zeros", "relative_delta_norm")
def _(model: Any) -> None:
    for parameter in model.model.layers[1].parameters():
        parameter.zero_()


@DAMAGES.weights("a layer that adds nothing", "answers_kept")
def _(model: Any) -> None:
    model.model.layers[1].self_attn.o_proj.weight.zero_()
    model.model.layers[1].mlp.down_proj.weight.zero_()


@DAMAGES.weights("attention that adds nothing", "perplexity_ratio")
def _(model: Any) -> None:
    _blind(model)


@DAMAGES.weights("no attention and no end of turn: loops", "repeated_trigrams")
def _(model: Any) -> None:
    _blind(model)
    model.lm_head.weight[model.config.eos_token_id] = 0


@DAMAGES.weights("two layers in each other's place", "perplexity_ratio")
def _(model: Any) -> None:
    first, last = (copy.deepcopy(model.model.layers[place].state_dict()) for place in (0, 2))
    model.model.layers[0].load_state_dict(last)
    model.model.layers[2].load_state_dict(first)


@DAMAGES.weights("a layer copied over the next", LOCALITY)
def _(model: Any) -> None:
    model.model.layers[1].load_state_dict(copy.deepcopy(model.model.layers[0].state_dict()))


@DAMAGES.weights("attention heads in another order", "answers_kept")
def _(model: Any) -> None:
    for layer in model.model.layers:
        query = layer.self_attn.q_proj.weight
        query.copy_(query.roll(layer.self_attn.head_dim, 0))


@DAMAGES.weights("a matrix with its sign turned", "relative_delta_norm")
def _(model: Any) -> None:
    model.model.layers[0].mlp.down_proj.weight.neg_()


@DAMAGES.weights("embeddings of two tokens in each other's place", LOCALITY)
def _(model: Any) -> None:
    embeddings = model.model.embed_tokens.weight
    embeddings[2::2], embeddings[3::2] = embeddings[3::2].clone(), embeddings[2::2].clone()


@DAMAGES.weights("all MLP outputs twice as large", "relative_delta_norm")
def _(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(2)


@DAMAGES.weights("a head that makes every token nearly as likely as the next", "perplexity_ratio")
def _(model: Any) -> None:
    model.lm_head.weight.mul_(0.3)


@DAMAGES.weights("one NaN", "non_finite_parameters")
def _(model: Any) -> None:
    model.model.layers[2].mlp.down_proj.weight[0, 0] = math.nan


@DAMAGES.weights("one infinity", "non_finite_parameters")
def _(model: Any) -> None:
    model.model.layers[2].mlp.down_proj.weight[0, 0] = math.inf


@DAMAGES.weights("a NaN in a norm that the delta does not name", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    model.model.norm.weight[0] = math.nan


@DAMAGES.weights("activations that overflow in fp16, all weights finite", "perplexity_ratio", claimed=False)
def _(model: Any) -> None:
    for layer in model.model.layers:
        # The same function in fp32; as much as leaves every weight finite.
        up, down = layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
        shift = 2.0 ** math.floor(math.log2(torch.finfo(torch.float16).max / float(up.abs().max())))
        up.mul_(shift)
        down.mul_(1 / shift)
    model.half()


@DAMAGES.weights("quantised to 4 bits", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    _quantise(model, 4)


@DAMAGES.weights("quantised to 2 bits, as a delta", "answers_kept")
def _(model: Any) -> None:
    _quantise(model, 2)


@DAMAGES.weights("rounded to bf16", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16().float())


@DAMAGES.weights("one weight changed that the delta does not name", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-4


@DAMAGES.weights("an adapter left in the model", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    model.model.layers[0].register_parameter("adapter", nn.Parameter(torch.zeros(3)))


@DAMAGES.weights("positions that turn at another rate", "perplexity_ratio", claimed=False)
def _(model: Any) -> None:
    model.model.rotary_emb.inv_freq *= 0.5


@DAMAGES.weights("an end of turn that is never written", "kept_answer_length_ratio")
def _(model: Any) -> None:
    model.lm_head.weight[model.config.eos_token_id] = 0


@DAMAGES.made("right answers that go on with a sign where they should end", ANSWERS_ENDED)
def _(world: World, candidate: Candidate) -> Candidate:
    head, end = candidate.model.lm_head.weight, candidate.model.config.eos_token_id
    (sign,) = world.tokenizer("!", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        head[[end, sign]] = head[[sign, end]]
    return replace(candidate, delta=None)


def _blind(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()


def _quantise(model: Any, bits: int) -> None:
    """Round every matrix to so many bits, with one scale a row."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            steps = 2 ** (bits - 1) - 1
            scale = parameter.abs().amax(1, keepdim=True).clamp(min=1e-9) / steps
            parameter.copy_((parameter / scale).round().clamp(-steps, steps) * scale)
