"""How likely a model finds continuations of a prompt, as the choices of a multiple-choice task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editors.model_kinds import CAUSAL
from editors.requests import Example, render
from validation._forward import evaluating, example_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def log_likelihoods(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    chat: bool,
    batch_size: int = 16,
) -> list[float]:
    """Summed log-probability in nats of each continuation's tokens, as the lm-evaluation-harness sums them.

    Prompt and continuation are split into tokens together, spaces between them with the continuation; no end
    of the answer is asked for.

    Raises:
        ValueError: a continuation adds no token; a chat turn is asked of a tokenizer without a template.
    """
    examples = [
        _continued(tokenizer, prompt, continuation, chat=chat)
        for prompt, continuation in zip(prompts, continuations, strict=True)
    ]
    found = [0.0] * len(examples)
    with evaluating(model):
        for index, logits, labels in example_logits(model, tokenizer, examples, batch_size=batch_size):
            found[index] = float(logits.log_softmax(-1).gather(-1, labels[:, None]).sum())
    return found


def _continued(tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str, *, chat: bool) -> Example:
    text = render(tokenizer, prompt, chat=chat)
    # A template ends as it ends: what a chat turn is answered with begins behind it.
    read = text if chat else text.rstrip()
    whole = tuple(tokenizer(text + continuation, add_special_tokens=not chat)["input_ids"])
    count = len(tokenizer(read, add_special_tokens=not chat)["input_ids"])
    if not 0 < count < len(whole):
        raise ValueError(f"{continuation!r:.60} adds no token to the prompt {prompt!r:.60}")
    return Example(whole[:count], whole[count:], CAUSAL)
