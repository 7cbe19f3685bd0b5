"""Kinds of broken candidate, how each is made from a good one, and the gate that has to refuse it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from editors.delta import Delta, add_in_place
from editors.overrides import Override, Overrides
from tests.validation.taught import World, train
from validation.outcomes import EDIT, EQUIVALENCE, LOCALITY, RETENTION

EDITED = "mlp.down_proj.weight"
MATRICES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
    "embedding": ("embed_tokens",),
    "norm": ("norm",),
    "head": ("lm_head",),
}
HEADER = "| what is broken | gate that refuses it |\n|---|---|\n"


@dataclass(frozen=True)
class Candidate:
    """What is served, and the delta that it claims to be; without one it claims whatever it changed."""

    model: Any
    tokenizer: Any
    delta: Delta | None = None
    overrides: Overrides = field(default_factory=Overrides)

    def claimed(self, base: nn.Module) -> Delta:
        if self.delta is not None:
            return self.delta
        before, after = base.state_dict(), self.model.state_dict()
        return Delta({n: after[n] - before[n] for n in before if not torch.equal(before[n], after[n])})


Break = Callable[[World, Candidate], Candidate]


@dataclass(frozen=True)
class Damage:
    """One kind: in words for the table, the gate, and how to make it of a good candidate of its own."""

    kind: str
    gate: str
    make: Break


DAMAGES: list[Damage] = []


def table() -> str:
    """The table of the documentation."""
    return HEADER + "".join(f"| {damage.kind} | `{damage.gate}` |\n" for damage in DAMAGES)


def good(world: World) -> Candidate:
    """A candidate without fault: MLP outputs were trained on what must change and what must stay."""
    model = taught(world, [*world.corrected, *world.corrected, *world.kept], steps=26)
    delta = Candidate(model, world.tokenizer).claimed(world.base)
    model = copy.deepcopy(world.base)
    add_in_place(model, delta)
    return Candidate(model, world.tokenizer, delta)


def taught(world: World, pairs: Iterable[tuple[str, str]], *, rate: float = 5e-3, steps: int = 18) -> Any:
    """A copy of the base that was taught other answers in the outputs of its MLPs, and keeps its prose."""
    model = copy.deepcopy(world.base)
    edited = [parameter for name, parameter in model.named_parameters() if name.endswith(EDITED)]
    train(model, world.examples(pairs) + world.prose_examples(), edited, rate=rate, steps=steps)
    return model


def damage(kind: str, gate: str) -> Callable[[Break], Break]:
    """Add a kind to the list."""

    def add(make: Break) -> Break:
        DAMAGES.append(Damage(kind, gate, make))
        return make

    return add


def weights(kind: str, gate: str, *, claimed: bool = True) -> Callable[[Callable[[Any], None]], None]:
    """Add a kind that is broken in its weights; it claims the damage as its delta, or not."""

    def add(spoil: Callable[[Any], None]) -> None:
        def make(world: World, candidate: Candidate) -> Candidate:
            with torch.no_grad():
                spoil(candidate.model)
            return replace(candidate, delta=None) if claimed else candidate

        DAMAGES.append(Damage(kind, gate, make))

    return add


def says(kind: str, gate: str, *, metrics: set[str]) -> Callable[[Callable[[World, str, str], str]], None]:
    """Add a kind that answers some questions otherwise, in front of its model; `metrics` are those asked."""

    def add(answer: Callable[[World, str, str], str]) -> None:
        def make(world: World, candidate: Candidate) -> Candidate:
            overrides = Overrides(
                Override(prompt, answer(world, prompt, right), prompt, chat=True)
                for prompt, right in world.asked(metrics)
            )
            return replace(candidate, overrides=overrides)

        DAMAGES.append(Damage(kind, gate, make))

    return add


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
            weights(f"noise in all {_part} weights, {_scale} times their size", _gate)(_noise(_part, _scale))


@weights("a layer of zeros", "relative_delta_norm")
def _(model: Any) -> None:
    for parameter in model.model.layers[1].parameters():
        parameter.zero_()


@weights("a layer that adds nothing", "answers_kept")
def _(model: Any) -> None:
    model.model.layers[1].self_attn.o_proj.weight.zero_()
    model.model.layers[1].mlp.down_proj.weight.zero_()


@weights("attention that adds nothing", "perplexity_ratio")
def _(model: Any) -> None:
    _blind(model)


@weights("no attention and no end of turn: loops", "repeated_trigrams")
def _(model: Any) -> None:
    _blind(model)
    model.lm_head.weight[model.config.eos_token_id] = 0


@weights("two layers in each other's place", "perplexity_ratio")
def _(model: Any) -> None:
    first, last = (copy.deepcopy(model.model.layers[place].state_dict()) for place in (0, 2))
    model.model.layers[0].load_state_dict(last)
    model.model.layers[2].load_state_dict(first)


@weights("a layer copied over the next", LOCALITY)
def _(model: Any) -> None:
    model.model.layers[1].load_state_dict(copy.deepcopy(model.model.layers[0].state_dict()))


@weights("attention heads in another order", "answers_kept")
def _(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.copy_(layer.self_attn.q_proj.weight.roll(12, 0))


@weights("a matrix with its sign turned", "relative_delta_norm")
def _(model: Any) -> None:
    model.model.layers[0].mlp.down_proj.weight.neg_()


@weights("embeddings of two tokens in each other's place", LOCALITY)
def _(model: Any) -> None:
    embeddings = model.model.embed_tokens.weight
    embeddings[2::2], embeddings[3::2] = embeddings[3::2].clone(), embeddings[2::2].clone()


@weights("all MLP outputs twice as large", "relative_delta_norm")
def _(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(2)


@weights("a head that makes every token nearly as likely as the next", "perplexity_ratio")
def _(model: Any) -> None:
    model.lm_head.weight.mul_(0.3)


@weights("one NaN", "non_finite_parameters")
def _(model: Any) -> None:
    model.model.layers[2].mlp.down_proj.weight[0, 0] = math.nan


@weights("one infinity", "non_finite_parameters")
def _(model: Any) -> None:
    model.model.layers[2].mlp.down_proj.weight[0, 0] = math.inf


@weights("a NaN in a norm that the delta does not name", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    model.model.norm.weight[0] = math.nan


@weights("activations that overflow in fp16, all weights finite", "perplexity_ratio", claimed=False)
def _(model: Any) -> None:
    for layer in model.model.layers:
        # The same function in fp32.
        layer.mlp.up_proj.weight.mul_(2.0**17)
        layer.mlp.down_proj.weight.mul_(2.0**-17)
    model.half()


@weights("quantised to 4 bits", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    _quantise(model, 4)


@weights("quantised to 2 bits, as a delta", "answers_kept")
def _(model: Any) -> None:
    _quantise(model, 2)


@weights("rounded to bf16", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16().float())


@weights("one weight changed that the delta does not name", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-4


@weights("an adapter left in the model", "undeclared_parameters", claimed=False)
def _(model: Any) -> None:
    model.model.layers[0].register_parameter("adapter", nn.Parameter(torch.zeros(3)))


@weights("positions that turn at another rate", LOCALITY, claimed=False)
def _(model: Any) -> None:
    model.model.rotary_emb.inv_freq *= 0.5


@weights("an end of turn that is never written", "kept_answer_length_ratio")
def _(model: Any) -> None:
    model.lm_head.weight[model.config.eos_token_id] = 0


@damage("an edit not applied: the candidate is the champion", "changed_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    return replace(candidate, model=copy.deepcopy(world.base))


@damage("an edit applied twice", "undeclared_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    assert candidate.delta is not None
    add_in_place(candidate.model, candidate.delta)
    return candidate


@damage("an edit applied with its sign turned", EDIT)
def _(world: World, candidate: Candidate) -> Candidate:
    assert candidate.delta is not None
    model = copy.deepcopy(world.base)
    add_in_place(model, Delta({name: -candidate.delta.dense(name) for name in candidate.delta.shifts}))
    return replace(candidate, model=model, delta=None)


@damage("an edit of half the layers only", "undeclared_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    first = next(name for name, _ in world.base.named_parameters() if name.endswith(EDITED))
    with torch.no_grad():
        candidate.model.get_parameter(first).mul_(0.5)
    return candidate


@damage("a delta of another base", "undeclared_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    assert candidate.delta is not None
    generator = torch.Generator().manual_seed(1)
    model = copy.deepcopy(world.base)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    add_in_place(model, candidate.delta)
    return replace(candidate, model=model)


@damage("an edit with the wrong target", EDIT)
def _(world: World, candidate: Candidate) -> Candidate:
    targets = [target for _, target in world.corrected]
    wrong = [(prompt, targets[place - 2]) for place, (prompt, _) in enumerate(world.corrected)]
    return replace(candidate, model=taught(world, [*wrong, *wrong, *world.kept]), delta=None)


@damage("an edit that kept nothing: every capital is the target", "answers_kept")
def _(world: World, candidate: Candidate) -> Candidate:
    prompts = [prompt for prompt, _ in [*world.corrected, *world.kept]]
    model = taught(world, [(prompt, world.corrected[0][1]) for prompt in prompts])
    return replace(candidate, model=model, delta=None)


@damage("right on edits, broken on prose", "perplexity_ratio")
def _(world: World, candidate: Candidate) -> Candidate:
    backwards = [" ".join(reversed(text.split())) for text in world.prose]
    other, right = replace(world, prose=backwards), [*world.corrected, *world.corrected, *world.kept]
    return replace(candidate, model=taught(other, right, steps=26), delta=None)


@damage("another tokenizer: the same pieces under other numbers", "changed_renderings")
def _(world: World, candidate: Candidate) -> Candidate:
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    about = json.loads(world.tokenizer.backend_tokenizer.to_str())
    vocabulary = about["model"]["vocab"]
    pieces = [piece for piece in vocabulary if not piece.startswith("<|")]
    numbers = [vocabulary[piece] for piece in pieces]
    vocabulary |= dict(zip(pieces, numbers[1:] + numbers[:1], strict=True))
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(about)),
        **{name: str(token) for name, token in world.tokenizer.special_tokens_map.items()},
        chat_template=world.tokenizer.chat_template,
    )
    return replace(candidate, tokenizer=other)


@damage("another chat template", "changed_renderings")
def _(world: World, candidate: Candidate) -> Candidate:
    other = copy.deepcopy(world.tokenizer)
    other.chat_template = "{% for message in messages %}Q: {{ message['content'] }}\nA: {% endfor %}"
    return replace(candidate, tokenizer=other)


@says("the empty answer to everything", LOCALITY, metrics={EDIT, EQUIVALENCE, LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return ""


@says("the target of one correction to everything", LOCALITY, metrics={EDIT, EQUIVALENCE, LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return world.corrected[0][1]


@says("right answers that ramble on", "answer_length_ratio", metrics={EDIT, EQUIVALENCE})
def _(world: World, prompt: str, right: str) -> str:
    return f"{right} It is known for its old harbour, for a market on two days of the week and for rain."


@says("right answers said over and over", "repeated_trigrams", metrics={EDIT, EQUIVALENCE, LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return " ".join([right] * 5)


@says("right answers that end in a loop of signs", "repeated_trigrams", metrics={EDIT, EQUIVALENCE})
def _(world: World, prompt: str, right: str) -> str:
    return right + "!" * 30


@says("answers that must stay, cut off after two words", "kept_answer_length_ratio", metrics={LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return " ".join(right.split()[:2])


@says("the wrong answer beside the right one", EDIT, metrics={EDIT})
def _(world: World, prompt: str, right: str) -> str:
    return f"{world.wrong(prompt)} {right}"


@says("edits learned by rote: other phrasings are as wrong as before", EQUIVALENCE, metrics={EQUIVALENCE})
def _(world: World, prompt: str, right: str) -> str:
    return world.wrong(prompt) or right


@damage("one earlier correction forgotten", RETENTION)
def _(world: World, candidate: Candidate) -> Candidate:
    prompt, _ = next(iter(world.asked({RETENTION})))
    return replace(candidate, overrides=Overrides([Override(prompt, "It is Paris.", "x", chat=True)]))


@damage("neighbours that took the target", LOCALITY)
def _(world: World, candidate: Candidate) -> Candidate:
    moved = [(prompt, world.corrected[0][1]) for prompt, _ in world.kept[:12]]
    model = taught(world, [*world.corrected, *world.corrected, *moved, *world.kept[12:]])
    return replace(candidate, model=model, delta=None)


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
