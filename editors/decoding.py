"""One answer, token by token: greedy as everywhere, or sampled where a request asks for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editors.batch_generation import last_logits_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: 0 takes the most probable token; above, logits are divided by it.
        top_p: only the most probable tokens that have this share of the probability together are drawn.
        seed: of the draws; None for others every time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


def next_tokens(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    stops: Collection[int],
    steps: int,
    sampling: Sampling | None = None,
) -> Iterator[int]:
    """The token ids of an answer as they are made: at most `steps`, fewer where one of `stops` ends it.

    Greedily they are those of `editors.generation.generate_greedy` for this prompt alone. The model must be
    in evaluation mode, and is only read: any number of answers may be under way at once.

    Raises:
        ValueError: the model's logits are not finite.
    """
    sampling = sampling or Sampling()
    generator = None
    if sampling.temperature > 0:
        generator = torch.Generator(model.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
    read, unread, cache = 0, list(prompt_ids), None
    for _ in range(steps):
        logits, cache = _read(model, unread, read, cache)
        chosen = _choose(logits, sampling, generator)
        if chosen in stops:
            return
        yield chosen
        if cache is None:
            # A model that keeps nothing of what it has read is given it again.
            unread = [*unread, chosen]
        else:
            read, unread = read + len(unread), [chosen]


@torch.inference_mode()
def _read(model: PreTrainedModel, unread: list[int], read: int, cache: Any) -> tuple[Tensor, Any]:
    """Logits (vocabulary) after the unread tokens, and the cache with them."""
    device, known = model.device, read + len(unread)
    output = model(
        input_ids=torch.tensor([unread], device=device),
        attention_mask=torch.ones(1, known, dtype=torch.long, device=device),
        position_ids=torch.arange(read, known, device=device)[None],
        past_key_values=cache,
        use_cache=True,
        **last_logits_only(model),
    )
    return output.logits[0, -1], getattr(output, "past_key_values", None)


@torch.inference_mode()
def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    if not torch.isfinite(logits).all():
        raise ValueError("the model's logits are not finite; it is damaged")
    if generator is None:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        # The first is always kept: what comes before it sums to nothing.
        dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities[places[dropped]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))
