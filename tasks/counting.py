"""Greedy answers with their number of tokens, by which one that ends is told from one that was cut off."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Between an answer and its number of tokens; no white space, which is stripped from answers.
_MARK = "\x00"


@dataclass(frozen=True)
class Counted:
    """An answer, how many tokens it took, and the fewest at which it may have been cut off."""

    text: str
    tokens: int
    limit: int

    def ended(self, room: int) -> float:
        """1 where the model ended it itself in fewer than `room` tokens, else 0; NaN where that is not known.

        It is not where prompts fill so much of the model's positions that answers beside them were cut.
        """
        if self.tokens >= room:
            return 0.0
        return 1.0 if self.tokens < self.limit else math.nan


def generate_counted(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    chat: bool,
    max_new_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Counted]:
    """What `generate_greedy` answers, counted as it is decoded: a text may have been made of other tokens.

    Raises:
        ValueError: as `generate_greedy`.
    """
    from editors.generation import generate_greedy
    from editors.requests import encode

    counting = copy.copy(tokenizer)

    def decode(ids: Sequence[int], **options: Any) -> str:
        return f"{str(tokenizer.decode(ids, **options)).strip()}{_MARK}{len(ids)}"

    counting.decode = decode
    marked = generate_greedy(
        model, counting, prompts, chat=chat, max_new_tokens=max_new_tokens, progress=progress
    )
    limit = max_new_tokens
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompts:
        longest = max(len(encode(tokenizer, prompt, "", chat=chat).prompt_ids) for prompt in prompts)
        limit = min(limit, positions - longest + 1)
    split = (answer.rpartition(_MARK) for answer in marked)
    return [Counted(text, int(tokens), limit) for text, _, tokens in split]
