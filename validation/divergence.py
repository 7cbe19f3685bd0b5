"""How far next-token distributions moved where they should not, and teacher-forced success."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from validation._forward import answer_logits, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AnswerLogProbs:
    """The champion's log-probabilities along one answer, the most probable tokens and the rest in one.

    Shapes: `token_ids` (tokens, top), `log_probs` (tokens, top + 1), the last column being the remainder.
    On the CPU in fp32: a kilobyte a token, instead of two hundred for the whole of a 49k vocabulary.
    """

    token_ids: Tensor
    log_probs: Tensor


def answer_log_probs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    chat: bool,
    top: int = 128,
    batch_size: int = 16,
) -> list[AnswerLogProbs]:
    """Log-probabilities after each prompt and at every token of its reference answer, its end included."""
    found: dict[int, AnswerLogProbs] = {}
    with evaluating(model):
        for index, logits, _ in answer_logits(
            model, tokenizer, prompts, answers, chat=chat, batch_size=batch_size
        ):
            token_ids = logits.topk(min(top, logits.shape[-1] - 1), dim=-1).indices
            found[index] = AnswerLogProbs(token_ids.cpu(), _bucketed(logits, token_ids).cpu())
    return [found[index] for index in range(len(prompts))]


def locality_kl(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    champion: Sequence[AnswerLogProbs],
    *,
    chat: bool,
    batch_size: int = 16,
) -> list[float]:
    """Mean KL(champion || candidate) in nats over the positions of each answer, one figure a prompt.

    Taken over the champion's most probable tokens and the remainder as one, which is never more than the
    whole. A candidate that yields no distribution (NaN) is infinitely far.

    Args:
        model: the candidate.
        tokenizer: of both.
        prompts: as given to `answer_log_probs`, in the same order.
        answers: likewise.
        champion: what `answer_log_probs` returned for the champion.
        chat: as there.
        batch_size: as there; with the same one, an unchanged model is at exactly 0.
    """
    found: dict[int, float] = {}
    with evaluating(model):
        for index, logits, _ in answer_logits(
            model, tokenizer, prompts, answers, chat=chat, batch_size=batch_size
        ):
            before = champion[index].log_probs.to(logits.device).double()
            after = _bucketed(logits, champion[index].token_ids.to(logits.device)).double()
            # A bucket the champion gives no mass counts 0, not 0 * infinity.
            terms = torch.where(before == -math.inf, 0.0, before.exp() * (before - after))
            divergence = float(terms.sum(-1).mean())
            found[index] = math.inf if math.isnan(divergence) else max(divergence, 0.0)
    return [found[index] for index in range(len(prompts))]


def teacher_forced_success(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    targets: Sequence[str],
    *,
    chat: bool,
    batch_size: int = 16,
) -> list[float]:
    """Share of each target's tokens, its end included, that are ranked first given the ones before them."""
    found: dict[int, float] = {}
    with evaluating(model):
        for index, logits, labels in answer_logits(
            model, tokenizer, prompts, targets, chat=chat, batch_size=batch_size
        ):
            finite = bool(torch.isfinite(logits).all())
            found[index] = float((logits.argmax(-1) == labels).double().mean()) if finite else 0.0
    return [found[index] for index in range(len(prompts))]


def _bucketed(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log-probabilities (tokens, top + 1) of the given tokens and of all others together."""
    log_probs = logits.log_softmax(-1)
    rest = log_probs.scatter(-1, token_ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, token_ids), rest], dim=-1)
