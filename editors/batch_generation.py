"""A batch of answers, token by token: prompts padded at the front, what all begin with read once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editors.behind import keeps_all, shared_opening

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (logits of rows, which rows they are, step) to a token id a row.
Choose = Callable[[Tensor, Tensor, int], Tensor]


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    stops: Tensor,
    steps: int,
    padding: int,
    shared: tuple[int, Any] | None,
    choose: Choose,
) -> list[list[int]]:
    """Token ids of the answers, without the token that ended them. Rows that end leave the batch."""
    read, cache = (0, None) if shared is None else (shared[0], copy.deepcopy(shared[1]))
    if cache is not None:
        cache.batch_repeat_interleave(len(prompts))
    length = max(len(prompt) for prompt in prompts) - read
    padded = [[padding] * (length - len(prompt) + read) + prompt[read:] for prompt in prompts]
    input_ids = torch.tensor(padded, device=model.device)
    unread = torch.tensor([len(prompt) - read for prompt in prompts], device=model.device)
    attention_mask = (torch.arange(length, device=model.device) >= length - unread[:, None]).long()
    attention_mask = torch.cat([attention_mask.new_ones(len(prompts), read), attention_mask], dim=-1)
    keep = last_logits_only(model)
    alive = torch.arange(len(prompts), device=model.device)
    answers: list[list[int]] = [[] for _ in prompts]
    for step in range(steps):
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **keep,
        )
        cache = getattr(output, "past_key_values", None)
        chosen = choose(output.logits[:, -1], alive, step)
        going = ~torch.isin(chosen, stops)
        for row, token, goes in zip(alive.tolist(), chosen.tolist(), going.tolist(), strict=True):
            if goes:
                answers[row].append(token)
        if step + 1 == steps or not going.any():
            break
        if not going.all():
            kept = going.nonzero().squeeze(-1)
            if cache is not None:
                cache.batch_select_indices(kept)
            alive, chosen, attention_mask = alive[kept], chosen[kept], attention_mask[kept]
            input_ids = input_ids[kept]
        # A model that keeps nothing of what it has read is given it again.
        input_ids = chosen[:, None] if cache is not None else torch.cat([input_ids, chosen[:, None]], -1)
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(attention_mask), 1)], dim=-1)
    return answers


@torch.inference_mode()
def read_shared_prefix(model: PreTrainedModel, prompts: list[list[int]]) -> tuple[int, Any] | None:
    """What all prompts begin with (a chat template's system turn), read once: (tokens, key-value cache).

    None where it would not pay, or where a gap between the prefix and a padded prompt would count.
    """
    length = shared_opening(prompts)
    if not length:
        return None
    prefix = torch.tensor([prompts[0][:length]], device=model.device)
    output = model(input_ids=prefix, use_cache=True, **last_logits_only(model))
    cache = getattr(output, "past_key_values", None)
    return (length, cache) if keeps_all(cache) else None


def last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    """The argument that spares the logits of every position but the last, for models that take it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
