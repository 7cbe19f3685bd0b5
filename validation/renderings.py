"""Whether a candidate reads what it is asked as its base does: the same tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editors.requests import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RenderingChanges:
    """How many of the prompts and texts that were compared are other tokens to the candidate."""

    changed: int
    compared: int


def rendering_changes(
    base: PreTrainedTokenizerBase,
    candidate: PreTrainedTokenizerBase,
    prompts: Iterable[tuple[str, bool]],
    texts: Sequence[str],
) -> RenderingChanges:
    """Compare the token ids that two tokenizers make of prompts, as (prompt, chat), and of raw texts."""
    asked = [*dict.fromkeys(prompts), *((text, False) for text in texts)]
    changed = sum(
        encode(base, prompt, "", chat=chat) != encode(candidate, prompt, "", chat=chat)
        for prompt, chat in asked
    )
    return RenderingChanges(changed, len(asked))
