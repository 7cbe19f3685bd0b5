"""Captures over many examples: batched, and with the unedited part of the model computed once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editors.capture import (
    Captured,
    answer_logits,
    capture_gradients,
    capture_keys,
    capture_unsure,
    certainties,
    read_answers,
)
from editors.locate import EditableModule
from editors.model_kinds import CAUSAL, ModelKind
from editors.protocol import Kept, Progress, no_progress
from editors.replay import PrefixCache
from editors.requests import EditRequest, Example, TokenBatch, collate, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 64


def encode_requests(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], kind: ModelKind = CAUSAL
) -> list[Example]:
    """Every prompt and every equivalent of every request, with its target."""
    return [
        encode(tokenizer, prompt, request.target, chat=request.chat, kind=kind)
        for request in requests
        for prompt in (request.prompt, *request.equivalents)
    ]


def encode_kept(
    tokenizer: PreTrainedTokenizerBase, keep: Sequence[Kept], kind: ModelKind = CAUSAL
) -> list[Example]:
    """Every prompt that must stay, with its answer."""
    return [encode(tokenizer, kept.prompt, kept.answer, chat=kept.chat, kind=kind) for kept in keep]


def encode_openings(
    tokenizer: PreTrainedTokenizerBase, keep: Sequence[Kept], longest: int, kind: ModelKind = CAUSAL
) -> list[Example]:
    """Prompts that must stay with so much of their answers as counts: the opening, or `longest` tokens."""
    openings = []
    for kept, example in zip(keep, encode_kept(tokenizer, keep, kind), strict=True):
        ids, end = example.target_ids, longest
        if kept.opening is not None:
            said = (len(tokenizer.decode(ids[:n]).strip()) for n in range(1, len(ids)))
            enough = (n for n, length in enumerate(said, 1) if length >= len(kept.opening.strip()))
            end = next(enough, len(ids))
        openings.append(replace(example, target_ids=ids[:end]))
    return openings


def batches(
    examples: Sequence[Example],
    pad: int,
    size: int = BATCH,
    *,
    tokens: float = math.inf,
    answer_tokens: float = math.inf,
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Batches of examples of like length, each with the numbers of its examples.

    Args:
        examples: in any order.
        pad: token id to pad with.
        size: most examples of a batch.
        tokens: most tokens of one, padding and all; an example that has more is a batch of its own.
        answer_tokens: most tokens of the answers of one, likewise.
    """
    lengths = [len(example.prompt_ids) + len(example.target_ids) for example in examples]
    chosen: list[int] = []
    answers = 0
    for number in sorted(range(len(examples)), key=lambda number: lengths[number]):
        answer = len(examples[number].target_ids)
        # All are padded to the longest, which is this one.
        rows = len(chosen) + 1
        if chosen and (rows > size or rows * lengths[number] > tokens or answers + answer > answer_tokens):
            yield chosen, collate([examples[i] for i in chosen], pad)
            chosen, answers = [], 0
        chosen.append(number)
        answers += answer
    if chosen:
        yield chosen, collate([examples[i] for i in chosen], pad)


def captures(
    model: nn.Module,
    modules: Sequence[EditableModule],
    examples: Sequence[Example],
    pad: int,
    cache: PrefixCache | None = None,
    *,
    all_tokens: bool = False,
    weights: Sequence[float] = (),
) -> Iterator[dict[str, Captured]]:
    """Keys and gradients by module name, a batch of examples at a time; see `capture_gradients`.

    `weights`, by example, become those of its rows.
    """
    for numbers, batch in batches(examples, pad):
        with _reading(batch, cache, all_tokens=all_tokens) as read:
            captured = capture_gradients(model, modules, read, all_tokens=all_tokens)
        if weights:
            of_batch = [weights[number] for number in numbers]
            captured = {name: weighted(rows, of_batch) for name, rows in captured.items()}
        yield captured


def weighted(rows: Captured, weights: Sequence[float]) -> Captured:
    """The rows, each with the weight of its example."""
    of_rows = [weight for weight, count in zip(weights, rows.counts, strict=True) for _ in range(count)]
    return replace(rows, weights=rows.gradients.new_tensor(of_rows))


def _reading(
    batch: TokenBatch, cache: PrefixCache | None, *, all_tokens: bool
) -> AbstractContextManager[TokenBatch]:
    if cache is None:
        return nullcontext(batch)
    return cache.replayed(batch) if all_tokens else cache.in_parts(batch, prompts_first=True)


def joined(parts: Iterable[Mapping[str, Captured]]) -> dict[str, Captured]:
    """Captured rows of several batches as those of one."""
    by_name: dict[str, list[Captured]] = {}
    for part in parts:
        for name, captured in part.items():
            by_name.setdefault(name, []).append(captured)
    return {
        name: Captured(
            torch.cat([c.keys for c in rows]),
            torch.cat([c.gradients for c in rows]),
            tuple(count for c in rows for count in c.counts),
        )
        for name, rows in by_name.items()
    }


def gather_by_example(
    model: nn.Module,
    modules: Sequence[EditableModule],
    examples: Sequence[Example],
    pad: int,
    cache: PrefixCache,
    progress: Progress = no_progress,
) -> list[dict[str, Captured]]:
    """Keys and gradients of every example for itself, in half precision to keep thousands in memory.

    Keys that are too large for fp16 stay in fp32.
    """
    result: list[dict[str, Captured]] = [{} for _ in examples]
    done = 0
    for numbers, batch in batches(examples, pad):
        with cache.in_parts(batch, prompts_first=True) as read:
            captured = capture_gradients(model, modules, read)
        for module in modules:
            rows, counts = captured[module.name], list(captured[module.name].counts)
            halves = rows.keys.half()
            fits = bool((halves.isfinite() | ~rows.keys.isfinite()).all())
            split = zip(
                (halves if fits else rows.keys).split(counts), rows.gradients.split(counts), strict=True
            )
            for number, (keys, gradients) in zip(numbers, split, strict=True):
                # Gradients may be too small for fp16; bf16 keeps their range.
                result[number][module.name] = Captured(keys.clone(), gradients.bfloat16(), (len(keys),))
        done += len(numbers)
        progress(done, len(examples), "capturing")
    return result


def gather_keys(
    model: nn.Module, modules: Sequence[EditableModule], examples: Sequence[Example], pad: int
) -> dict[str, Tensor]:
    """Keys at the positions of the edit of all examples, by module name: (tokens, d_in)."""
    parts = [capture_keys(model, modules, batch) for _, batch in batches(examples, pad)]
    return {m.name: torch.cat([part[m.name] for part in parts]) for m in modules}


@dataclass(frozen=True)
class Looked:
    """A batch: the numbers of the examples in doubt, what their gradients are made of, and the other keys.

    `asked` and `held` (tokens, d_in) are by module name, and empty where there are no such examples.
    """

    unsure: list[int]
    asked: dict[str, Captured]
    held: dict[str, Tensor]


def look(
    model: nn.Module,
    modules: Sequence[EditableModule],
    examples: Sequence[Example],
    certainty: float,
    pad: int,
    cache: PrefixCache,
    doubted: Collection[int] = (),
) -> Iterator[Looked]:
    """A batch at a time: which answers the model is not sure of, and what they ask for; see `capture_unsure`.

    Numbers of examples that are `doubted` are read with a backward pass at once. Others are read without, and
    again where the model is not sure of them after all.
    """
    surprises: set[int] = set()
    for numbers, batch in _batches_of(examples, [i for i in range(len(examples)) if i not in doubted], pad):
        with cache.in_parts(batch, prompts_first=False) as read:
            surest, keys = read_answers(model, modules, read)
        sure = [each > certainty for each in surest]
        surprises |= {number for number, is_sure in zip(numbers, sure, strict=True) if not is_sure}
        if any(sure):
            yield Looked([], {}, {name: torch.cat([*compress(rows, sure)]) for name, rows in keys.items()})
    for numbers, batch in _batches_of(examples, sorted(surprises.union(doubted)), pad):
        with cache.in_parts(batch, prompts_first=True) as read:
            sure, captured = capture_unsure(model, modules, read, certainty)
        unsure = [not each for each in sure]
        asked, held = {}, {}
        for name, rows in captured.items():
            keys_of, gradients = rows.keys.split(list(rows.counts)), rows.gradients.split(list(rows.counts))
            if any(sure):
                held[name] = torch.cat([*compress(keys_of, sure)])
            if any(unsure):
                asked[name] = Captured(
                    torch.cat([*compress(keys_of, unsure)]), torch.cat([*compress(gradients, unsure)])
                )
        yield Looked([*compress(numbers, unsure)], asked, held)


def _batches_of(
    examples: Sequence[Example], numbers: Sequence[int], pad: int
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Batches of the examples of these numbers, each with its numbers."""
    for places, batch in batches([examples[number] for number in numbers], pad):
        yield [numbers[place] for place in places], batch


def answered_exactly(
    model: nn.Module, examples: Sequence[Example], pad: int, cache: PrefixCache
) -> list[bool]:
    """Whether every answer token is the most probable one, which is when greedy decoding gives the answer.

    Of a classifier: whether its class is.
    """
    result = [False] * len(examples)
    for numbers, batch in batches(examples, pad):
        with torch.no_grad(), cache.in_parts(batch, prompts_first=False) as read:
            logits = answer_logits(model, read)
        for number, certainty in zip(numbers, certainties(batch, logits), strict=True):
            result[number] = certainty > 0
    return result


@contextmanager
def restored(model: nn.Module, modules: Sequence[EditableModule]) -> Iterator[Mapping[str, Tensor]]:
    """Within, weights of the modules may change; on leaving they are what they were, bit for bit.

    Yields the originals by parameter name.
    """
    originals = {m.parameter: model.get_parameter(m.parameter).detach().clone() for m in modules}
    try:
        yield originals
    finally:
        with torch.no_grad():
            for name, original in originals.items():
                model.get_parameter(name).copy_(original)


def set_weight(model: nn.Module, parameter: str, original: Tensor, shift: Tensor) -> None:
    """Make a parameter its original plus a shift, added in fp32."""
    with torch.no_grad():
        model.get_parameter(parameter).copy_(original.float() + shift)
