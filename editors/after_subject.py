"""Run a decoder-only model from each prompt's subject on, where nothing before the subject ever changes.

What is written at a subject cannot be seen by the tokens before it. Their keys and values are computed once
for an example, and so is the output of the blocks below the lowest edited one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.behind import keeps_all
from editors.gather import batches
from editors.model_kinds import answer_logits_only
from editors.protocol import Progress, no_progress
from editors.replay import PrefixCache, replaced
from editors.requests import TokenBatch
from editors.subject import Placed

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# About five thousand short prompts of a small model; those that come after are run whole.
LIMIT = 2**32


@dataclass(frozen=True)
class _Remembered:
    """Of one example: keys and values (layers, 2, heads, tokens, d) before its subject; and what comes after.

    `hidden` (tokens, d) is the output of the last block below the edited ones; None where there is none.
    """

    before: Tensor
    hidden: Tensor | None


class SubjectCache:
    """What the model computes before the subjects and below the modules that are edited.

    Args:
        model: a decoder-only model; what is edited must speak at subjects only.
        cache: knows which blocks are below the edited ones.
        limit: most bytes to keep.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: PrefixCache,
        limit: int = LIMIT,
    ) -> None:
        self.model, self.cache = model, cache
        self._rows: dict[Placed, _Remembered] = {}
        # Many examples begin alike: with an opening that all requests are read behind, or with nothing.
        self._beginnings: dict[tuple[int, ...], Tensor] = {}
        self._left = limit

    def learn(self, rows: Sequence[Placed], pad: int, progress: Progress = no_progress) -> None:
        """Read rows that are not known yet, with nothing edited; those that no longer fit are left out.

        So are all of a model that does not keep the keys and values of every token.
        """
        new = [row for row in dict.fromkeys(rows) if row not in self._rows]
        done = 0
        for numbers, batch in batches([row.example for row in new], pad):
            if self._left <= 0:
                return
            self._read([new[i] for i in numbers], batch.to(self.model.device))
            done += len(numbers)
            progress(done, len(new), "phrasings read")

    def knows(self, row: Placed) -> bool:
        """Whether a row can be run from its subject on."""
        return row in self._rows

    def logits(self, rows: Sequence[Placed], batch: TokenBatch) -> Tensor:
        """Logits at the answers of rows that are known, fp32: (answer tokens, vocabulary).

        `batch` are the same rows, collated.
        """
        batch = batch.to(self.model.device)
        device, known = self.model.device, [self._rows[row] for row in rows]
        starts = torch.tensor([row.position for row in rows], device=device)
        lengths = batch.attention_mask.sum(1)
        past, width = int(starts.max().clamp_min(1)), int((lengths - starts).max())
        steps = torch.arange(width, device=device)
        positions = starts[:, None] + steps
        inside = positions < lengths[:, None]
        positions = positions.clamp_max(int(lengths.max()) - 1)
        # Keys and values end where the subject begins, so that padding comes first.
        behind = torch.arange(past, device=device) >= past - starts[:, None]
        hidden = None
        if known[0].hidden is not None:
            after = [one.hidden for one in known if one.hidden is not None]
            hidden = nn.utils.rnn.pad_sequence(after, batch_first=True)
        with (
            answer_logits_only(self.model, batch.answer_mask.gather(1, positions) & inside),
            replaced(self.model, self.cache.below, hidden, as_tuple=self._as_tuple),
        ):
            said = self.model(
                input_ids=batch.input_ids.gather(1, positions),
                attention_mask=torch.cat([behind, inside], 1).long(),
                position_ids=positions,
                past_key_values=_past([one.before for one in known], past),
                use_cache=True,
            )
        return said.logits[0].float()

    def _read(self, rows: Sequence[Placed], batch: TokenBatch) -> None:
        below: list[Tensor] = []
        with torch.no_grad(), self._heard(below):
            body = getattr(self.model, "base_model", self.model)
            read = body(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=True)
        kept: Any = getattr(read, "past_key_values", None)
        if not keeps_all(kept):
            self._left = 0
            return
        layers = [torch.stack([layer.keys, layer.values]) for layer in kept.layers]
        whole = torch.stack(layers)  # (layers, 2, rows, heads, tokens, d)
        for i, row in enumerate(rows):
            length = int(batch.attention_mask[i].sum())
            beginning = tuple(batch.input_ids[i, : row.position].tolist())
            known = self._beginnings.get(beginning)
            before = whole[:, :, i, :, : row.position].clone() if known is None else known
            hidden = below[0][i, row.position : length].clone() if below else None
            size = (before.nbytes if known is None else 0) + (0 if hidden is None else hidden.nbytes)
            if size > self._left:
                self._left = 0
                return
            self._left -= size
            self._beginnings[beginning] = before
            self._rows[row] = _Remembered(before, hidden)

    @contextmanager
    def _heard(self, outputs: list[Tensor]) -> Iterator[None]:
        """Within, the output of the last block below goes to the list."""
        self._as_tuple = False
        if not self.cache.below:
            yield
            return

        def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            self._as_tuple = isinstance(output, tuple)
            outputs.append(output[0] if isinstance(output, tuple) else output)

        handle = self.model.get_submodule(self.cache.below[-1]).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _past(rows: Sequence[Tensor], length: int) -> DynamicCache:
    """Keys and values of examples as a cache of the model's, padded at the front to `length`."""
    from transformers import DynamicCache

    layers, two, heads, _, size = rows[0].shape
    padded = rows[0].new_zeros(layers, two, len(rows), heads, length, size)
    for i, row in enumerate(rows):
        if row.shape[3]:
            padded[:, :, i, :, -row.shape[3] :] = row
    cache = DynamicCache()
    for number, (keys, values) in enumerate(padded):
        cache.update(keys, values, number)
    return cache
