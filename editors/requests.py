"""What an editor is asked to do, and the one rendering that editing, gating and serving share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
_SENTINEL = "ANSWER"


@dataclass(frozen=True)
class EditRequest:
    """One correction, as an editor sees it.

    `equivalents` must change with the prompt; `locality` prompts must keep the model's present answer.
    """

    id: str
    prompt: str
    target: str
    equivalents: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    subject: str | None = None
    chat: bool = True


@dataclass(frozen=True)
class Example:
    """Token ids of one prompt and its answer; the answer ends with the end-of-turn token."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded examples. `labels[b, t]` is the token that position t predicts, or -100.

    Shapes: `input_ids`, `attention_mask`, `labels`: (batch, length). Labels are already shifted, so the
    positions with a label are exactly the answer positions: last prompt token to second-last answer token.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def answer_mask(self) -> Tensor:
        """(batch, length) bool: positions that predict a token of the answer."""
        return self.labels != IGNORED_LABEL

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def render(tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool) -> str:
    """The text a model is given for `prompt`: its own chat template for a chat turn, else the raw text.

    Raises:
        ValueError: a chat turn is asked of a tokenizer without a chat template.
    """
    if not chat:
        return prompt
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template; give its prompts as raw text (chat = false)")
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def render_digest(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> str:
    """Hash of what `render` does with this tokenizer; it changes when the template does."""
    return hashlib.sha256(render(tokenizer, _SENTINEL, chat=chat).encode()).hexdigest()


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> tuple[int, ...]:
    """The token ids that end an answer: what the template writes after it, or the end-of-text token."""
    if chat and tokenizer.chat_template:
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _SENTINEL}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        ids = _ids(tokenizer, text.rpartition(_SENTINEL)[2].strip(), special=False)
        if ids:
            return ids[:1]
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, *, chat: bool) -> Example:
    """Token ids of a prompt and its target, split exactly as free generation would split them.

    Raises:
        ValueError: the prompt has no tokens; a chat turn is asked of a tokenizer without a chat template.
    """
    prompt_ids = _ids(tokenizer, render(tokenizer, prompt, chat=chat), special=not chat)
    if not prompt_ids:
        raise ValueError(f"the prompt {prompt!r} has no tokens; give the model something to continue")
    joined = target if chat or prompt[-1:].isspace() or target[:1].isspace() else f" {target}"
    target_ids = _ids(tokenizer, joined, special=False) + end_of_turn_ids(tokenizer, chat=chat)
    return Example(prompt_ids, target_ids)


def collate(examples: list[Example], pad_id: int) -> TokenBatch:
    """Right-pad examples into one batch; padding is neither attended to nor labelled."""
    length = max(len(e.prompt_ids) + len(e.target_ids) for e in examples) - 1
    input_ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(examples), length), dtype=torch.long)
    labels = torch.full((len(examples), length), IGNORED_LABEL, dtype=torch.long)
    for row, example in enumerate(examples):
        # The last answer token is only ever predicted, never read.
        read = (example.prompt_ids + example.target_ids)[:-1]
        input_ids[row, : len(read)] = torch.tensor(read)
        attention_mask[row, : len(read)] = 1
        first = len(example.prompt_ids) - 1
        labels[row, first : len(read)] = torch.tensor(example.target_ids)
    return TokenBatch(input_ids, attention_mask, labels)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id to pad with: the tokenizer's own, else its end-of-text token, else 0."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if candidate is not None:
            return int(candidate)
    raise AssertionError("unreachable")


def _ids(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])
