"""Run only the upper part of a model.

The blocks below the lowest edited one never change, so their output is computed once for an example and
replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from editors.capture import device_of
from editors.locate import EditableModule, stacks
from editors.requests import TokenBatch


class _Replay(nn.Module):
    """Stands in for a block: hands on what it was given, or what was recorded."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        # Some models read attributes of a block, such as its kind of attention, before they call it.
        self.__dict__["_block"] = block
        self.hidden: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"], name)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        hidden = hidden_states if self.hidden is None else self.hidden
        return (hidden,) if self.__dict__.get("tuple_output") else hidden


class PrefixCache:
    """Outputs of the last block below all edited modules, kept for each example.

    Args:
        modules: the modules whose inputs and outputs are wanted; blocks below the lowest are skipped.
    """

    def __init__(self, model: nn.Module, modules: Sequence[EditableModule]) -> None:
        lists = stacks(model)
        # A decoder's blocks read an encoder that may be edited, and some blocks hand on more than a hidden
        # state: only a single stack is skipped.
        names = [name for name, _ in lists[0]] if len(lists) == 1 else []
        lowest = min(
            (i for i, name in enumerate(names) for m in modules if m.name.startswith(f"{name}.")), default=0
        )
        self.model = model
        self.below = names[:lowest]
        self._rows: dict[tuple[int, ...], Tensor] = {}

    @contextmanager
    def replayed(self, batch: TokenBatch) -> Iterator[None]:
        """Within, the model run on `batch` skips the blocks below; new rows are computed first."""
        if not self.below:
            yield
            return
        keys = [
            tuple(ids[: int(n)].tolist())
            for ids, n in zip(batch.input_ids, batch.attention_mask.sum(1), strict=True)
        ]
        self._fill(batch, keys)
        hidden = self._padded(keys, batch.input_ids.shape[1])
        parents = [(self.model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in self.below]
        originals = [parent.get_submodule(child) for parent, child in parents]
        try:
            for (parent, child), original in zip(parents, originals, strict=True):
                stand_in = _Replay(original)
                stand_in.__dict__["tuple_output"] = self._tuple_output
                setattr(parent, child, stand_in)
            stand_in.hidden = hidden
            yield
        finally:
            for (parent, child), original in zip(parents, originals, strict=True):
                setattr(parent, child, original)

    def _fill(self, batch: TokenBatch, keys: list[tuple[int, ...]]) -> None:
        missing = sorted({row for row, key in enumerate(keys) if key not in self._rows})
        if not missing:
            return
        recorded: list[Any] = []

        class _ReachedError(Exception):
            pass

        def stop(_: nn.Module, __: Any, output: Any) -> None:
            recorded.append(output)
            raise _ReachedError

        handle = self.model.get_submodule(self.below[-1]).register_forward_hook(stop)
        length = int(batch.attention_mask[missing].sum(1).max())
        try:
            with torch.no_grad():
                batch.kind.read(self.model, batch.rows(missing, length).to(device_of(self.model)))
        except _ReachedError:
            pass
        finally:
            handle.remove()
        self._tuple_output = isinstance(recorded[0], tuple)
        hidden = recorded[0][0] if self._tuple_output else recorded[0]
        for index, row in enumerate(missing):
            self._rows[keys[row]] = hidden[index, : len(keys[row])].clone()

    def _padded(self, keys: list[tuple[int, ...]], length: int) -> Tensor:
        first = self._rows[keys[0]]
        hidden = first.new_zeros(len(keys), length, first.shape[1])
        for row, key in enumerate(keys):
            hidden[row, : len(key)] = self._rows[key]
        return hidden
