"""A neuron of its own for every subject, that is silent for everything else.

Transformer-Patcher (Huang et al. 2023, "One mistake worth one neuron") adds to the last block's MLP a neuron
for each token of an answer. Here the neuron is in middle blocks and fires at the subject's last token, where
ROME and MEMIT write. What makes it fire is solved for in closed form, for all subjects together; what it says
is optimised by gradient descent with all of them in place. A matrix that is edited answers every key a
little. A neuron behind its activation function does not answer at all.

The model gets wider by a neuron for each subject (`editors.widening`), and stays a model of its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from editors.after_subject import SubjectCache
from editors.capture import answer_logits, device_of, traced
from editors.gather import batches
from editors.joint_descent import JointConfig, Phrasing, descend_jointly
from editors.key_statistics import KeyStatistics
from editors.locate import EditableModule, blocks, default_modules
from editors.neurons import Mlp, mlp_of
from editors.objective import backward_of_the_wrong
from editors.protocol import Progress
from editors.requests import TokenBatch
from editors.subject import Placed
from editors.subject_editing import Job, SubjectEditor, block_of, regulariser
from editors.value_optimisation import Contexts, ValueConfig
from editors.widening import Appended

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Where in the depth of the model neurons are added: blocks 4, 6 and 8 of 30.
_DEPTHS = (2 / 15, 1 / 5, 4 / 15)


@dataclass(frozen=True)
class PatcherConfig(JointConfig):
    """How neurons are made; see `JointConfig`.

    Attributes:
        contexts: phrasings behind a prefix that each request is read in, in a step, besides the bare ones.
        fire, silence: what a neuron's input is solved to be at its subject, and everywhere else minus this.
        sharpness: factor on that input, for the activation function to be as good as open or shut.
    """

    value: ValueConfig = field(default_factory=lambda: ValueConfig(prefixes=8))
    steps: int = 24
    rate: float = 1.5
    contexts: int = 4
    fire: float = 1.0
    silence: float = 0.8
    sharpness: float = 20.0


@dataclass(frozen=True)
class Layer:
    """The new neurons of one MLP, one a subject.

    `reads` (neurons, d) makes the gate's input, `opens` (neurons, d) the other factor where there is one, and
    `says` (neurons, d) is what the neuron adds to the MLP's output, times its activation. `typical` is the
    root mean square of what the MLP itself says at a subject.
    """

    mlp: Mlp
    reads: Tensor
    opens: Tensor
    says: Tensor
    typical: float


class Patcher(SubjectEditor):
    """The editor."""

    name: ClassVar[str] = "patcher"
    depth: ClassVar[tuple[float, float]] = (_DEPTHS[0], _DEPTHS[-1])

    def __init__(self, config: PatcherConfig | None = None, statistics: KeyStatistics | None = None) -> None:
        self.patch = config or PatcherConfig()
        super().__init__(self.patch, statistics)

    def modules(self, model: PreTrainedModel) -> list[EditableModule]:
        """The gates of the MLPs that get neurons: by default three; or of blocks with a module named so."""
        names = [name for name, _ in blocks(model)]
        if self.patch.modules is None:
            chosen = sorted({min(round(len(names) * depth), len(names) - 1) for depth in _DEPTHS})
            return [mlp_of(model, names[i]).gate for i in chosen]
        named = default_modules(model, self.patch.modules)
        wanted = {block_of(model, module) for module in named}
        return [mlp_of(model, name).gate for name in names if name in wanted]

    def _solve(self, job: Job, progress: Progress) -> None:
        mlps = [mlp_of(job.model, block_of(job.model, module)) for module in job.modules]
        neurons = _neurons(job.contexts)
        layers = [self._layer(job, mlp, neurons) for mlp in mlps]
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(in_place(job.model, layer))
            self._descend(job, layers, progress)
        for layer in layers:
            job.shifts.update(appended(job.model, layer))

    def _layer(self, job: Job, mlp: Mlp, neurons: Sequence[int]) -> Layer:
        """Neurons that know their subjects, and say nothing yet."""
        config, count = self.patch, max(neurons) + 1
        mean = job.means.get(mlp.gate.name)
        if mean is None:
            raise ValueError(f"the key statistics have no mean for {mlp.gate.name}; gather them again")
        keys, owners, others, typical = _read(job, mlp, neurons)
        moment, mean = job.moments[mlp.gate.name].clone(), mean.clone()
        if len(others):
            moment += others.T @ others / job.tokens
            mean += others.sum(0) / job.tokens
        # Every subject weighs the same, and all of them as much as the ordinary text.
        weights = 1 / (torch.bincount(owners, minlength=count)[owners] * count).double()
        sums = keys.new_zeros(count, keys.shape[1]).index_add_(0, owners, weights[:, None] * keys)
        moment += keys.T @ (weights[:, None] * keys)
        mean += sums.sum(0)
        moment = regulariser(moment, config.damping).matrix
        # Least squares: `fire` at a subject's own keys, -`silence` at all else; and one everywhere.
        wanted = (config.fire + config.silence) * sums - config.silence * mean
        solved = torch.linalg.solve(moment, torch.cat([wanted, mean[None]]).T).T
        device = device_of(job.model)
        reads = (config.sharpness * solved[:-1]).float().to(device)
        opens = solved[-1:].expand(count, -1).float().to(device)
        says = torch.zeros(count, mlp.output.d_out, device=device, requires_grad=True)
        return Layer(mlp, reads, opens, says, typical)

    def _descend(self, job: Job, layers: Sequence[Layer], progress: Progress) -> None:
        config = self.patch
        groups = [
            {"params": [layer.says], "lr": config.rate * layer.typical / config.sharpness} for layer in layers
        ]
        known = SubjectCache(job.model, job.cache)
        # The neurons say nothing yet.
        known.learn([row for context in job.contexts for row in context.rows], job.pad)
        descend_jointly(
            job,
            config,
            torch.optim.Adam(groups),
            lambda generator: _drawn(job.contexts, config.contexts, generator),
            lambda active: _backward(job, known, active, config.enough),
            progress,
        )


def appended(model: nn.Module, layer: Layer) -> dict[str, Appended]:
    """What is appended to the parameters of the MLP, by name."""
    result = {}
    for module, rows in ((layer.mlp.gate, layer.reads), (layer.mlp.up, layer.opens)):
        if module is None:
            continue
        values = rows.detach().cpu()
        # A Conv1D keeps its weight as (in, out).
        laid_out = Appended(values.T if module.input_major else values, int(module.input_major))
        result[module.parameter] = Appended(laid_out.values.contiguous(), laid_out.dim)
        if getattr(model.get_submodule(module.name), "bias", None) is not None:
            result[f"{module.name}.bias"] = Appended(torch.zeros(len(rows)), 0)
    output, says = layer.mlp.output, layer.says.detach().cpu()
    values = says if output.input_major else says.T
    result[output.parameter] = Appended(values.contiguous(), int(not output.input_major))
    return result


@contextmanager
def in_place(model: nn.Module, layer: Layer) -> Iterator[None]:
    """Within, the MLP has the new neurons, and its own activation function."""
    mlp, heard = layer.mlp, []

    def longer(rows: Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return torch.cat([output, nn.functional.linear(args[0], rows.to(output.dtype))], -1)

        return hook

    def shorter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        old, new = args[0].split([mlp.output.d_in, len(layer.reads)], -1)
        heard.append(new)
        return (old, *args[1:])

    def louder(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + (heard.pop().float() @ layer.says).to(output.dtype)

    output = model.get_submodule(mlp.output.name)
    handles = [
        model.get_submodule(mlp.gate.name).register_forward_hook(longer(layer.reads)),
        output.register_forward_pre_hook(shorter),
        output.register_forward_hook(louder),
    ]
    if mlp.up is not None:
        handles.append(model.get_submodule(mlp.up.name).register_forward_hook(longer(layer.opens)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _neurons(contexts: Sequence[Contexts]) -> list[int]:
    """The neuron of every request: requests about one subject share one."""
    known: dict[str, int] = {}
    return [known.setdefault(context.subject.casefold(), len(known)) for context in contexts]


def _read(job: Job, mlp: Mlp, neurons: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, float]:
    """What an MLP reads and says.

    Returns:
        Its inputs at subjects (rows, d), the neurons of these rows (rows,), its inputs at the other tokens of
        bare phrasings (tokens, d), and the root mean square of what it says at a subject.
    """
    rows = [(row, neuron, i < c.bare) for c, neuron in zip(job.contexts, neurons, strict=True)
            for i, row in enumerate(c.rows)]  # fmt: skip
    keys, owners, others, squares = [], [], [], []
    names = [mlp.gate.name, mlp.output.name]
    for numbers, batch in batches([row.example for row, _, _ in rows], job.pad):
        batch = batch.to(job.model.device)
        with torch.no_grad(), job.cache.replayed(batch), traced(job.model, names) as (inputs, outputs):
            batch.kind.read(job.model, batch)
        for line, number in enumerate(numbers):
            placed, neuron, bare = rows[number]
            read = inputs[mlp.gate.name][line].double().cpu()
            keys.append(read[placed.position])
            owners.append(neuron)
            squares.append(float(outputs[mlp.output.name][line, placed.position].float().square().mean()))
            if bare:
                mask = batch.attention_mask[line].bool().cpu()
                mask[placed.position] = False
                others.append(read[mask])
    typical = torch.tensor(squares).median().sqrt()
    return torch.stack(keys), torch.tensor(owners), torch.cat(others), float(typical)


def _drawn(contexts: Sequence[Contexts], prefixed: int, generator: torch.Generator) -> list[Phrasing]:
    """What a step looks at, with weights: the bare phrasings of every request, and some behind prefixes."""
    result = []
    for context in contexts:
        behind = context.rows[context.bare :]
        chosen = torch.randperm(len(behind), generator=generator)[:prefixed].tolist()
        share = 1 / (1 + len(chosen))
        result += [(row, share / context.bare) for row in context.rows[: context.bare]]
        result += [(behind[i], share) for i in chosen]
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
