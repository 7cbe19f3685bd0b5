"""Each correction's phrasings, divided between the editor and the gates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.neighbours import keeps_names
from tasks.records import Correction, State, normalise_prompt
from tasks.rephrase import Phrasing, families_to_hold_out, rephrase, split_by_form, wording
from tasks.rewording.rules import SAME_WORDS
from validation.dataset_facts import phrasing_fault
from validation.matching import normalise_answer, same_meaning

_GIVEN = "given"


@dataclass(frozen=True)
class Division:
    """One correction's phrasings: those an editor learns from, and those that only the gates see."""

    for_editor: list[Phrasing]
    held_out: list[Phrasing]


def divide(
    edited: Sequence[Correction],
    phrasings: Mapping[str, Sequence[Phrasing]],
    *,
    held_out: int,
    equivalents: int,
    seed: int,
) -> dict[str, Division]:
    """Divide the phrasings of all corrections; no form and no wording that one holds out is taught by any.

    Args:
        edited: The corrections, each with what its reporter gave.
        phrasings: Rule-made phrasings by correction id.
        held_out: How many the gates get of each.
        equivalents: How many the editor gets of each; what reporters gave always goes in.
        seed: The same seed gives the same division.
    """
    given = {c.id: _divide_given(c, held_out, seed) for c in edited}
    taught = {wording(c.prompt) for c in edited}
    taught |= {wording(p.text) for division in given.values() for p in division.for_editor}
    held = families_to_hold_out((phrasings[c.id] for c in edited), held_out=held_out, seed=seed)
    divided: dict[str, Division] = {}
    for c in edited:
        told = [p for p in given[c.id].held_out if wording(p.text) not in taught]
        # What another correction teaches cannot be held out, and need not be taught twice.
        fresh = [
            p
            for p in phrasings[c.id]
            if wording(p.text) not in taught
            or (wording(p.text) == wording(c.prompt) and p.family in SAME_WORDS)
        ]
        fresh = [p for p in fresh if wording(p.text) not in {wording(t.text) for t in told}]
        ours, theirs = split_by_form(fresh, held, held_out=held_out - len(told), seed=f"{seed}:{c.id}")
        divided[c.id] = Division([*given[c.id].for_editor, *ours], [*told, *theirs])
    hidden = {wording(p.text) for division in divided.values() for p in division.held_out}
    for c in edited:
        kept = [p for p in divided[c.id].for_editor if wording(p.text) not in hidden]
        at_least = sum(p.family == _GIVEN for p in kept)
        divided[c.id] = Division(kept[: max(equivalents, at_least)], divided[c.id].held_out)
    # The gates tell phrasings apart by fewer signs than their wording has.
    shown = {normalise_answer(c.prompt) for c in edited}
    shown |= {normalise_answer(p.text) for division in divided.values() for p in division.for_editor}
    return {
        id_: Division(d.for_editor, [p for p in d.held_out if normalise_answer(p.text) not in shown])
        for id_, d in divided.items()
    }


@dataclass(frozen=True)
class Fit:
    """Corrections and their rule-made phrasings without what must not be taught, and why it was left out."""

    corrections: list[Correction]
    phrasings: dict[str, list[Phrasing]]
    notes: list[str]


def fit_to_teach(edited: Sequence[Correction], phrasings: Mapping[str, Sequence[Phrasing]]) -> Fit:
    """Leave out the phrasings that must not be taught.

    The phrasing is lost and not the correction: else anybody could take a correction out by adding to it,
    and a rule that makes an order of a question would do so too.
    """
    asked = _asked_by(edited, phrasings)
    fit = Fit([], {}, [])
    for c in edited:
        refused = {normalise_prompt(text) for text in c.refused}
        offered = [*c.equivalents, *(p.text for p in phrasings[c.id])]
        barred = {text for text in offered if normalise_prompt(text) in refused}
        faults = {text: "was refused in review" if text in barred else _fault(text, c) for text in offered}
        for text in c.equivalents:
            rivals = _answered_otherwise(c, asked.get(_question(text, c), []))
            if rivals and not faults[text]:
                faults[text] = f"asks what correction {rivals[0]} answers otherwise"
            elif not faults[text] and not keeps_names(c.prompt, text):
                faults[text] = "names other things than the prompt does, and may ask for something else"
        fit.corrections.append(
            c.model_copy(update={"equivalents": tuple(t for t in c.equivalents if not faults[t])})
        )
        # A fault that the prompt has too is the prompt's, and judged there.
        own = bool(_fault(c.prompt, c))
        fit.phrasings[c.id] = [
            p for p in phrasings[c.id] if p.text not in barred and (own or not faults[p.text])
        ]
        fit.notes.extend(
            f"a phrasing that a reporter gave to correction {c.id} was left out: it {faults[text]}"
            for text in c.equivalents
            if faults[text]
        )
    return fit


def beside_the_ledger(edits: pd.DataFrame, corrections: Sequence[Correction]) -> pd.DataFrame:
    """The edits with what the data gate weighs them by: `active`, `approved` (when), `answered`, `rivals`."""
    of_id = {c.id: c for c in corrections}
    edited = [of_id[id_] for id_ in edits["id"]]
    phrasings = {c.id: rephrase(c.prompt, chat=c.chat) for c in edited}
    asked = _asked_by(edited, phrasings)
    rivals = []
    for c in edited:
        questions = {_question(text, c) for text in (c.prompt, *(p.text for p in phrasings[c.id]))}
        others = {other.id: other for question in questions for other in asked[question]}
        rivals.append(sorted(_answered_otherwise(c, others.values())))
    return edits.assign(
        active=[c.state is State.ACTIVE for c in edited],
        approved=[c.approved_at.isoformat(timespec="microseconds") if c.approved_at else "" for c in edited],
        answered=[c.answered for c in edited],
        rivals=pd.Series(rivals, dtype=object, index=edits.index),
    )


def _asked_by(
    edited: Sequence[Correction], phrasings: Mapping[str, Sequence[Phrasing]]
) -> dict[tuple[str, bool], list[Correction]]:
    """The corrections that ask each question, in their own words or in those that a rule makes of them."""
    asked: dict[tuple[str, bool], dict[str, Correction]] = {}
    for c in edited:
        for text in (c.prompt, *(p.text for p in phrasings[c.id])):
            asked.setdefault(_question(text, c), {})[c.id] = c
    return {question: list(of_id.values()) for question, of_id in asked.items()}


def _question(text: str, correction: Correction) -> tuple[str, bool]:
    """What two phrasings of one question share; unlike their `wording`, it tells C from C++."""
    return normalise_answer(text) or text.strip(), correction.chat


def _answered_otherwise(correction: Correction, others: Iterable[Correction]) -> list[str]:
    """Ids of those whose target does not mean what the correction's does."""
    target = correction.desired_output or ""
    return [
        other.id
        for other in others
        if other.id != correction.id and not same_meaning(target, other.desired_output or "")
    ]


def _fault(text: str, correction: Correction) -> str:
    return phrasing_fault(text, chat=correction.chat)


def _divide_given(correction: Correction, held_out: int, seed: int) -> Division:
    """What the reporter gave: a third held out where there are three or more, the rest for the editor."""
    unique = {
        normalise_prompt(text): text.strip() for text in reversed(correction.equivalents) if wording(text)
    }
    unique.pop(normalise_prompt(correction.prompt), None)
    given = [
        Phrasing(unique[key], f"{_GIVEN}/reporter")
        for key in sorted(unique, key=lambda key: _hash(seed, correction.id, key))
    ]
    count = min(len(given) // 3, held_out)
    return Division(given[count:], given[:count])


def _hash(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
