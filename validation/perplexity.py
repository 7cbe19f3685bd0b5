"""Perplexity of neutral prose: whether a model still writes what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from editors.requests import pad_id
from validation._forward import by_length, device_of, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of a text that are read.
MAX_TOKENS = 256


def perplexity(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int = MAX_TOKENS,
    batch_size: int = 8,
) -> list[tuple[float, int]]:
    """(Summed negative log-likelihood in nats, predicted tokens) of each text, in the order given.

    Texts are cut to `max_tokens` tokens; the first token is read and not predicted. The perplexity of all
    is `exp(sum of the first / sum of the second)`; sums, so that shards add up.
    """
    encoded = [tokenizer(text)["input_ids"][:max_tokens] for text in texts]
    found: list[tuple[float, int]] = [(0.0, 0)] * len(texts)
    readable = [index for index, ids in enumerate(encoded) if len(ids) > 1]
    with evaluating(model):
        for batch in by_length([len(encoded[index]) for index in readable], batch_size):
            indices = [readable[place] for place in batch]
            length = len(encoded[indices[0]])
            input_ids = torch.full((len(indices), length), pad_id(tokenizer))
            attention_mask = torch.zeros_like(input_ids)
            for row, index in enumerate(indices):
                input_ids[row, : len(encoded[index])] = torch.tensor(encoded[index])
                attention_mask[row, : len(encoded[index])] = 1
            input_ids, attention_mask = input_ids.to(device_of(model)), attention_mask.to(device_of(model))
            logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            for row, index in enumerate(indices):
                predicted = len(encoded[index]) - 1
                # Row by row: the cross-entropy of a whole batch would hold the logits twice more in fp32.
                loss = cross_entropy(
                    logits[row, :predicted].float(), input_ids[row, 1 : predicted + 1], reduction="sum"
                )
                found[index] = (float(loss), predicted)
    return found
