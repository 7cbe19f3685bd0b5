"""UltraEdit: normalised gradients and ridge least squares; nothing is trained.

Gu et al., "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models" (2025). Every
run of corrections is solved from the base in one turn, so the statistics are those of the present
corrections. It is the editor that any trained one has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editors.capture import Captured, device_of, editing
from editors.delta import Delta
from editors.gather import captures, encode_requests
from editors.locate import EditableModule, default_modules
from editors.model_kinds import kind_of
from editors.normaliser import RunningMoments
from editors.protocol import Kept, Progress, WeightlessEditor, no_progress, provenance
from editors.replay import PrefixCache
from editors.requests import EditRequest, pad_id
from editors.second_moment import LowRank
from editors.solve import NormalEquations

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Published for 28 to 62 blocks: nine or so in the last third, and never the last one.
DEPTH = (9 / 14, 27 / 28)


@dataclass(frozen=True)
class UltraEditConfig:
    """How UltraEdit is done.

    Attributes:
        modules: regular expression over module names; by default MLP outputs of the last third of the
            blocks, without the last.
        rate: size c of a value change in the units of the output, for normalised rows: eta = c / d_in. The
            published eta, 1e-6, is c = 0.0143 for inputs of 14,336. Of 20 corrections of a model of 135
            million parameters, c = 0.15 took none, 0.5 took 5, and 1.5 took 12 but kept nothing else.
        strength: weight lambda of the identity in the solve.
    """

    modules: str | None = None
    rate: float = 0.5
    strength: float = 1.0


class UltraEdit(WeightlessEditor):
    """The editor; it has no weights of its own."""

    name = "ultraedit"

    def __init__(self, config: UltraEditConfig | None = None) -> None:
        self.config = config or UltraEditConfig()

    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),  # noqa: ARG002
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """One delta for all requests together, equivalents included; the model is left as it was.

        UltraEdit has no use for `keep`.
        """
        manifest = provenance(self)
        if not requests:
            return Delta({}, manifest)
        modules = default_modules(model, self.config.modules, DEPTH)
        examples, pad = encode_requests(tokenizer, requests, kind_of(model)), pad_id(tokenizer)
        cache, device = PrefixCache(model, modules), device_of(model)
        scales = {(m.d_in, m.d_out): _Scale.of(m, device) for m in modules}
        equations = {m.name: NormalEquations(m.d_in, m.d_out, device) for m in modules}
        with editing(model):
            # Statistics first, values after: captured twice, so that no number of corrections fills memory.
            for captured in captures(model, modules, examples, pad, cache):
                for module in modules:
                    scales[module.d_in, module.d_out].observe(module, captured[module.name])
            for captured in captures(model, modules, examples, pad, cache):
                for module in modules:
                    values = self._values(captured[module.name], scales[module.d_in, module.d_out])
                    equations[module.name].add(captured[module.name].keys, values)
        shifts = {}
        for done, module in enumerate(modules):
            strength = torch.tensor(self.config.strength, device=device)
            identity = LowRank(torch.zeros(module.d_in, 0, device=device), torch.ones((), device=device))
            shift = equations[module.name].solve(identity, strength)
            shifts[module.parameter] = module.shift_for_weight(shift).contiguous()
            progress(done + 1, len(modules), "solved")
        delta = Delta(shifts, manifest)
        delta.check_finite()
        return delta

    def _values(self, captured: Captured, scale: _Scale) -> Tensor:
        """Wanted output changes (tokens, d_out): v_i = -eta * |u^_i|^2 * d^_i, with eta = rate / d_in.

        u^ and d^ are the key and the gradient, normalised over all tokens of all matrices of one shape.
        """
        if scale.alone:
            # Of a single token the mean is the token itself, and normalising would leave nothing of it.
            keys, gradients = _of_unit_size(captured.keys), _of_unit_size(captured.gradients)
        else:
            keys, gradients = scale.keys(captured.keys), scale.gradients(captured.gradients)
        return -self.config.rate * keys.square().mean(1, keepdim=True) * gradients


@dataclass
class _Scale:
    """Mean and deviation of keys and gradients, over the tokens of all matrices of one shape."""

    keys: RunningMoments
    gradients: RunningMoments
    matrices: set[str]

    @classmethod
    def of(cls, module: EditableModule, device: torch.device) -> _Scale:
        return cls(RunningMoments(module.d_in, device), RunningMoments(module.d_out, device), set())

    def observe(self, module: EditableModule, captured: Captured) -> None:
        self.matrices.add(module.name)
        self.keys.update(captured.keys)
        self.gradients.update(captured.gradients)

    @property
    def alone(self) -> bool:
        """Whether every matrix has seen one token only."""
        return int(self.keys.count) <= len(self.matrices)


def _of_unit_size(rows: Tensor) -> Tensor:
    """Rows with a root mean square of one; a row of zeros stays one."""
    return rows / rows.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
