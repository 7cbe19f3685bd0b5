"""Texts that a decoder-only model reads in parts, each attending to those before it.

The opening that all prompts of a batch share, a chat template's system turn, need be read but once. And an
edit looks at answers only: by causality no gradient at an answer comes from a prompt, so a prompt is read
without one, and the backward pass is over the few tokens of the answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.model_kinds import IGNORED_LABEL, ModelKind, TokenBatch

if TYPE_CHECKING:
    from transformers import DynamicCache

# Below this many tokens a second forward pass costs more than it saves.
SHORTEST_OPENING = 8


@dataclass(frozen=True)
class Behind(ModelKind):
    """What follows texts that a model has read: it attends to them, and can be run once.

    Attributes:
        past: keys and values of what was read; the run adds its own.
        attended: (batch, tokens read) int, 0 at padding.
    """

    past: DynamicCache
    attended: Tensor

    def arguments(self, batch: TokenBatch) -> dict[str, Any]:
        """What the model is called with."""
        attended = torch.cat([self.attended, batch.attention_mask], 1)
        positions = (attended.cumsum(1) - 1).clamp_min(0)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": attended,
            "position_ids": positions[:, self.attended.shape[1] :],
            "past_key_values": self.past,
            "use_cache": True,
        }


@dataclass(frozen=True)
class Part:
    """Some tokens of each row of a batch, and their `places` (rows, tokens) in it."""

    batch: TokenBatch
    places: Tensor


class PartReader:
    """Reads a batch in parts, from front to back.

    Args:
        batch: right-padded.
        past: where the model keeps what it reads.
        run: runs the model on a part.
    """

    def __init__(self, batch: TokenBatch, past: DynamicCache, run: Callable[[Part], None]) -> None:
        self._batch, self._past, self._run = batch, past, run
        self._attended = batch.attention_mask[:, :0]
        self._read = torch.zeros_like(batch.attention_mask[:, 0])

    def read_opening(self, length: int) -> None:
        """Read the first tokens, which all rows share, once for all."""
        one = replace(
            self._batch,
            **{name: getattr(self._batch, name)[:1] for name in ("input_ids", "attention_mask", "labels")},
        )
        self._run(self._part(one, self._read[:1], self._read[:1] + length, self._attended[:1]))
        self._past.batch_repeat_interleave(len(self._read))
        self._attended = self._batch.attention_mask[:, :length]
        self._read = self._read + length

    def read_until(self, ends: Tensor) -> None:
        """Read what comes before the places `ends` (rows,)."""
        part = self._part(self._batch, self._read, ends, self._attended)
        if not part.places.numel():
            return
        self._run(part)
        # Padding goes to the front: some models take places in what they keep for distances.
        attended = torch.cat([self._attended, part.batch.attention_mask], 1)
        length = attended.shape[1]
        places = torch.arange(length, device=ends.device) - (length - attended.sum(1))[:, None]
        order = places.remainder(length)
        for layer in self._past.layers:
            if layer.is_initialized:
                at = order[:, None, :, None]
                layer.keys = layer.keys.take_along_dim(at, 2)
                layer.values = layer.values.take_along_dim(at, 2)
        self._attended = (places >= 0).long()
        self._read = ends

    def rest(self) -> Part:
        """What has not been read."""
        return self._part(self._batch, self._read, self._batch.attention_mask.sum(1), self._attended)

    def _part(self, batch: TokenBatch, starts: Tensor, ends: Tensor, attended: Tensor) -> Part:
        """Tokens from `starts` to `ends`, and padding behind them."""
        places = starts[:, None] + torch.arange(int((ends - starts).max()), device=starts.device)
        inside = places < ends[:, None]
        places = places.clamp_max(batch.input_ids.shape[1] - 1)
        labels = batch.labels.gather(1, places).masked_fill(~inside, IGNORED_LABEL)
        kind = Behind(self._past, attended)
        return Part(TokenBatch(batch.input_ids.gather(1, places), inside.long(), labels, kind), places)


def reads_in_parts(model: nn.Module) -> bool:
    """Whether a model can read texts in parts, and gives what it gives for the whole.

    What it keeps has to be the keys and values of every token, and its positions those that it is told,
    counted from 0: some count padding, and some begin behind the token to pad with.
    """
    from transformers import DynamicCache

    config, taken = getattr(model, "config", None), inspect.signature(model.forward).parameters
    if config is None or not {"past_key_values", "position_ids"} <= taken.keys():
        return False
    try:
        kept = DynamicCache(config=config)
    except (KeyError, AttributeError):
        return False
    return keeps_all(kept) and not _counts_past_padding(model)


def _counts_past_padding(model: nn.Module) -> bool:
    """Whether positions begin behind the token to pad with (RoBERTa's)."""
    return any(
        "position" in name and isinstance(module, nn.Embedding) and module.padding_idx is not None
        for name, module in model.named_modules()
    )


def keeps_all(cache: Any) -> bool:
    """Whether what a model keeps of tokens is the keys and values of each, of all layers.

    Not so with layers that attend to a sliding window, or carry a recurrent state.
    """
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))


def shared_opening(rows: Sequence[Any], most: int | None = None) -> int:
    """How many tokens all rows begin with, of `most`; 0 where reading them once would not pay.

    `most` leaves by default a token of the shortest row.
    """
    if len(rows) < 2:
        return 0
    end = min(map(len, rows)) - 1 if most is None else most
    # What is between them in this order begins with all that these two share.
    first, last = min(rows), max(rows)
    length = next((place for place in range(end) if first[place] != last[place]), end)
    return length if length >= SHORTEST_OPENING else 0


def fill_skipped(past: DynamicCache, skipped: int) -> None:
    """Have the layers of the first `skipped` blocks, which are not run, say how much was read.

    Models ask the first layer how long a text is.
    """
    keys = past.layers[skipped].keys
    blank = keys.new_zeros(len(keys), 1, keys.shape[-2], 1)
    for layer in past.layers[:skipped]:
        layer.lazy_initialization(blank, blank)
        layer.keys = layer.values = blank
