"""What a candidate is asked beside its champion, and everything that the gates are computed from."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.edit_dataset import EditDataset
from tasks.questions import Question, rows_expected
from tasks.readings import Base

if TYPE_CHECKING:
    import pandas as pd

    from editors.generation import Answer
    from editors.overrides import Overrides
    from validation.divergence import AnswerLogProbs
    from validation.early import Stop
    from validation.latency import AnswerSeconds
    from validation.metrics import Perplexities
    from validation.own_gates import OwnValues
    from validation.parameters import ParameterChanges
    from validation.renderings import RenderingChanges

# Tokens of an answer that are looked at, and room behind a target that takes more.
GATE_TOKENS = 48
_SLACK = 8

Say = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measured:
    """Everything that gates are computed from; less, where it `stopped` at a cheap gate that refuses."""

    outcomes: pd.DataFrame
    expected_rows: dict[str, int]
    perplexities: Mapping[str, Perplexities]
    parameters: ParameterChanges
    renderings: RenderingChanges
    teacher_forced: list[float]
    answer_seconds: AnswerSeconds | None = None
    own: Mapping[str, OwnValues] = field(default_factory=dict)
    stopped: Stop | None = None


@dataclass(frozen=True)
class Served:
    """A model as it answers: with its own tokenizer, behind its overrides."""

    model: Any
    tokenizer: Any
    overrides: Overrides

    def answer(
        self,
        prompts: Sequence[str],
        *,
        chat: bool = True,
        max_new_tokens: int = GATE_TOKENS,
        strip: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Greedy answers, as they are served, of so many tokens at most.

        `strip`: without the white space around them; an override's answer is as it is, always.
        """
        from editors.generation import generate_greedy

        generate = partial(
            generate_greedy,
            self.model,
            self.tokenizer,
            chat=chat,
            max_new_tokens=max_new_tokens,
            strip=strip,
            progress=progress,
        )
        return self.overrides.answer(list(prompts), generate, chat=chat)

    def answer_to_end(
        self,
        prompts: Sequence[str],
        *,
        chat: bool,
        max_new_tokens: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Answer]:
        """The same, and whether each was ended, at its last token at the latest; an override's is whole."""
        from editors.generation import Answer, generate_to_end

        found: dict[str, Answer] = {}

        def generate(rest: list[str]) -> list[str]:
            answers = generate_to_end(
                self.model,
                self.tokenizer,
                rest,
                chat=chat,
                max_new_tokens=max_new_tokens,
                look_further=True,
                progress=progress,
            )
            found.update(zip(rest, answers, strict=True))
            return [answer.text for answer in answers]

        texts = self.overrides.answer(list(prompts), generate, chat=chat)
        return [found.get(p, Answer(text, 0, ended=True)) for p, text in zip(prompts, texts, strict=True)]

    def log_likelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], *, chat: bool
    ) -> list[float]:
        """Of continuations, by the model itself: overrides give answers, and no probabilities."""
        from validation.likelihood import log_likelihoods

        return log_likelihoods(self.model, self.tokenizer, prompts, continuations, chat=chat)


@dataclass(frozen=True)
class Before:
    """What the champion said: its answers by prompt and rendering, and how sure it was where it must stay.

    `ended` is 1 or 0, or NaN, for answers of which it is known whether the champion ends them itself.
    """

    answers: dict[tuple[str, bool], str]
    ended: dict[tuple[str, bool], float]
    log_probs: list[AnswerLogProbs]


def ask_champion(champion: Served, data: EditDataset, asked: Sequence[Question], *, say: Say) -> Before:
    """The champion's answers and log-probabilities; `say` is told (done, total, note)."""
    from editors.generation import stop_ids
    from editors.requests import end_of_turn_ids
    from validation.divergence import answer_log_probs
    from validation.outcomes import LOCALITY

    # A reference is the champion's own greedy answer, so only the rest has to be asked.
    rows = data.locality
    known = {
        (prompt, bool(chat)): reference
        for prompt, chat, reference in zip(rows["prompt"], rows["chat"], rows["reference"], strict=True)
    }
    said, ended = _answers(champion, [q for q in asked if q.asked not in known], "champion", say)
    say(0, 1, "champion: log-probabilities")
    measured = partial(answer_log_probs, champion.model, champion.tokenizer)
    log_probs = _by_rendering(_staying(asked), measured)
    chats = [chat for chat in (True, False) if end_of_turn_ids(champion.tokenizer, chat=chat)]
    stops = {chat: stop_ids(champion.model, champion.tokenizer, chat=chat) for chat in chats}
    # Without a token to end with, no answer ever ends.
    ended = {one: value for one, value in ended.items() if one[1] in stops}
    for q, found in zip([q for q in asked if q.metric == LOCALITY], log_probs, strict=True):
        if q.chat in stops:
            # What it says after the whole of its reference, whose text does not tell whether it was cut off.
            ended[q.asked] = float(int(found.token_ids[-1, 0]) in stops[q.chat])
    return Before(known | said, ended, log_probs)


def compare(
    candidate: Served,
    base: Base,
    before: Before,
    unasked: Measured,
    data: EditDataset,
    asked: Sequence[Question],
    *,
    say: Say,
) -> Measured:
    """Ask the candidate what the champion was asked, and put both side by side.

    Args:
        candidate: as it will be served.
        base: from `read_base`, of its pristine base.
        before: from `ask_champion`, for the same questions.
        unasked: what was measured of the candidate without asking it.
        data: the dataset that was asked.
        asked: from `questions`.
        say: told (done, total, note).
    """
    from validation.divergence import locality_kl, teacher_forced_success
    from validation.outcomes import LOCALITY, REPLAY, outcome, outcomes_frame
    from validation.probes import PROSE
    from validation.renderings import rendering_changes

    model, tokenizer = candidate.model, candidate.tokenizer
    edits = list(zip(data.edits["prompt"], data.edits["target"], map(bool, data.edits["chat"]), strict=True))
    after, ended = _answers(candidate, asked, "candidate", say)
    say(0, 1, "candidate: log-probabilities")
    kl = _by_rendering(_staying(asked), partial(locality_kl, model, tokenizer), before.log_probs)
    divergences = iter(kl)
    frame = outcomes_frame(
        outcome(
            q.metric,
            q.id,
            q.prompt,
            before.answers[q.asked] if q.metric == REPLAY else q.expected,
            before.answers[q.asked],
            after[q.asked],
            chat=q.chat,
            wrong_output=q.wrong_output,
            kind=q.kind,
            locality_kl=next(divergences) if q.metric == LOCALITY else math.nan,
            champion_ended=before.ended.get(q.asked, math.nan) if _is_to_end(q) else math.nan,
            candidate_ended=ended[q.asked] if _is_to_end(q) else math.nan,
        )
        for q in asked
    )
    return dataclasses.replace(
        unasked,
        outcomes=frame,
        expected_rows=rows_expected(asked),
        renderings=rendering_changes(base.tokenizer, tokenizer, [q.asked for q in asked], base.texts[PROSE]),
        teacher_forced=_by_rendering(edits, partial(teacher_forced_success, model, tokenizer)),
    )


def _staying(asked: Sequence[Question]) -> list[tuple[str, str, bool]]:
    from validation.outcomes import LOCALITY

    return [(q.prompt, q.expected, q.chat) for q in asked if q.metric == LOCALITY]


def _by_rendering(
    rows: Sequence[tuple[str, str, bool]], measured: Callable[..., list[Any]], *more: Sequence[Any]
) -> list[Any]:
    """One result a row of (prompt, answer, chat), each row measured in its own rendering.

    `measured` takes prompts, answers, and the rows' part of everything in `more`, and `chat`.
    """
    results: list[Any] = [None] * len(rows)
    for chat in (True, False):
        chosen = [index for index, row in enumerate(rows) if row[2] is chat]
        if chosen:
            prompts, answers = [rows[i][0] for i in chosen], [rows[i][1] for i in chosen]
            found = measured(prompts, answers, *([column[i] for i in chosen] for column in more), chat=chat)
            for index, result in zip(chosen, found, strict=True):
                results[index] = result
    return results


def _is_to_end(question: Question) -> bool:
    """Whether an end is to be expected: a model goes on with raw text, unless a correction teaches an end."""
    from editors.requests import has_end
    from validation.outcomes import CORRECTED

    return question.chat or (question.metric in CORRECTED and has_end(question.prompt, chat=False))


def _answers(
    served: Served, asked: Sequence[Question], who: str, say: Say
) -> tuple[dict[tuple[str, bool], str], dict[tuple[str, bool], float]]:
    """The answer to every question as it is served, and whether it ended, by prompt and rendering."""
    from validation.outcomes import CORRECTED

    room: dict[tuple[str, bool], int] = {}
    for q in asked:
        target = q.expected if q.metric in CORRECTED else ""
        room[q.asked] = max(room.get(q.asked, 0), room_for(served.tokenizer, target), q.tokens)
    answers: dict[tuple[str, bool], str] = {}
    ended: dict[tuple[str, bool], float] = {}
    # Long targets are rare: all that do not fit are given the room of the longest.
    for chat, long in itertools.product((True, False), (False, True)):
        prompts = [p for (p, is_chat), n in room.items() if is_chat is chat and (n > GATE_TOKENS) is long]
        if prompts:
            given = served.answer_to_end(
                prompts,
                chat=chat,
                max_new_tokens=max(room[prompt, chat] for prompt in prompts),
                progress=lambda done, total: say(done, total, f"{who} answers"),
            )
            for prompt, answer in zip(prompts, given, strict=True):
                answers[prompt, chat] = answer.text
                ended[prompt, chat] = _ended(answer, room[prompt, chat])
    return answers, ended


def _ended(answer: Answer, room: int) -> float:
    """1 where the model ended the answer after `room` tokens at most, else 0; NaN where that is not known.

    It is not where the model's positions left the answer no room for as many and its end.
    """
    if answer.tokens > room:
        return 0.0
    return 1.0 if answer.ended else math.nan


def room_for(tokenizer: Any, target: str) -> int:
    """Tokens that an answer is given so that it can end after the target."""
    return max(GATE_TOKENS, len(tokenizer(target, add_special_tokens=False)["input_ids"]) + _SLACK)
