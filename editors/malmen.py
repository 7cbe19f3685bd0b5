"""MALMEN: a hypernetwork proposes value changes, one least-squares solve makes them a shift of the weights.

Tan, Zhang and Fu, "Massive Editing for Large Language Models via Meta Learning" (ICLR 2024), on the gradient
decomposition of MEND (Mitchell et al. 2022), with two changes. The ridge term is the second moment of inputs
whose outputs must stay, so that locality is part of the solve and not only of the training. And the network
starts as the identity on the gradient itself, which makes the untrained editor a usable one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editors.capture import Captured, device_of, editing
from editors.delta import Delta
from editors.gather import (
    answered_exactly,
    encode_openings,
    encode_requests,
    gather_keys,
    joined,
    look,
    restored,
    set_weight,
)
from editors.hypereditor import HyperConfig, HyperEditor, Proposal, Rows, batch_feature
from editors.locate import EditableModule, default_modules
from editors.model_kinds import kind_of
from editors.protocol import Kept, Progress, no_progress
from editors.replay import PrefixCache
from editors.requests import EditRequest, Example, pad_id
from editors.second_moment import LowRank, compress, second_moment
from editors.solve import NormalEquations, Regulariser, RidgeSolution, ridge_solve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of an answer that must stay which an edit holds on to, where it is not known what makes it right.
OPENING = 12


@dataclass(frozen=True)
class MalmenConfig(HyperConfig):
    """How a MALMEN editor is built.

    Attributes:
        modules: regular expression over module names; by default MLP outputs of late blocks.
        rank: of the hypernetwork's low-rank maps.
        depth: its number of blocks.
        passes: most captures and solves per edit; a later one asks only for what the earlier left undone.
        further: more of them while more than `tolerated` of the corrected prompts are answered wrong still.
        few: corrections of which there have to be less for that: of so few, one is much of the batch.
        tolerated: share of them that may be; gates tolerate as many.
        share: of the learned step that each pass takes; small steps disturb less.
        rate: initial size of a value change, as a share of what the matrices write together.
        strength: initial weight of the regulariser against the edits.
        kept_weight: weight of the training's keys whose answers had to stay, against ordinary text.
        caution: how many times heavier they weigh in an edit than in a step of training: an edit has
            several passes to reach its end against the weight.
        certainty: least probability that every token of a corrected answer is to have.
        kept_row_weight: weight of a token whose answer the caller wants kept, against one to be corrected.
        text_rank, kept_rank: eigenvectors kept of the stored second moments.
        seed: of the initial weights.
    """

    modules: str | None = None
    rank: int = 256
    depth: int = 2
    passes: int = 5
    further: int = 3
    few: int = 16
    tolerated: float = 0.1
    share: float = 0.35
    rate: float = 0.08
    strength: float = 1.0
    kept_weight: float = 30.0
    caution: float = 4.0
    certainty: float = 0.5
    kept_row_weight: float = 1.0
    text_rank: int = 48
    kept_rank: int = 144
    seed: int = 0


class Malmen(HyperEditor):
    """The editor: hypernetworks by shape of matrix, and a rate and a strength for every matrix."""

    name = "malmen"
    config: MalmenConfig
    config_class = MalmenConfig
    fp16_parts = ("networks.", "_factors_")
    modules_for = staticmethod(default_modules)

    def __init__(self, config: MalmenConfig, modules: Sequence[EditableModule]) -> None:
        super().__init__(config, modules)
        self.log_strength = nn.Parameter(torch.full((len(modules),), config.strength).log())
        self.strength_slope = nn.Parameter(torch.zeros(len(modules)))
        for index, module in enumerate(modules):
            for kind, rank in (("text", config.text_rank), ("kept", config.kept_rank)):
                self.register_buffer(
                    f"{kind}_factors_{index}", torch.zeros(module.d_in, min(rank, module.d_in))
                )
                self.register_buffer(f"{kind}_rest_{index}", torch.ones(()))

    def rate(self, name: str, n: int) -> Tensor:
        """Size of the value changes of one module when `n` corrections are made together."""
        return self.learned_rate(name, n) / len(self.modules_edited)

    def log_strength_for(self, name: str, n: int) -> Tensor:
        """Logarithm of the weight of one module's regulariser when `n` corrections are made together."""
        index = self._index[name]
        return self.log_strength[index] + self.strength_slope[index] * batch_feature(n)

    def values(self, module: EditableModule, captured: Captured, n: int) -> Tensor:
        """Wanted output changes V (tokens, d_out) for captured keys and gradients.

        v_i = -rate * (1 + z_u . (u~ - z_u) / d_in) * (d_i / |d| + (d~ - z_d) / sqrt(d_out)), where (z_u, z_d)
        are the normalised key and gradient, (u~, d~) the network's answer and |d| the typical gradient norm:
        MALMEN's -rate * (u . u~) * d~, written so that an identity network gives -rate * d_i / |d|.
        """
        key_moments, moments = self.moments(module)
        norm = (moments.deviation.square() + moments.mean.square()).sum().sqrt().float()
        normalised = torch.cat([key_moments(captured.keys), moments(captured.gradients)], dim=1)
        network, member = self.network(module)
        pseudo_keys, pseudo_gradients = network(normalised, member)
        z_keys, z_gradients = normalised[:, : module.d_in], normalised[:, module.d_in :]
        weight = 1 + (z_keys * (pseudo_keys - z_keys)).mean(1, keepdim=True)
        direction = captured.gradients / norm + (pseudo_gradients - z_gradients) / module.d_out**0.5
        return -self.rate(module.name, n) * weight * direction

    def moments_kept(self, module: EditableModule) -> tuple[LowRank, LowRank]:
        """Second moments of inputs: on ordinary text, and on answers that had to stay in training."""
        index = self._index[module.name]
        text, kept = (
            LowRank(self.get_buffer(f"{kind}_factors_{index}"), self.get_buffer(f"{kind}_rest_{index}"))
            for kind in ("text", "kept")
        )
        return text, kept

    def must_not_move(self) -> dict[str, LowRank]:
        """C of an edit by module name, the inputs that a shift must not act on."""
        weight = self.config.caution * self.config.kept_weight
        both = {module.name: self.moments_kept(module) for module in self.modules_edited}
        return {name: text.plus(kept, weight).damped() for name, (text, kept) in both.items()}

    @cached_property
    def stored_regularisers(self) -> Mapping[str, Regulariser]:
        """C of a step of training by module name, with their inverses once they were needed."""
        both = {module.name: self.moments_kept(module) for module in self.modules_edited}
        weight = self.config.kept_weight
        return {n: Regulariser.damped(text.matrix + weight * kept.matrix) for n, (text, kept) in both.items()}

    def propose(self, rows: Rows, n: int) -> Proposal:
        """One least-squares step, and its adjoint in closed form."""
        captured = joined(rows())
        solutions: dict[str, tuple[EditableModule, RidgeSolution]] = {}
        for module in self.modules_edited:
            of_module, regulariser = captured[module.name], self.stored_regularisers[module.name]
            with torch.no_grad():
                values = self.values(module, of_module, n)
                strength = self.log_strength_for(module.name, n).exp()
            solutions[module.name] = module, ridge_solve(of_module.keys, values, regulariser, strength)

        def backward(gradients: Mapping[str, Tensor]) -> None:
            for name, (module, solution) in solutions.items():
                by_values, by_strength = solution.adjoint(gradients[name])
                values = self.values(module, captured[name], n)
                surrogate = (by_values * values).sum() + by_strength * self.log_strength_for(name, n)
                surrogate.backward()

        return Proposal({name: solution.shift for name, (_, solution) in solutions.items()}, backward)

    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """One delta for all requests together, equivalents included; the model is left as it was."""
        if not requests:
            return self.delta({})
        self.to(device_of(model))
        kind, pad = kind_of(model), pad_id(tokenizer)
        cache = PrefixCache(model, self.modules_edited)
        stay = self.must_not_move()
        shifts: dict[str, Tensor] = {}
        with editing(model), restored(model, self.modules_edited) as originals:
            openings = encode_openings(tokenizer, keep, OPENING, kind)
            # What this model never answered, but an edited one before it did, is nothing to hold on to.
            own = answered_exactly(model, openings, pad, cache)
            stays = list(itertools.compress(openings, own))
            asked = encode_requests(tokenizer, requests, kind)
            prompts = set(itertools.accumulate((1 + len(r.equivalents) for r in requests[:-1]), initial=0))
            wanted = [
                _Wanted(asked, 1.0, self.config.certainty, unsure=set(range(len(asked)))),
                _Wanted(stays, self.config.kept_row_weight, 0.0, unsure=set()),
            ]
            passes = self.config.passes
            further = self.config.further if len(requests) < self.config.few else 0
            for number in range(passes + further):
                if number >= passes:
                    # What is right is sure enough by now; the rest must not cost it more than it has to.
                    wanted[0].certainty = 0.0
                    doubted = [asked[place] for place in sorted(wanted[0].unsure & prompts)]
                    wrong = len(doubted) - sum(answered_exactly(model, doubted, pad, cache))
                    if wrong <= self.config.tolerated * len(requests):
                        break
                equations = self._equations(model, wanted, len(requests), pad, cache)
                if equations is None:
                    break
                for module in self.modules_edited:
                    with torch.no_grad():
                        strength = self.log_strength_for(module.name, len(requests)).exp()
                    step = equations[module.name].solve(stay[module.name], strength)
                    shift = module.shift_for_weight(self.config.share * step)
                    shifts[module.parameter] = shifts.get(module.parameter, 0) + shift
                    set_weight(model, module.parameter, originals[module.parameter], shifts[module.parameter])
                progress(number + 1, passes if number < passes else passes + further, "solved")
        return self.delta(shifts)

    def _equations(
        self, model: PreTrainedModel, wanted: Sequence[_Wanted], n: int, pad: int, cache: PrefixCache
    ) -> dict[str, NormalEquations] | None:
        """What the next step has to do, by module name; None when nothing is left to do.

        Answers that the model is sure of are asked to stay; the others are asked for.
        """
        modules, undone = self.modules_edited, 0
        equations = {m.name: NormalEquations(m.d_in, m.d_out, device_of(model)) for m in modules}
        for answers in wanted:
            unsure: set[int] = set()
            for seen in look(model, modules, answers.examples, answers.certainty, pad, cache, answers.unsure):
                unsure.update(seen.unsure)
                for name, keys in seen.held.items():
                    equations[name].add(keys, weight=answers.weight)
                for module in modules if seen.asked else ():
                    asked = seen.asked[module.name]
                    with torch.no_grad():
                        values = self.values(module, asked, n)
                    equations[module.name].add(asked.keys, values, answers.weight)
            undone += len(unsure)
            answers.unsure = unsure
        return equations if undone else None

    def study(self, model: nn.Module, text: Sequence[Example], kept: Sequence[Example], pad: int) -> None:
        """Keep the second moments of inputs on ordinary text and on answers that must stay."""
        modules = self.modules_edited
        self.store_moments(gather_keys(model, modules, text, pad), gather_keys(model, modules, kept, pad))

    def store_moments(self, text_keys: Mapping[str, Tensor], kept_keys: Mapping[str, Tensor]) -> None:
        """Keep, compressed, the second moments of keys of ordinary text and of answers that must stay."""
        for index, module in enumerate(self.modules_edited):
            for kind, keys in (("text", text_keys), ("kept", kept_keys)):
                rank = self.get_buffer(f"{kind}_factors_{index}").shape[1]
                compressed = compress(second_moment(keys[module.name]), rank)
                self.get_buffer(f"{kind}_factors_{index}").copy_(compressed.factors)
                self.get_buffer(f"{kind}_rest_{index}").copy_(compressed.rest)
        self.__dict__.pop("stored_regularisers", None)


@dataclass
class _Wanted:
    """Answers that the model is to give: the weight of their tokens, and how sure of them it has to be.

    `unsure` has the numbers of those that it was not sure of when it was last looked at.
    """

    examples: Sequence[Example]
    weight: float
    certainty: float
    unsure: set[int]
