"""Run a model on what may have changed only.

The blocks below the lowest edited one never change, so their output is computed once for an example and
replayed; and a batch can be read in parts, so that what its prompts share is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.behind import Part, PartReader, fill_skipped, reads_in_parts, shared_opening
from editors.capture import device_of, run_ends_at
from editors.locate import EditableModule, stacks
from editors.model_kinds import CAUSAL, TokenBatch

if TYPE_CHECKING:
    from transformers import DynamicCache

# Some thousands of short prompts; batches of more corrections must not need more memory.
LIMIT = 2**28
# Most bytes of keys and values of a batch that is read in parts.
PAST_LIMIT = 2**30


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
    """Outputs of the last block below all edited modules, kept for each example; and reading in parts.

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
        self._above = len(names) - lowest
        self._in_parts = reads_in_parts(model) and len(names) == len(_empty_past(model).layers)
        self._rows: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
        # Kept once: what many examples begin with.
        self._openings: dict[tuple[int, ...], Tensor] = {}
        self._left = limit
        self._tuple_output = False

    @contextmanager
    def replayed(self, batch: TokenBatch) -> Iterator[TokenBatch]:
        """Within, the model run on `batch` skips the blocks below; new rows are computed first."""
        with self._handed_on(self._hidden(batch)):
            yield batch

    @contextmanager
    def in_parts(self, batch: TokenBatch, *, prompts_first: bool) -> Iterator[TokenBatch]:
        """Within, one run of the model on the batch that is yielded stands for a run on `batch`.

        What all rows begin with has been read once for all, and the blocks below are skipped. With
        `prompts_first` the prompts have been read too, without gradients, and only answers are left; else
        there must be no use for gradients. Where the model cannot read in parts the batch is the whole one.
        """
        batch = batch.to(device_of(self.model))
        hidden, answers = self._hidden(batch), batch.answer_mask.int().argmax(1)
        opening = shared_opening(_token_ids(batch), int(answers.min()))
        if not self._can_part(batch, self._above) or not (opening or prompts_first):
            with self._handed_on(hidden):
                yield batch
            return
        past = _empty_past(self.model)

        def handed_on(part: Part) -> AbstractContextManager[None]:
            if hidden is None:
                return nullcontext()
            places = part.places.to(hidden.device)
            return self._handed_on(hidden[torch.arange(len(places), device=hidden.device)[:, None], places])

        def run(part: Part) -> None:
            with torch.no_grad(), handed_on(part):
                part.batch.kind.read(self.model, part.batch)
            fill_skipped(past, len(self.below))

        reader = PartReader(batch, past, run)
        try:
            if opening:
                reader.read_opening(opening)
            if prompts_first:
                reader.read_until(answers)
            rest = reader.rest()
            with handed_on(rest):
                yield rest.batch
        finally:
            # Whoever still holds the batch holds neither its keys and values nor the graph behind them.
            past.layers.clear()

    def _can_part(self, batch: TokenBatch, blocks: int) -> bool:
        """Whether a batch can be read in parts, and so many blocks may keep keys and values of it."""
        if not self._in_parts or batch.kind != CAUSAL:
            return False
        model: Any = self.model
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        width = 2 * blocks * (getattr(config, "num_key_value_heads", None) or heads) * size
        return batch.input_ids.numel() * width * next(self.model.parameters()).element_size() <= PAST_LIMIT

    def _handed_on(self, hidden: Tensor | None) -> AbstractContextManager[None]:
        """Within, the blocks below are not run, and `hidden` is handed on to those above."""
        if hidden is None:
            return nullcontext()
        return replaced(self.model, self.below, hidden, as_tuple=self._tuple_output)

    def _hidden(self, batch: TokenBatch) -> Tensor | None:
        """Outputs of the blocks below (rows, tokens, hidden), 0 at padding; None where there are no such."""
        if not self.below:
            return None
        rows = _token_ids(batch)
        computed = self._compute(batch, rows)
        pieces = [computed[row] if row in computed else self._rows[row] for row in rows]
        outputs = [torch.cat(piece) if len(piece) > 1 else piece[0] for piece in pieces]
        return nn.utils.rnn.pad_sequence(outputs, batch_first=True)

    def _compute(
        self, batch: TokenBatch, rows: Sequence[tuple[int, ...]]
    ) -> Mapping[tuple[int, ...], tuple[Tensor, ...]]:
        """Outputs of rows that are not kept yet, in a piece or two; they are kept while there is room."""
        missing = [n for n, row in enumerate(rows) if row not in self._rows and row not in rows[:n]]
        if not missing:
            return {}
        new = [rows[n] for n in missing]
        unread = batch.rows(missing, max(map(len, new))).to(device_of(self.model))
        opening = shared_opening(new) if self._can_part(unread, len(self.below)) else 0
        beginning = new[0][:opening]
        first: tuple[Tensor, ...] = ()
        if opening:
            past, heard = _empty_past(self.model), []
            reader = PartReader(unread, past, lambda part: heard.append(self._hear(part.batch)))
            reader.read_opening(opening)
            first = (self._openings.get(beginning, heard[0][0]),)
            unread = reader.rest().batch
        last = self._hear(unread)
        computed = {row: (*first, last[i, : len(row) - opening].clone()) for i, row in enumerate(new)}
        for row, outputs in computed.items():
            is_known = not opening or beginning in self._openings
            size = sum(output.nbytes for output in (outputs[-1:] if is_known else outputs))
            if size <= self._left:
                self._rows[row] = outputs
                self._openings.update({beginning: outputs[0]} if opening else {})
                self._left -= size
        return computed

    def _hear(self, batch: TokenBatch) -> Tensor:
        """What the last block below says of a batch (rows, tokens, hidden); the blocks above are not run."""
        said: list[Any] = []
        handle = self.model.get_submodule(self.below[-1]).register_forward_hook(
            lambda _, __, output: said.append(output)
        )
        try:
            with torch.no_grad(), run_ends_at(self.model, self.below[-1]):
                batch.kind.read(self.model, batch)
        finally:
            handle.remove()
        self._tuple_output = isinstance(said[0], tuple)
        return said[0][0] if self._tuple_output else said[0]


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


def _empty_past(model: nn.Module) -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _place(blocks: Sequence[str], parameter: str) -> int:
    """Which of the blocks a parameter is in; 0 where it is in none, for it may be below them all."""
    return next((i for i, name in enumerate(blocks) if parameter.startswith(f"{name}.")), 0)


def _token_ids(batch: TokenBatch) -> list[tuple[int, ...]]:
    """The tokens of each row, without padding."""
    lengths = batch.attention_mask.sum(1).tolist()
    return [tuple(ids[:n]) for ids, n in zip(batch.input_ids.tolist(), lengths, strict=True)]
