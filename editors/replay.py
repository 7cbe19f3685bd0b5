"""Run only the upper part of a model.

The blocks below the lowest edited one never change, so their output is computed once for an example and
replayed.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from editors.capture import device_of
from editors.locate import EditableModule, stacks
from editors.requests import TokenBatch

# Some thousands of short prompts; batches of more corrections must not need more memory.
LIMIT = 2**28


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
        modules: the modules that are edited; blocks below all uses of their parameters are skipped.
        limit: most bytes to keep; what comes after is computed each time.
    """

    def __init__(self, model: nn.Module, modules: Sequence[EditableModule], limit: int = LIMIT) -> None:
        lists = stacks(model)
        # A decoder's blocks read an encoder that may be edited, and some blocks hand on more than a hidden
        # state: only a single stack is skipped.
        names = [name for name, _ in lists[0]] if len(lists) == 1 else []
        edited = {id(model.get_parameter(module.parameter)) for module in modules}
        # By every name, for a parameter may be shared: a tied output head is what the lowest block reads.
        used = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in edited]
        lowest = min((_place(names, name) for name in used), default=0)
        self.model = model
        self.below = names[:lowest]
        self._rows: dict[tuple[int, ...], Tensor] = {}
        self._left = limit

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
        outputs = self._outputs(batch, keys)
        hidden = _padded([outputs[key] for key in keys], batch.input_ids.shape[1])
        with replaced(self.model, self.below, hidden, as_tuple=self._tuple_output):
            yield

    def _outputs(self, batch: TokenBatch, keys: list[tuple[int, ...]]) -> Mapping[tuple[int, ...], Tensor]:
        """Outputs (tokens, hidden) of the rows of a batch, those computed now among them."""
        missing = sorted({row for row, key in enumerate(keys) if key not in self._rows})
        if not missing:
            return self._rows
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
        computed = {keys[row]: hidden[i, : len(keys[row])].clone() for i, row in enumerate(missing)}
        for key, output in computed.items():
            size = output.numel() * output.element_size()
            if size <= self._left:
                self._rows[key] = output
                self._left -= size
        return ChainMap(computed, self._rows)


@contextmanager
def replaced(
    model: nn.Module, below: Sequence[str], hidden: Tensor | None, *, as_tuple: bool
) -> Iterator[None]:
    """Within, the blocks `below` are not run, and the last of them says `hidden`."""
    parents = [(model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in below]
    originals = [parent.get_submodule(child) for parent, child in parents]
    try:
        for (parent, child), original in zip(parents, originals, strict=True):
            stand_in = _Replay(original)
            stand_in.__dict__["tuple_output"] = as_tuple
            setattr(parent, child, stand_in)
            stand_in.hidden = hidden
        yield
    finally:
        for (parent, child), original in zip(parents, originals, strict=True):
            setattr(parent, child, original)


def _place(blocks: Sequence[str], parameter: str) -> int:
    """Which of the blocks a parameter is in; 0 where it is in none, for it may be below them all."""
    return next((i for i, name in enumerate(blocks) if parameter.startswith(f"{name}.")), 0)


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows (tokens, hidden) of unequal length as one tensor (rows, length, hidden)."""
    hidden = rows[0].new_zeros(len(rows), length, rows[0].shape[1])
    for place, row in zip(hidden, rows, strict=True):
        place[: len(row)] = row
    return hidden
