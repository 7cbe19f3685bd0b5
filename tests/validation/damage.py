"""Broken candidates: how one is made from a good one, and the gate that has to refuse it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from editors.delta import Delta, add_in_place
from editors.overrides import Override, Overrides
from tests.validation.taught import World


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

    @property
    def row(self) -> str:
        """As the table of the documentation has it."""
        return f"| {self.kind} | `{self.gate}` |"


class Damages(list[Damage]):
    """Kinds in the order in which they are added, each by a decorator of what makes it."""

    def made(self, kind: str, gate: str) -> Callable[[Break], Break]:
        """Add a kind."""

        def add(make: Break) -> Break:
            self.append(Damage(kind, gate, make))
            return make

        return add

    def weights(
        self, kind: str, gate: str, *, claimed: bool = True
    ) -> Callable[[Callable[[Any], None]], None]:
        """Add a kind that is broken in its weights; it claims the damage as its delta, or not."""

        def add(spoil: Callable[[Any], None]) -> None:
            @self.made(kind, gate)
            def make(world: World, candidate: Candidate) -> Candidate:
                with torch.no_grad():
                    spoil(candidate.model)
                return replace(candidate, delta=None) if claimed else candidate

        return add

    def says(
        self, kind: str, gate: str, *, metrics: set[str]
    ) -> Callable[[Callable[[World, str, str], str]], None]:
        """Add a kind that answers some questions otherwise, in front of its model; `metrics` are those."""

        def add(answer: Callable[[World, str, str], str]) -> None:
            @self.made(kind, gate)
            def make(world: World, candidate: Candidate) -> Candidate:
                overrides = Overrides(
                    Override(prompt, answer(world, prompt, right), prompt, chat=True)
                    for prompt, right in world.asked(metrics)
                )
                return replace(candidate, overrides=overrides)

        return add


def good(world: World) -> Candidate:
    """A candidate without fault: it was taught what must change and what must stay."""
    model = world.taught(world, [*world.corrected, *world.corrected, *world.kept])
    delta = Candidate(model, world.tokenizer).claimed(world.base)
    model = copy.deepcopy(world.base)
    add_in_place(model, delta)
    return Candidate(model, world.tokenizer, delta)
