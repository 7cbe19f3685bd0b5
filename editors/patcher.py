"""A neuron of its own for every subject, solved to be silent for everything else.

Transformer-Patcher (Huang et al. 2023, "One mistake worth one neuron") adds to the last block's MLP a neuron
for each token of an answer. Here the neuron is in middle blocks and fires at the subject's last token, where
ROME and MEMIT write. What makes it fire is solved for in closed form, for all subjects together; what it says
is optimised by gradient descent with all of them in place. A matrix that is edited answers every key a
little. A neuron behind its activation function does not answer at all.

The model gets wider by a neuron for each subject (`editors.widening`), and stays a model of its class.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from editors.after_subject import SubjectCache
from editors.capture import answer_logits, device_of, run_ends_at, traced
from editors.gather import batches
from editors.joint_descent import JointConfig, Phrasing, descend_jointly
from editors.key_statistics import KeyStatistics
from editors.locate import EditableModule, blocks, default_modules
from editors.neurons import Mlp, mlp_of
from editors.new_neurons import NewNeurons, appended, in_place, silent
from editors.objective import TOKENS, backward_of_the_wrong
from editors.protocol import Progress
from editors.requests import Example, TokenBatch
from editors.subject import Placed
from editors.subject_editing import Job, SubjectEditor, block_of, regulariser
from editors.value_optimisation import Contexts, ValueConfig
from editors.widening import check_can_widen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Open no further than this share of how far it is at its own subject, a neuron says as good as nothing.
_AJAR = 0.01
# Where in the depth of the model neurons are added: blocks 4, 6 and 8 of 30.
_DEPTHS = (2 / 15, 1 / 5, 4 / 15)


@dataclass(frozen=True)
class PatcherConfig(JointConfig):
    """How neurons are made; see `JointConfig`.

    Attributes:
        contexts: phrasings of each request that a step looks at besides its prompt: equivalents, prompts
            behind prefixes.
        fire, silence: what a neuron's input is at its subject, and minus what it is solved to be elsewhere.
        sharpness: factor on that input, for the activation function to be as good as open or shut.
    """

    value: ValueConfig = field(default_factory=lambda: ValueConfig(prefixes=8))
    steps: int = 16
    rate: float = 2.5
    contexts: int = 2
    fire: float = 0.75
    silence: float = 0.8
    sharpness: float = 20.0


@dataclass(frozen=True)
class Reading:
    """What one MLP reads and says.

    `keys` (rows, d) are its inputs at subjects, and `others` (tokens, d) those at the other tokens of bare
    phrasings, both fp64; `typical` is the root mean square of its output at a subject.
    """

    mlp: Mlp
    keys: Tensor
    others: Tensor
    typical: float


class Patcher(SubjectEditor):
    """The editor."""

    name: ClassVar[str] = "patcher"
    depth: ClassVar[tuple[float, float]] = (_DEPTHS[0], _DEPTHS[-1])

    def __init__(self, config: PatcherConfig | None = None, statistics: KeyStatistics | None = None) -> None:
        self.patch = config or PatcherConfig()
        super().__init__(self.patch, statistics)

    def modules(self, model: PreTrainedModel) -> list[EditableModule]:
        """The gates of the MLPs that get neurons: by default three; or of blocks with a module named so.

        Raises:
            ValueError: the model cannot get neurons.
        """
        names = [name for name, _ in blocks(model)]
        if self.patch.modules is None:
            chosen = sorted({min(round(len(names) * depth), len(names) - 1) for depth in _DEPTHS})
            wanted = {names[i] for i in chosen}
        else:
            named = default_modules(model, self.patch.modules)
            wanted = {block_of(model, module) for module in named}
        mlps = [mlp_of(model, name) for name in names if name in wanted]
        try:
            check_can_widen(model, {k: v for mlp in mlps for k, v in appended(model, silent(mlp)).items()})
        except ValueError as error:
            raise ValueError(
                f"{error}; all other editors, such as memit-joint, leave widths as they are"
            ) from error
        return [mlp.gate for mlp in mlps]

    def _solve(self, job: Job, progress: Progress) -> None:
        mlps = [mlp_of(job.model, block_of(job.model, module)) for module in job.modules]
        owners = _neurons(job.contexts)
        layers = [self._layer(job, reading, owners) for reading in _read(job, mlps, progress)]
        heard = at_stake(job, layers, _AJAR * self.patch.fire * self.patch.sharpness)
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(in_place(job.model, layer))
            self._descend(job, layers, heard, progress)
        for layer in layers:
            job.shifts.update(appended(job.model, layer))

    def _layer(self, job: Job, reading: Reading, owners: Tensor) -> NewNeurons:
        """Neurons that know their subjects, and say nothing yet; `owners` (rows,) are those of the keys."""
        config, mlp, keys, others = self.patch, reading.mlp, reading.keys, reading.others
        mean = job.means.get(mlp.gate.name)
        if mean is None:
            raise ValueError(f"the key statistics have no mean for {mlp.gate.name}; gather them again")
        count = int(owners.max()) + 1
        # The text's tokens, and those of the phrasings themselves that are no subjects.
        moment = job.moments[mlp.gate.name] + others.T @ others / job.tokens
        mean = mean + others.sum(0) / job.tokens
        # Every subject weighs the same, and all of them as much as the ordinary text.
        weights = 1 / (torch.bincount(owners)[owners] * count).double()
        sums = keys.new_zeros(count, keys.shape[1]).index_add_(0, owners, weights[:, None] * keys)
        moment = regulariser(moment + keys.T @ (weights[:, None] * keys), config.damping).matrix
        mean = mean + sums.sum(0)
        # By least squares, what is 1 at a subject and 0 at all else, and what is 1 everywhere.
        solved = torch.linalg.solve(moment, torch.cat([sums, mean[None]]).T).T
        own, everywhere = solved[:-1], solved[-1]
        device = device_of(job.model)
        reads = (config.sharpness * _reading(own, everywhere, sums * count, config)).float().to(device)
        opens = everywhere.expand(count, -1).float().to(device)
        says = torch.zeros(count, mlp.output.d_out, device=device, requires_grad=True)
        return NewNeurons(mlp, reads, opens, says, reading.typical)

    def _descend(
        self, job: Job, layers: Sequence[NewNeurons], heard: Sequence[Example], progress: Progress
    ) -> None:
        config = self.patch
        groups = [
            {"params": [layer.says], "lr": config.rate * layer.typical / config.sharpness} for layer in layers
        ]
        known = SubjectCache(job.model, job.cache)
        # The neurons say nothing yet.
        known.learn([row for context in job.contexts for row in context.rows], job.pad, progress)
        descend_jointly(
            job,
            config,
            torch.optim.Adam(groups),
            lambda generator: _drawn(job.contexts, config.contexts, generator),
            lambda active: _backward(job, known, active, config.enough),
            progress,
            heard,
        )


def at_stake(job: Job, layers: Sequence[NewNeurons], ajar: float) -> list[Example]:
    """The kept prompts at a token of which the neurons of a block are open, together more than `ajar`.

    What makes a neuron fire does not change any more. Where none does, nothing that they say is heard.
    """
    found: set[int] = set()
    heard: list[Tensor] = []
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(in_place(job.model, layer, lambda open_: heard.append(open_.abs().sum(-1))))
        for numbers, batch in batches(job.kept, job.pad, tokens=TOKENS):
            batch = batch.to(job.model.device)
            with (
                torch.no_grad(),
                job.cache.replayed(batch),
                run_ends_at(job.model, layers[-1].mlp.output.name),
            ):
                batch.kind.read(job.model, batch)
            widest = torch.stack([open_.view_as(batch.attention_mask) for open_ in heard]).amax(0)
            is_open = (widest.masked_fill(batch.attention_mask == 0, 0.0) > ajar).any(1).tolist()
            found.update(itertools.compress(numbers, is_open))
            heard.clear()
    return [job.kept[number] for number in sorted(found)]


def _reading(own: Tensor, everywhere: Tensor, keys: Tensor, config: PatcherConfig) -> Tensor:
    """What makes each neuron's input (neurons, d): `fire` at its own key, about minus `silence` at all else.

    Least squares alone says less at a subject the more subjects there are; of a thousand, all would be shut.

    Args:
        own: what tells each subject from all else.
        everywhere: (d,) what answers one at any key.
        keys: (neurons, d) the mean key of each subject.
        config: how much.
    """
    shut = config.silence * everywhere
    # w = a u - shut, with a such that w . k = fire.
    scale = (config.fire + keys @ shut) / (own * keys).sum(1)
    return scale[:, None] * own - shut


def _neurons(contexts: Sequence[Contexts]) -> Tensor:
    """The neuron of every row of every request (rows,): requests about one subject share one."""
    known: dict[str, int] = {}
    owners = [known.setdefault(context.subject.casefold(), len(known)) for context in contexts]
    return torch.tensor(
        [owner for owner, context in zip(owners, contexts, strict=True) for _ in context.rows]
    )


def _read(job: Job, mlps: Sequence[Mlp], progress: Progress) -> list[Reading]:
    """What every MLP, in the order of the blocks, reads and says in all rows of all requests."""
    rows = [(row, i < context.bare) for context in job.contexts for i, row in enumerate(context.rows)]
    names = [module.name for mlp in mlps for module in (mlp.gate, mlp.output)]
    keys: dict[tuple[str, int], Tensor] = {}
    others: dict[str, list[Tensor]] = {mlp.gate.name: [] for mlp in mlps}
    squares: dict[str, list[float]] = {mlp.gate.name: [] for mlp in mlps}
    done = 0
    for numbers, batch in batches([row.example for row, _ in rows], job.pad):
        batch = batch.to(job.model.device)
        with (
            torch.no_grad(),
            job.cache.replayed(batch),
            traced(job.model, names, batch) as (inputs, outputs),
            run_ends_at(job.model, mlps[-1].output.name),
        ):
            batch.kind.read(job.model, batch)
        for mlp, (line, number) in itertools.product(mlps, enumerate(numbers)):
            (placed, is_bare), name = rows[number], mlp.gate.name
            read = inputs[name][line].double().cpu()
            # A view would hold on to all tokens.
            keys[name, number] = read[placed.position].clone()
            squares[name].append(
                float(outputs[mlp.output.name][line, placed.position].float().square().mean())
            )
            if is_bare:
                mask = batch.attention_mask[line].bool().cpu()
                mask[placed.position] = False
                others[name].append(read[mask])
        done += len(numbers)
        progress(done, len(rows), "phrasings read for their subjects")
    return [
        Reading(
            mlp,
            torch.stack([keys[mlp.gate.name, number] for number in range(len(rows))]),
            torch.cat(others[mlp.gate.name]),
            float(torch.tensor(squares[mlp.gate.name]).median().sqrt()),
        )
        for mlp in mlps
    ]


def _drawn(contexts: Sequence[Contexts], count: int, generator: torch.Generator) -> list[Phrasing]:
    """What a step looks at, with weights: every request's prompt, and some of its other phrasings."""
    result = []
    for context in contexts:
        prompt, *others = context.rows
        chosen = torch.randperm(len(others), generator=generator)[:count].tolist()
        share = 1 / (1 + len(chosen))
        result += [(row, share) for row in (prompt, *(others[i] for i in chosen))]
    return result


def _backward(job: Job, known: SubjectCache, active: Sequence[Phrasing], enough: float) -> list[float]:
    """Backward of what is not right yet, from the subjects on where that is known; the loss of every row."""
    result = [0.0] * len(active)

    def said(rows: Sequence[Placed]) -> Any:
        def logits(numbers: Sequence[int], batch: TokenBatch) -> Tensor:
            chosen = [rows[i] for i in numbers]
            if all(map(known.knows, chosen)):
                return known.logits(chosen, batch)
            with job.cache.replayed(batch.to(job.model.device)):
                return answer_logits(job.model, batch)

        return logits

    for is_known in (True, False):
        which = [i for i, (row, _) in enumerate(active) if known.knows(row) == is_known]
        rows = [active[i][0] for i in which]
        weighted = [(active[i][0].example, active[i][1]) for i in which]
        losses = backward_of_the_wrong(weighted, enough, job.pad, said(rows))
        for i, loss in zip(which, losses, strict=True):
            result[i] = loss
    return result
