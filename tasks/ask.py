"""Asking a model what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.models import ModelFolder, load
from tasks.prompt_check import PromptCheck


def greedy_answers(
    folder: ModelFolder,
    check: PromptCheck,
    prompts: Sequence[str],
    *,
    chat: bool,
    max_new_tokens: int,
    progress: Callable[[int, int], None],
) -> list[str]:
    """One greedy answer a prompt, "" for one that the model cannot be asked; it is loaded for any other.

    Args:
        folder: the model.
        check: the model's own.
        prompts: chat turns or raw text.
        chat: which of the two.
        max_new_tokens: the longest answer, in tokens.
        progress: called with (prompts answered, prompts).
    """
    from editors.generation import generate_greedy

    askable = [prompt for prompt in prompts if not check.fault(prompt, chat=chat)]
    if not askable:
        return [""] * len(prompts)
    model, tokenizer = load(folder)
    answers = generate_greedy(
        model, tokenizer, askable, chat=chat, max_new_tokens=max_new_tokens, progress=progress
    )
    said = dict(zip(askable, answers, strict=True))
    return [said.get(prompt, "") for prompt in prompts]
