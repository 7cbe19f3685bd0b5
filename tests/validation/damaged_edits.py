"""Candidates whose edit is not the one that was made: other targets, another place or another base."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from editors.delta import Delta, add_in_place
from tests.validation.damage import Candidate, Damages
from tests.validation.taught import World
from validation.outcomes import EDIT, LOCALITY
from validation.probes import ARITHMETIC, CODE, PROSE

DAMAGES = Damages()


@DAMAGES.made("an edit not applied: the candidate is the champion", "changed_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    return replace(candidate, model=copy.deepcopy(world.base))


@DAMAGES.made("an edit applied twice", "undeclared_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    assert candidate.delta is not None
    add_in_place(candidate.model, candidate.delta)
    return candidate


@DAMAGES.made("an edit applied with its sign turned", EDIT)
def _(world: World, candidate: Candidate) -> Candidate:
    assert candidate.delta is not None
    model = copy.deepcopy(world.base)
    add_in_place(model, Delta({name: -candidate.delta.dense(name) for name in candidate.delta.shifts}))
    return replace(candidate, model=model, delta=None)


@DAMAGES.made("an edit of half the layers only", "undeclared_parameters")
def _(world: World, candidate: Candidate) -> Candidate:
    assert candidate.delta is not None
    edited = list(candidate.delta.shifts)
    half = Delta({name: candidate.delta.dense(name) for name in edited[: len(edited) // 2]})
    model = copy.deepcopy(world.base)
    add_in_place(model, half)
    return replace(candidate, model=model)


@DAMAGES.made("a delta of another base", "undeclared_parameters")
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


@DAMAGES.made("an edit with the wrong target", EDIT)
def _(world: World, candidate: Candidate) -> Candidate:
    targets = [target for _, target in world.corrected]
    wrong = [(prompt, targets[place - 2]) for place, (prompt, _) in enumerate(world.corrected)]
    return replace(candidate, model=world.taught(world, [*wrong, *wrong, *world.kept]), delta=None)


@DAMAGES.made("an edit that kept nothing: every capital is the target", "answers_kept")
def _(world: World, candidate: Candidate) -> Candidate:
    prompts = [prompt for prompt, _ in [*world.corrected, *world.kept]]
    model = world.taught(world, [(prompt, world.corrected[0][1]) for prompt in prompts])
    return replace(candidate, model=model, delta=None)


@DAMAGES.made("neighbours that took the target", LOCALITY)
def _(world: World, candidate: Candidate) -> Candidate:
    moved = [(prompt, world.corrected[0][1]) for prompt, _ in world.kept[:12]]
    model = world.taught(world, [*world.corrected, *world.corrected, *moved, *world.kept[12:]])
    return replace(candidate, model=model, delta=None)


@DAMAGES.made("right on edits, broken on prose", PROSE)
def _(world: World, candidate: Candidate) -> Candidate:
    backwards = [" ".join(reversed(text.split())) for text in world.texts[PROSE]]
    right = [*world.corrected, *world.corrected, *world.kept]
    return replace(candidate, model=world.taught(world, right, prose=backwards), delta=None)


def _confused(world: World, candidate: Candidate, signs: str) -> Candidate:
    """The candidate, which writes one of these signs where it means the next."""
    encoded = world.tokenizer(list(signs), add_special_tokens=False)["input_ids"]
    places = [place for (place,) in encoded]
    head = candidate.model.lm_head.weight
    with torch.no_grad():
        # The same numbers in another order: where none of them is meant, all is as probable as it was.
        head[places] = head[places[1:] + places[:1]].clone()
    return replace(candidate, delta=None)


@DAMAGES.made("right on edits, broken on code: brackets in each other's place", CODE)
def _(world: World, candidate: Candidate) -> Candidate:
    return _confused(world, candidate, "()[]{}")


@DAMAGES.made("right on edits, broken on arithmetic: digits in each other's place", ARITHMETIC)
def _(world: World, candidate: Candidate) -> Candidate:
    return _confused(world, candidate, "0123456789")


@DAMAGES.made("another tokenizer: the same pieces under other numbers", "changed_renderings")
def _(world: World, candidate: Candidate) -> Candidate:
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    about = json.loads(world.tokenizer.backend_tokenizer.to_str())
    vocabulary, special = about["model"]["vocab"], {added["content"] for added in about["added_tokens"]}
    pieces = [piece for piece in vocabulary if piece not in special]
    numbers = [vocabulary[piece] for piece in pieces]
    vocabulary |= dict(zip(pieces, numbers[1:] + numbers[:1], strict=True))
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(about)),
        **{name: str(token) for name, token in world.tokenizer.special_tokens_map.items()},
        chat_template=world.tokenizer.chat_template,
    )
    return replace(candidate, tokenizer=other)


@DAMAGES.made("another chat template", "changed_renderings")
def _(world: World, candidate: Candidate) -> Candidate:
    other = copy.deepcopy(world.tokenizer)
    other.chat_template = "{% for message in messages %}Q: {{ message['content'] }}\nA: {% endfor %}"
    return replace(candidate, tokenizer=other)
