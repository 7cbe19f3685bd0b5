"""What an editor is asked to do, and the one rendering that editing, gating and serving share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editors.model_kinds import CAUSAL, ModelKind
from editors.model_kinds import IGNORED_LABEL as IGNORED_LABEL
from editors.model_kinds import Example as Example
from editors.model_kinds import TokenBatch as TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "ANSWER"
# What ends a question, a sentence or the label of an answer, and what may stand behind it.
_ENDING, _CLOSING = frozenset("?!.:？！。：؟।"), "\"'”’»)]}*_"


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


def has_end(prompt: str, *, chat: bool) -> bool:
    """Whether an answer to the prompt has an end: a text that breaks off in mid-sentence goes on after it."""
    said = prompt.rstrip().rstrip(_CLOSING)
    return chat or (said[-1:] in _ENDING and not said.endswith("..."))


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, *, chat: bool, kind: ModelKind = CAUSAL
) -> Example:
    """Token ids of a prompt and its target, split exactly as free generation would split them.

    Args:
        tokenizer: the model's.
        prompt: rendered with `render`.
        target: what must be answered; for a classifier the name or the number of a class.
        chat: whether the prompt is a chat turn.
        kind: of the model (`kind_of`).

    Raises:
        ValueError: the prompt has no tokens; a chat turn is asked of a tokenizer without a chat template; the
            model has no such class.
    """
    prompt_ids = _ids(tokenizer, render(tokenizer, prompt, chat=chat), special=not chat)
    if not prompt_ids:
        raise ValueError(f"the prompt {prompt!r} has no tokens; give the model something to continue")
    joint = "" if chat or prompt[-1:].isspace() or target[:1].isspace() else " "
    # To teach an end in mid-sentence would have the model end other texts there too.
    ends = kind != CAUSAL or has_end(prompt, chat=chat)
    ending = end_of_turn_ids(tokenizer, chat=chat) if ends else ()
    if not chat and kind == CAUSAL:
        # Read together where the prompt's tokens stay what they are: some tokenizers begin every text alike.
        together = _ids(tokenizer, f"{prompt}{joint}{target}", special=True)
        if together[: len(prompt_ids)] == prompt_ids:
            return Example(prompt_ids, together[len(prompt_ids) :] + ending, kind)
    target_ids = kind.target_ids(tokenizer, target, joint, ending)
    return Example(prompt_ids, target_ids, kind)


def collate(examples: Sequence[Example], pad_id: int) -> TokenBatch:
    """Right-pad examples of one kind into one batch; padding is neither attended to nor labelled."""
    return examples[0].kind.collate(examples, pad_id)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id to pad with: the tokenizer's own, else its end-of-text token, else 0."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if candidate is not None:
            return int(candidate)
    raise AssertionError("unreachable")


def _ids(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])
