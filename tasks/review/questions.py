"""What people are asked about corrections: which of them wait for a person, and what is shown of each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tasks.equivalents import divide, fit_to_teach
from tasks.ledger import Ledger
from tasks.records import Correction, State, normalise_prompt
from tasks.rephrase import rephrase
from validation.suppression import withholding

Rewordings = Callable[[Correction], Sequence[str]]
"""What is proposed for a correction: other phrasings of its prompt."""

# MLflow's page offers ten options of a question at most.
MOST_REWORDINGS = 10


class Kind(StrEnum):
    """Why a person is asked."""

    ANSWER = "answer"
    CHECK = "check"
    CHOOSE = "choose"
    LOOK = "look"


_WHY = {
    Kind.ANSWER: "somebody reported this output and did not say what the right one is",
    Kind.CHECK: "a program gave the desired output, and no person has vouched for it",
    Kind.CHOOSE: "reports of this prompt contradict each other: say Yes to one of them",
    Kind.LOOK: "nothing waits for it: it is asked because all open corrections were put up",
}


@dataclass(frozen=True)
class Question:
    """A correction that a person is asked about; `rewordings` of its prompt are shown by number from 1.

    `asked` counts how often it has come to contradict others: what was decided may have to be again.
    `suppressed` are outputs that must never appear where this prompt is asked.
    """

    kind: Kind
    correction: Correction
    rivals: tuple[Correction, ...] = ()
    rewordings: tuple[str, ...] = ()
    asked: int = 0
    suppressed: frozenset[str] = frozenset()

    @property
    def trace_id(self) -> str:
        """The same for the same question, so that it is asked once."""
        parts = (self.correction.model_name, self.correction.id, self.kind, str(self.asked))
        key = "\x1f".join([*parts, *sorted(rival.id for rival in self.rivals)])
        return f"tr-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def shown(self, redact: Callable[[str], str] = str) -> dict[str, Any]:
        """What the reviewer sees beside the prompt: redacted, and outputs that must never appear withheld.

        A rewording of which something would be is not shown: what is refused is known by its text.
        """
        c = self.correction
        known = [f"{one.prompt} {one.desired_output or ''}" for one in (c, *self.rivals)]
        withheld = withholding([(self.suppressed, " ".join(known))])

        def hidden(text: str) -> str:
            return redact(withheld(text))

        told: dict[str, Any] = {
            "why you are asked": _WHY[self.kind],
            "the model said": hidden(c.wrong_output),
        }
        if c.desired_output is not None:
            told["it should have said"] = hidden(c.desired_output)
        if c.answerer:
            told["says who"] = redact(c.answerer)
        if self.rivals:
            told["others want"] = [hidden(rival.desired_output or "") for rival in self.rivals]
        rewordings = [text for text in self.rewordings if hidden(text) == text]
        if rewordings:
            told["rewordings"] = {str(n): text for n, text in enumerate(rewordings, 1)}
        return told


def questions(
    ledger: Ledger, model_name: str, rewordings: Rewordings, *, everything: bool = False
) -> list[Question]:
    """The questions that a model's corrections raise now, oldest report first.

    Args:
        ledger: The ledger.
        model_name: The model.
        rewordings: What is proposed for a correction; what was refused before is left out.
        everything: Ask about all that is open, not only about what waits for a person.
    """
    found = ledger.corrections(model_name)
    at_work: dict[tuple[str, bool], list[Correction]] = defaultdict(list)
    suppressed: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for c in found:
        suppressed[same_prompt(c)].update(c.suppressed)
        if c.state in (State.CONFLICTING, State.ACTIVE):
            at_work[same_prompt(c)].append(c)
    asked = []
    for c in found:
        kind = _kind(c, everything=everything)
        if kind is None:
            continue
        choosing = kind is Kind.CHOOSE
        rivals = [one for one in at_work[same_prompt(c)] if one.id != c.id] if choosing else []
        times = _times_held(ledger, c) if choosing else 0
        texts = tuple(text for text in rewordings(c) if text not in c.refused)[:MOST_REWORDINGS]
        never = frozenset(suppressed[same_prompt(c)])
        asked.append(Question(kind, c, tuple(rivals), texts, times, never))
    return asked


def proposed(c: Correction, *, held_out: int, equivalents: int, seed: int) -> list[str]:
    """The rewordings by rule that an edit dataset of this correction alone would take, its reporter's first.

    The numbers are those that `build` is given.
    """
    fit = fit_to_teach([c], {c.id: rephrase(c.prompt, chat=c.chat)})
    divided = divide(fit.corrections, fit.phrasings, held_out=held_out, equivalents=equivalents, seed=seed)
    return [p.text for p in (*divided[c.id].for_editor, *divided[c.id].held_out)]


def same_prompt(correction: Correction) -> tuple[str, bool]:
    """What corrections about one prompt share."""
    return normalise_prompt(correction.prompt), correction.chat


def _kind(c: Correction, *, everything: bool) -> Kind | None:
    if c.state is State.NEEDS_ANSWER:
        return Kind.ANSWER
    if c.state is State.CONFLICTING:
        return Kind.CHOOSE
    if c.state is State.ACCEPTED and c.answerer:
        return Kind.CHECK
    # A version with a program's answer serves on a person's word.
    return Kind.LOOK if everything and c.state in (State.ACCEPTED, State.ACTIVE) else None


def _times_held(ledger: Ledger, c: Correction) -> int:
    steps = ledger.history(c.id, model_name=c.model_name)
    came = [s for s in steps if s.to_state is State.CONFLICTING and s.from_state is not State.CONFLICTING]
    return len(came)
