"""What a candidate is asked beside its champion, and everything that the gates are computed from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.edit_dataset import EditDataset

if TYPE_CHECKING:
    import pandas as pd

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
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Greedy answers, as they are served, of so many tokens at most."""
        from editors.generation import generate_greedy

        generate = partial(
            generate_greedy,
            self.model,
            self.tokenizer,
            chat=chat,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        return self.overrides.answer(list(prompts), generate, chat=chat)

    def log_likelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], *, chat: bool
    ) -> list[float]:
        """Of continuations, by the model itself: overrides give answers, and no probabilities."""
        from validation.likelihood import log_likelihoods

        return log_likelihoods(self.model, self.tokenizer, prompts, continuations, chat=chat)


@dataclass(frozen=True)
class Before:
    """What the champion said: its answers by prompt and rendering, and how sure it was where it must stay."""

    answers: dict[tuple[str, bool], str]
    log_probs: list[AnswerLogProbs]


@dataclass(frozen=True)
class Base:
    """How the pristine base reads: its tokenizer, and texts with their likelihoods, by metric."""

    tokenizer: Any
    texts: Mapping[str, Sequence[str]]
    likelihoods: Mapping[str, list[tuple[float, int]]]


@dataclass(frozen=True)
class Question:
    """One row to ask of both models."""

    metric: str
    id: str
    prompt: str
    expected: str
    chat: bool
    wrong_output: str = ""
    kind: str = ""

    @property
    def asked(self) -> tuple[str, bool]:
        """What a model is given: the prompt, and whether it is a chat turn."""
        return self.prompt, self.chat


def questions(
    data: EditDataset, earlier: Sequence[str], replay: Sequence[tuple[str, bool]] = ()
) -> list[Question]:
    """Every row that is asked.

    Args:
        data: the dataset.
        earlier: ids of corrections that the champion already holds.
        replay: recent requests, and whether they are chat turns; expected is what the champion answers.
    """
    from validation import outcomes as rows

    found = []
    held = set(earlier)
    for edit in data.edits.to_dict("records"):
        about = {"id": edit["id"], "expected": edit["target"], "chat": bool(edit["chat"])}
        about["kind"] = "" if edit["chat"] else rows.TEXT
        wrong = edit["wrong_output"] or ""
        found.append(Question(rows.EDIT, prompt=edit["prompt"], wrong_output=wrong, **about))
        found += [Question(rows.EQUIVALENCE, prompt=p, **about) for p in edit["held_out"]]
        if edit["id"] in held:
            found.append(Question(rows.RETENTION, prompt=edit["prompt"], **about))
        else:
            found.append(Question(rows.NEW, prompt=edit["prompt"], wrong_output=wrong, **about))
        if edit["answerer"]:
            found.append(Question(rows.ANSWERED, prompt=edit["prompt"], wrong_output=wrong, **about))
            found += [Question(rows.ANSWERED, prompt=p, **about) for p in edit["held_out"]]
    for row in data.locality.to_dict("records"):
        about = {"id": row["id"], "prompt": row["prompt"], "expected": row["reference"]}
        about["chat"] = bool(row["chat"])
        # Agreement is asked of prompts unseen by the editor; right answers have to stay right anywhere.
        if row["role"] == "gate":
            found.append(Question(rows.LOCALITY, kind=row["kind"], **about))
        if row["confirmed"]:
            gold = row["gold"] or row["reference"]
            found.append(Question(rows.DRAWDOWN, kind=row["kind"], **{**about, "expected": gold}))
    for place, (prompt, chat) in enumerate(replay):
        kind = rows.CHAT if chat else rows.TEXT
        found.append(Question(rows.REPLAY, f"replay-{place:05}", prompt, "", chat, kind=kind))
    return found


def ask_champion(champion: Served, data: EditDataset, asked: Sequence[Question], *, say: Say) -> Before:
    """The champion's answers and log-probabilities; `say` is told (done, total, note)."""
    from validation.divergence import answer_log_probs

    # A reference is the champion's own greedy answer, so only the rest has to be asked.
    rows = data.locality
    known = {
        (prompt, bool(chat)): reference
        for prompt, chat, reference in zip(rows["prompt"], rows["chat"], rows["reference"], strict=True)
    }
    answers = known | _answers(champion, [q for q in asked if q.asked not in known], "champion", say)
    say(0, 1, "champion: log-probabilities")
    measured = partial(answer_log_probs, champion.model, champion.tokenizer)
    return Before(answers, _by_rendering(_staying(asked), measured))


def read_base(model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> Base:
    """How the pristine base reads the texts of each perplexity metric."""
    from validation.perplexity import perplexity

    return Base(tokenizer, texts, {name: perplexity(model, tokenizer, read) for name, read in texts.items()})


def read_beside(candidate: Served, base: Base) -> dict[str, Perplexities]:
    """How base and candidate read the same texts, by metric."""
    from validation.metrics import Perplexities
    from validation.perplexity import perplexity

    # The same tokens for both, whatever the candidate's own tokenizer makes of the texts.
    return {
        name: Perplexities(base.likelihoods[name], perplexity(candidate.model, base.tokenizer, texts))
        for name, texts in base.texts.items()
    }


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
    after = _answers(candidate, asked, "candidate", say)
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
            locality_kl=next(divergences) if q.metric == LOCALITY else float("nan"),
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


def rows_expected(asked: Sequence[Question]) -> dict[str, int]:
    """How many rows of the outcomes frame each metric is to have."""
    from validation.outcomes import PROTOCOLS

    return {name: sum(q.metric == name for q in asked) for name in PROTOCOLS}


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


def _answers(served: Served, asked: Sequence[Question], who: str, say: Say) -> dict[tuple[str, bool], str]:
    """The answer to every question as it is served, by prompt and rendering."""
    from validation.outcomes import CORRECTED

    room: dict[tuple[str, bool], int] = {}
    for q in asked:
        target = q.expected if q.metric in CORRECTED else ""
        room[q.asked] = max(room.get(q.asked, 0), room_for(served.tokenizer, target))
    answers: dict[tuple[str, bool], str] = {}
    # Long targets are rare: all that do not fit are given the room of the longest.
    for chat, long in itertools.product((True, False), (False, True)):
        prompts = [p for (p, is_chat), n in room.items() if is_chat is chat and (n > GATE_TOKENS) is long]
        if prompts:
            given = served.answer(
                prompts,
                chat=chat,
                max_new_tokens=max(room[prompt, chat] for prompt in prompts),
                progress=lambda done, total: say(done, total, f"{who} answers"),
            )
            answers.update({(prompt, chat): answer for prompt, answer in zip(prompts, given, strict=True)})
    return answers


def room_for(tokenizer: Any, target: str) -> int:
    """Tokens that an answer is given so that it can end after the target."""
    return max(GATE_TOKENS, len(tokenizer(target, add_special_tokens=False)["input_ids"]) + _SLACK)


def answered(asked: Sequence[Question], outputs: Sequence[str]) -> list[dict[str, Any]]:
    """What was asked, each with a model's output, as the functions of the user's own gates are given it."""
    return [
        {
            "metric": q.metric,
            "id": q.id,
            "prompt": q.prompt,
            "expected": q.expected,
            "kind": q.kind,
            "chat": q.chat,
            "output": output,
        }
        for q, output in zip(asked, outputs, strict=True)
    ]
