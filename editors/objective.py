"""The two losses of editing: likelihood of answers that must change, divergence of those that must not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from editors.capture import OVERFLOWS, answer_labels, answer_logits
from editors.gather import batches
from editors.replay import PrefixCache
from editors.requests import Example, TokenBatch, collate

# An example, its weight, and the base's log-probabilities if its answer must stay (None if it must change).
Weighted = tuple[Example, float, Tensor | None]


# Of log-probabilities: some hundreds of long answers, some thousands of short ones.
LIMIT = 2**32
# Answer tokens whose logits, and tokens whose activations, are in memory at a time.
ANSWER_TOKENS, TOKENS = 256, 1024


def as_many_as_fit(
    model: nn.Module, kept: Sequence[Example], pad: int, seed: int, limit: int = LIMIT
) -> Sequence[Example]:
    """The examples that must stay; where their log-probabilities are more than `limit` bytes, some at random.

    A step looks at few of them, so that most of many would never be looked at.
    """
    if not kept:
        return kept
    with torch.no_grad():
        row = answer_logits(model, collate(kept[:1], pad))[0]
    left = limit // (len(row) * row.element_size())
    if sum(len(example.target_ids) for example in kept) <= left:
        return kept
    some: list[Example] = []
    for example in random.Random(seed).sample(kept, len(kept)):
        left -= len(example.target_ids)
        if left < 0 and some:
            break
        some.append(example)
    return some


def log_probabilities(
    model: nn.Module, examples: Sequence[Example], pad: int, cache: PrefixCache
) -> dict[Example, Tensor]:
    """The model's log-probabilities at the answer positions: (answer tokens, vocabulary) by example."""
    result: dict[Example, Tensor] = {}
    for numbers, batch in batches(examples, pad, tokens=TOKENS, answer_tokens=ANSWER_TOKENS):
        with torch.no_grad(), cache.in_parts(batch, prompts_first=False) as read:
            rows = answer_logits(model, read).log_softmax(-1)
        chosen = [examples[number] for number in numbers]
        result.update(zip(chosen, rows.split([len(e.target_ids) for e in chosen]), strict=True))
    return result


def weighted_backward(model: nn.Module, weighted: Sequence[Weighted], pad: int, cache: PrefixCache) -> float:
    """Backward of weighted losses: NLL of what must change, KL(base || model) of what must stay.

    Both are sums over answer tokens. Gradients accumulate in the parameters; the loss is returned.
    """
    total = 0.0
    examples = [example for example, _, _ in weighted]
    for numbers, batch in batches(examples, pad, tokens=TOKENS, answer_tokens=ANSWER_TOKENS):
        chosen = [weighted[number] for number in numbers]
        with torch.enable_grad(), cache.replayed(batch):
            log_p = answer_logits(model, batch).log_softmax(-1)
            loss = log_p.new_zeros(())
            rows = log_p.split([len(example.target_ids) for example, _, _ in chosen])
            for (example, weight, reference), row in zip(chosen, rows, strict=True):
                if reference is None:
                    answer = torch.tensor(example.target_ids, device=row.device)
                    loss = loss - weight * row.gather(1, answer[:, None]).sum()
                else:
                    loss = loss + weight * (reference.exp() * (reference - row)).sum()
            loss.backward()
        total += float(loss.detach())
    return total


def backward_of_the_wrong(
    rows: Sequence[tuple[Example, float]],
    enough: float,
    pad: int,
    logits: Callable[[Sequence[int], TokenBatch], Tensor],
) -> list[float]:
    """Backward of the weighted NLL of examples with more than `enough`; the NLL of each, in nats a token.

    `logits` says the answer logits (answer tokens, vocabulary) of a batch of rows, which it is given by their
    numbers too.

    Raises:
        ValueError: a loss is not finite.
    """
    result = [0.0] * len(rows)
    for numbers, batch in batches([example for example, _ in rows], pad):
        with torch.enable_grad():
            log_p = logits(numbers, batch).log_softmax(-1)
            nll = -log_p.gather(1, answer_labels(batch, log_p)[:, None])[:, 0]
            loss = nll.new_zeros(())
            for number, part in zip(numbers, nll.split(batch.answer_mask.sum(1).tolist()), strict=True):
                result[number] = float(part.detach().mean())
                if not result[number] <= enough:
                    loss = loss + rows[number][1] * part.sum()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss of an edit is not finite: {OVERFLOWS}")
            if loss.requires_grad:
                loss.backward()
    return result
