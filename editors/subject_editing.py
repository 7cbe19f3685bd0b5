"""What ROME, MEMIT and AlphaEdit share: subjects, contexts and key statistics in, one delta out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from editors.capture import OVERFLOWS, answer_loss, editing, frozen
from editors.delta import Delta
from editors.gather import encode_kept, restored, set_weight
from editors.key_statistics import KeyStatistics
from editors.locate import EditableModule, blocks, default_modules
from editors.model_kinds import CAUSAL, kind_of
from editors.protocol import Kept, Progress, configuration_digest, no_progress, provenance
from editors.replay import PrefixCache
from editors.requests import EditRequest, Example, collate, encode, pad_id
from editors.solve import Regulariser
from editors.subject import find_subjects
from editors.value_optimisation import (
    Contexts,
    ValueConfig,
    optimise_values,
    read_at_subjects,
    read_contexts,
    sample_prefixes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SubjectConfig:
    """What the three editors have in common.

    Attributes:
        modules: regular expression over module names; by default MLP outputs at the papers' depths.
        value: how values are optimised.
        kept_weight: weight of the second moment of prompts that must stay, against that of ordinary text.
        seed: of what is sampled from the model.
    """

    modules: str | None = None
    value: ValueConfig = field(default_factory=ValueConfig)
    kept_weight: float = 1.0
    seed: int = 0


@dataclass
class Job:
    """One call of `edit`: the model with what has been added to it, and how to read it."""

    model: PreTrainedModel
    modules: Sequence[EditableModule]
    moments: dict[str, Tensor]
    means: dict[str, Tensor]
    tokens: int
    contexts: Sequence[Contexts]
    pad: int
    cache: PrefixCache
    originals: Any
    shifts: dict[str, Any]
    kept: Sequence[Example]

    def add(self, module: EditableModule, shift: Tensor) -> None:
        """Add a shift (d_in, d_out) to a module, and remember it."""
        laid_out = module.shift_for_weight(shift).float().contiguous()
        total = self.shifts.get(module.parameter, torch.zeros_like(laid_out)) + laid_out
        if not torch.isfinite(total).all():
            raise ValueError(f"the shift of {module.parameter} is not finite; it cannot be applied")
        self.shifts[module.parameter] = total
        original = self.originals[module.parameter]
        set_weight(self.model, module.parameter, original, total.to(original.device))

    def read(self, site: str, contexts: Sequence[Contexts]) -> tuple[dict[str, Tensor], Tensor]:
        """Keys by module and outputs of `site` at the subjects, as the model now is."""
        return read_at_subjects(self.model, self.modules, site, contexts, self.pad, self.cache)

    def values(self, site: str, contexts: Sequence[Contexts], config: ValueConfig) -> Tensor:
        """Vectors (requests, d) to add to the output of `site`, as the model now is."""
        return optimise_values(self.model, site, contexts, config, self.pad, self.cache)

    def chunks(self, size: int) -> Iterator[Sequence[Contexts]]:
        """The contexts in their order, `size` requests at a time."""
        for start in range(0, len(self.contexts), size):
            yield self.contexts[start : start + size]


class SubjectEditor(ABC):
    """An editor that writes at the last token of each request's subject; it has no weights.

    Args:
        statistics: key statistics of the model to edit; without, each edit gathers them over the model's own
            writing, which takes longer than a few edits do.
    """

    name: ClassVar[str]
    depth: ClassVar[tuple[float, float]]
    config: SubjectConfig

    def __init__(self, config: SubjectConfig, statistics: KeyStatistics | None) -> None:
        self.config = config
        self.statistics = statistics

    def configuration(self) -> dict[str, Any]:
        """The configuration."""
        return {"config": asdict(self.config)}

    def digest(self) -> str:
        """SHA-256 over the configuration, and the key statistics where they were given."""
        moments = {} if self.statistics is None else dict(self.statistics.moments)
        return configuration_digest({"editor": self.name, **self.configuration()}, moments)

    def modules(self, model: PreTrainedModel) -> list[EditableModule]:
        """The modules that this editor changes in `model`."""
        return default_modules(model, self.config.modules, self.depth)

    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """One delta for all requests, equivalents that name the subject included; the model stays as it was.

        Raises:
            ValueError: a request's subject cannot be found; the model is not finite, or not decoder-only.
        """
        manifest = provenance(self)
        if not requests:
            return Delta({}, manifest)
        if kind_of(model) != CAUSAL:
            raise ValueError(
                f"{self.name} edits decoder-only language models; take another editor for this model"
            )
        subjects = find_subjects(requests)
        modules, pad = self.modules(model), pad_id(tokenizer)
        with editing(model), restored(model, modules) as originals, frozen(model):
            _check_finite(model, tokenizer, requests[0], pad)
            config, seed = self.config.value, self.config.seed
            prefixes = sample_prefixes(model, tokenizer, config, seed)
            job = Job(
                model,
                modules,
                *self._ordinary(model, tokenizer, modules, keep, pad),
                read_contexts(tokenizer, requests, subjects, prefixes),
                pad,
                PrefixCache(model, modules),
                originals,
                {},
                encode_kept(tokenizer, keep),
            )
            self._solve(job, progress)
        manifest["subjects"] = {r.id: subject for r, subject in zip(requests, subjects, strict=True)}
        delta = Delta(job.shifts, manifest)
        delta.check_finite()
        return delta

    @abstractmethod
    def _solve(self, job: Job, progress: Progress) -> None:
        """Add shifts to the modules until every request is met."""

    def _ordinary(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        modules: Sequence[EditableModule],
        keep: Sequence[Kept],
        pad: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        """C (d_in, d_in) and mean (d_in,) of every module's inputs, fp64: ordinary text, and what must stay.

        And over how many tokens of text.
        """
        text = self.statistics or KeyStatistics.gather(model, tokenizer, modules, seed=self.config.seed)
        moments = {m.name: text.of(m).double() for m in modules}
        means = {name: mean.double() for name, mean in text.means.items()}
        if keep:
            stay = KeyStatistics.over(model, modules, encode_kept(tokenizer, keep), pad)
            for name in moments:
                moments[name] += self.config.kept_weight * stay.moments[name].double()
            for name in means.keys() & moments.keys():
                means[name] += self.config.kept_weight * stay.means[name].double()
        return moments, means, text.tokens


def spread_residual(
    job: Job,
    config: ValueConfig,
    shift_for: Callable[[Tensor, Tensor, Tensor], Tensor],
    progress: Progress,
) -> None:
    """MEMIT's algorithm 1: values at the last edited block, reached by equal shares of every edited layer.

    `shift_for(keys, residual, C)` gives the shift (d_in, d_out) of one layer for keys (requests, d_in) and
    the changes of output (requests, d_out) that are wanted of them.

    Raises:
        ValueError: a module does not write to the residual stream.
    """
    site = block_of(job.model, job.modules[-1])
    total = len(job.contexts) + len(job.modules)
    wanted = []
    for chunk in job.chunks(config.chunk):
        wanted.append(job.values(site, chunk, config))
        progress(sum(map(len, wanted)), total, "values optimised")
    values = torch.cat(wanted).double()
    start = None
    for done, module in enumerate(job.modules):
        if module.d_out != values.shape[1]:
            raise ValueError(
                f"{module.name} does not write to the residual stream: name MLP output maps by `modules`"
            )
        # Read anew: what the layers below were given moves the keys and outputs of those above.
        keys, outputs = job.read(site, job.contexts)
        start = outputs if start is None else start
        residual = (values - (outputs - start).double()) / (len(job.modules) - done)
        job.add(module, shift_for(keys[module.name].double(), residual, job.moments[module.name]))
        progress(len(job.contexts) + done + 1, total, "solved")


def block_of(model: PreTrainedModel, module: EditableModule) -> str:
    """The name of the block that a module is part of; ValueError where it is part of none."""
    for name, _ in blocks(model):
        if module.name.startswith(f"{name}."):
            return name
    raise ValueError(f"{module.name} is not part of one of the model's blocks; name another by `modules`")


def regulariser(moment: Tensor, damping: float = 1e-3) -> Regulariser:
    """C + damping * mean(diag C) * I, which can be inverted.

    Raises:
        ValueError: it is not finite.
    """
    if not torch.isfinite(moment).all():
        raise ValueError("the key statistics are not finite; gather them again")
    return Regulariser.damped(moment, damping)


def _check_finite(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: EditRequest, pad: int
) -> None:
    # Sampling from such a model fails with words of its own.
    batch = collate([encode(tokenizer, request.prompt, request.target, chat=request.chat)], pad)
    with torch.no_grad():
        if not torch.isfinite(answer_loss(model, batch.to(model.device))):
            raise ValueError(f"the loss of an edit is not finite: {OVERFLOWS}")
