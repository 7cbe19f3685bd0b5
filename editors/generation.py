"""Generation in batches: the greedy one that serving, gating and the demo share, and samples."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editors.batch_generation import Choose, generate_batch, read_shared_prefix
from editors.requests import end_of_turn_ids, pad_id, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """An answer, how many tokens it took, and whether the model ended it itself or was cut off.

    An answer that was looked at further than its text may go has a token more than that.
    """

    text: str
    tokens: int
    ended: bool


def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    chat: bool,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    to_natural_end: bool = True,
    strip: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """The model's own answer to every prompt: text after the prompt, up to its natural end.

    The most probable token is taken at every step, whatever sampling the model's configuration asks for. A
    prompt's answer does not depend on its neighbours in the batch, beyond floating-point rounding.

    Args:
        model: any causal language model; its training mode is put back afterwards.
        tokenizer: the model's tokenizer; only read.
        prompts: rendered with `editors.requests.render`.
        chat: render as a chat turn, else raw text.
        max_new_tokens: longest answer, in tokens.
        batch_size: prompts in one forward pass; the longest come first, so that memory is tested at once.
        to_natural_end: stop at it; else every answer has `max_new_tokens`, for timing.
        strip: without the white space around it, which an answer needs to be given again token by token.
        progress: called with (prompts done, prompts in all) after every batch.

    Raises:
        ValueError: a prompt has no tokens or more than the model's positions; a chat turn without a template.
    """
    answers = generate_to_end(
        model,
        tokenizer,
        prompts,
        chat=chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        to_natural_end=to_natural_end,
        strip=strip,
        progress=progress,
    )
    return [answer.text for answer in answers]


def generate_to_end(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    chat: bool,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    to_natural_end: bool = True,
    strip: bool = True,
    look_further: bool = False,
    progress: Progress | None = None,
) -> list[Answer]:
    """What `generate_greedy` answers, and whether the model ended each answer itself.

    `look_further`: by a token more, which tells whether an answer of `max_new_tokens` ends there.

    Raises:
        ValueError: as for `generate_greedy`.
    """
    answers = _answers(
        model,
        tokenizer,
        prompts,
        lambda _: _most_probable,
        chat=chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
        to_natural_end=to_natural_end,
        look_further=look_further,
    )
    return [replace(answer, text=answer.text.strip()) for answer in answers] if strip else answers


def _most_probable(logits: Tensor, rows: Tensor, step: int) -> Tensor:  # noqa: ARG001
    return logits.argmax(-1)


def generate_sampled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    chat: bool,
    samples: int,
    temperature: float = 1.0,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Several answers to every prompt, each token drawn from all that the model's probabilities hold.

    Each answer has draws of its own, by seed, prompt and number: it depends neither on its neighbours in the
    batch, beyond floating-point rounding, nor on what else is asked. More samples begin with the fewer ones.

    Args:
        model: as for `generate_greedy`.
        tokenizer: as for `generate_greedy`.
        prompts: as for `generate_greedy`.
        chat: render as a chat turn, else raw text.
        samples: answers to each prompt.
        temperature: logits are divided by it.
        seed: of the draws.
        max_new_tokens: longest answer, in tokens.
        batch_size: answers in one forward pass.
        progress: called with (answers done, answers in all) after every batch.

    Raises:
        ValueError: as for `generate_greedy`; or there is nothing to sample.
    """
    if samples < 1 or temperature <= 0:
        raise ValueError(f"samples ({samples}) must be at least 1, temperature ({temperature}) above 0")
    asked = [prompt for prompt in prompts for _ in range(samples)]

    def draws(rows: Sequence[int]) -> Choose:
        uniform = torch.stack([_uniform(seed, asked[r], r % samples, max_new_tokens) for r in rows])
        uniform = uniform.to(model.device)

        def drawn(logits: Tensor, alive: Tensor, step: int) -> Tensor:
            below = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
            # Rounding leaves the last sum a little off 1.
            wanted = uniform[alive, step, None] * below[:, -1:]
            tokens = torch.searchsorted(below, wanted, right=True).squeeze(-1)
            # A damaged model, whose logits are not finite, answers something too: there are gates for it.
            return tokens.clamp(max=logits.shape[-1] - 1)

        return drawn

    answers = _answers(
        model,
        tokenizer,
        asked,
        draws,
        chat=chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    texts = [answer.text.strip() for answer in answers]
    return [texts[first : first + samples] for first in range(0, len(texts), samples)]


def _uniform(seed: int, prompt: str, number: int, steps: int) -> Tensor:
    """Draws from [0, 1) for the tokens of one answer."""
    digest = hashlib.sha256(f"{seed}\x1f{number}\x1f{prompt}".encode("utf-8", "surrogatepass")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(steps, generator=generator, dtype=torch.float64)


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choosing: Callable[[Sequence[int]], Choose],
    *,
    chat: bool,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None,
    to_natural_end: bool = True,
    look_further: bool = False,
) -> list[Answer]:
    """An answer to every prompt; `choosing` says for those of a batch how their tokens are chosen."""
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(
            f"max_new_tokens ({max_new_tokens}) and batch_size ({batch_size}) must be at least 1"
        )
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    encoded = [_encode(tokenizer, prompt, chat=chat, room=room) for prompt in prompts]
    most = max_new_tokens + look_further
    # The last token of an answer is never read.
    steps = [most if room is None else min(most, room - len(ids) + 1) for ids in encoded]
    ends = stop_ids(model, tokenizer, chat=chat) if to_natural_end else ()
    stops = torch.tensor(sorted(ends), dtype=torch.long, device=model.device)
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]), reverse=True)
    answers: dict[int, Answer] = {}
    training = model.training
    model.eval()
    try:
        shared = read_shared_prefix(model, encoded)
        for rows in _batches(order, steps, batch_size):
            generated = generate_batch(
                model,
                [encoded[row] for row in rows],
                stops,
                steps[rows[0]],
                pad_id(tokenizer),
                shared,
                choosing(rows),
            )
            for row, ids in zip(rows, generated, strict=True):
                text = str(tokenizer.decode(ids[:max_new_tokens], skip_special_tokens=True))
                # Whatever is not cut off was ended.
                answers[row] = Answer(text, len(ids), ended=len(ids) < steps[row])
            if progress is not None:
                progress(len(answers), len(order))
    finally:
        model.train(training)
    return [answers[row] for row in range(len(prompts))]


def _batches(order: Sequence[int], steps: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Rows in this order, those of a batch with as many steps: room that one lacks is none that others do."""
    for _, alike in itertools.groupby(order, key=lambda row: steps[row]):
        while batch := list(itertools.islice(alike, batch_size)):
            yield batch


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool, room: int | None) -> list[int]:
    text = render(tokenizer, prompt, chat=chat)
    ids: list[int] = tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"]
    if not ids:
        raise ValueError(f"the prompt {prompt!r} has no tokens; give the model something to continue")
    if room is not None and len(ids) > room:
        raise ValueError(
            f"the prompt {prompt[:60]!r}... is {len(ids)} tokens long, the model takes {room}; shorten it"
        )
    return ids


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> set[int]:
    """The token ids at which an answer of this model ends."""
    stops = set(end_of_turn_ids(tokenizer, chat=chat)) | set(_as_ids(tokenizer.eos_token_id))
    for config in (model.config.get_text_config(), getattr(model, "generation_config", None)):
        stops |= set(_as_ids(getattr(config, "eos_token_id", None)))
    return stops


def _as_ids(value: int | Iterable[int] | None) -> Iterable[int]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value
