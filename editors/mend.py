"""MEND: a hypernetwork turns each token's share of the fine-tuning gradient into a better rank-one shift.

Mitchell et al., "Fast Model Editing at Scale" (ICLR 2022), section 3. The loss of an edit is a sum over its
answer tokens instead of a mean, and the rate depends on the number of corrections, so that one editor serves
batches of any size. The sign is that of the paper: a positive rate descends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from editors.capture import Captured, device_of, editing
from editors.delta import Delta
from editors.gather import BATCH, captures, encode_requests
from editors.hypereditor import HyperConfig, HyperEditor, Proposal, Rows
from editors.locate import EditableModule, mlp_matrices
from editors.model_kinds import kind_of
from editors.protocol import Kept, Progress, no_progress
from editors.requests import EditRequest, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rows that go through the network together, which bounds its memory.
CHUNK = 1024


@dataclass(frozen=True)
class MendConfig(HyperConfig):
    """How a MEND editor is built.

    Attributes:
        modules: regular expression over module names; by default both MLP matrices of the last three blocks.
        rank: of the hypernetwork's low-rank maps.
        depth: its number of blocks.
        rate: how far a token's rank-one product moves its own output at first, as a share of what the matrix
            puts out.
        normalise: whether the network sees keys and gradients with zero mean and unit variance.
        tokens: where rows are captured: at every token, as published, or where the answer is predicted.
        seed: of the initial weights.
    """

    modules: str | None = None
    rank: int = 256
    depth: int = 2
    rate: float = 0.01
    normalise: bool = True
    tokens: Literal["all", "answer"] = "all"
    seed: int = 0


class Mend(HyperEditor):
    """The editor: hypernetworks by shape of matrix, and a rate for every matrix."""

    name = "mend"
    config: MendConfig
    config_class = MendConfig
    rates_tried = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)
    modules_for = staticmethod(mlp_matrices)

    @property
    def all_tokens(self) -> bool:
        """Whether rows are captured at every token, or only where a token of the answer is predicted."""
        return self.config.tokens == "all"

    def rate(self, module: EditableModule, n: int) -> Tensor:
        """Factor on the sum of rank-one products when `n` corrections are made together."""
        # A product of normalised factors moves the output of its own key by the learned rate, on average:
        # |u^|^2 is d_in, and the output of a key of size one is |W| / sqrt(d_out).
        return self.learned_rate(module.name, n) / (module.d_in * module.d_out**0.5)

    def observe(self, captured: Mapping[str, Captured]) -> None:
        """Merge captured rows that carry a gradient into the normalisers."""
        super().observe({name: _carrying(rows) for name, rows in captured.items()})

    def factors(self, module: EditableModule, captured: Captured) -> Iterator[tuple[Tensor, Tensor]]:
        """Pseudo-keys (tokens, d_in), and pseudo-gradients (tokens, d_out) by weight, a chunk at a time."""
        rows = _carrying(captured)
        network, member = self.network(module)
        key_moments, gradient_moments = self.moments(module)
        parts = (tensor.split(CHUNK) for tensor in (rows.keys, rows.gradients, _weights(rows)))
        for keys, gradients, weights in zip(*parts, strict=True):
            if self.config.normalise:
                keys, gradients = key_moments(keys), gradient_moments(gradients)
            keys, gradients = network(torch.cat([keys, gradients], dim=1), member)
            yield keys, gradients * weights[:, None]

    def propose(self, rows: Rows, n: int) -> Proposal:
        """Sums of rank-one products, S = -rate * sum_i u~_i d~_i', and their gradient.

        The rows of a correction weigh 1 together, however many phrasings it has: said in five ways, it asks
        for no more than said in one.

        A gradient G = dL/dS gives dL/du~_i = -rate * G d~_i and dL/dd~_i = -rate * G' u~_i: it needs one row
        at a time, so the rows are gone through again and none is kept.
        """
        shifts = {m.name: self.log_rate.new_zeros(m.d_in, m.d_out) for m in self.modules_edited}
        with torch.no_grad():
            for captured in rows():
                for module in self.modules_edited:
                    for keys, gradients in self.factors(module, captured[module.name]):
                        shifts[module.name] -= self.rate(module, n) * (keys.T @ gradients)

        def backward(by_shift: Mapping[str, Tensor]) -> None:
            for captured in rows():
                for module in self.modules_edited:
                    for keys, gradients in self.factors(module, captured[module.name]):
                        # <G, S> of these rows, whose derivatives are those above.
                        product = (keys @ by_shift[module.name] * gradients).sum()
                        (-self.rate(module, n) * product).backward()

        return Proposal(shifts, backward)

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

        MEND learns in training what must stay, and takes no notice of `keep`.
        """
        examples, pad = encode_requests(tokenizer, requests, kind_of(model)), pad_id(tokenizer)
        phrasings = [1 + len(request.equivalents) for request in requests]
        weights = [1 / count for count in phrasings for _ in range(count)]

        def rows() -> Iterator[dict[str, Captured]]:
            total = -(-len(examples) // BATCH)
            parts = captures(
                model, self.modules_edited, examples, pad, all_tokens=self.all_tokens, weights=weights
            )
            for done, part in enumerate(parts):
                yield part
                progress(min(done + 1, total), total, "captured")

        if not requests:
            return self.delta({})
        self.to(device_of(model))
        with editing(model):
            proposed = self.propose(rows, len(requests)).shifts
        return self.delta({m.parameter: m.shift_for_weight(proposed[m.name]) for m in self.modules_edited})


def _carrying(rows: Captured) -> Captured:
    """The rows that add to the gradient: padding does not, nor the prompt in the last block."""
    carrying = rows.keys.any(1) & rows.gradients.any(1)
    return Captured(rows.keys[carrying], rows.gradients[carrying], weights=_weights(rows)[carrying])


def _weights(rows: Captured) -> Tensor:
    """How much each row counts."""
    return rows.gradients.new_ones(len(rows.gradients)) if rows.weights is None else rows.weights
