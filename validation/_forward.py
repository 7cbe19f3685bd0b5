"""Logits at the answer positions, a batch at a time, so that nothing of vocabulary size is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.capture import device_of as device_of
from editors.requests import Example, collate, encode, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's own mode is restored on leaving."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first; the same lengths give the same batches."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def answer_logits(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    chat: bool,
    batch_size: int,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (index, logits (tokens, vocabulary) in fp32, answer token ids (tokens,)) for every prompt.

    The first position is the one after the prompt, the last predicts the end of the turn. Consume inside
    `evaluating`.
    """
    examples = [
        encode(tokenizer, prompt, answer, chat=chat) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    yield from example_logits(model, tokenizer, examples, batch_size=batch_size)


def example_logits(
    model: Any, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], *, batch_size: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The same of examples that are encoded already; what ends them is theirs to say."""
    lengths = [len(example.prompt_ids) + len(example.target_ids) for example in examples]
    for indices in by_length(lengths, batch_size):
        batch = collate([examples[index] for index in indices], pad_id(tokenizer)).to(device_of(model))
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        for row, index in enumerate(indices):
            mask = batch.answer_mask[row]
            yield index, logits[row, mask].float(), batch.labels[row, mask]
