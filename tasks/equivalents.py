"""Each correction's phrasings, divided between the editor and the gates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.records import Correction, normalise_prompt
from tasks.rephrase import Phrasing, split_by_form, wording
from validation.instructions import instruction
from validation.matching import normalise_answer
from validation.payloads import unseen

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
    """Divide the phrasings of all corrections; no wording that one holds out is taught by any of them.

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
    divided: dict[str, Division] = {}
    for c in edited:
        told = [p for p in given[c.id].held_out if wording(p.text) not in taught]
        # What another correction teaches cannot be held out, and need not be taught twice.
        fresh = [
            p
            for p in phrasings[c.id]
            if wording(p.text) not in taught
            or (wording(p.text) == wording(c.prompt) and p.family == "casual")
        ]
        fresh = [p for p in fresh if wording(p.text) not in {wording(t.text) for t in told}]
        ours, theirs = split_by_form(fresh, held_out=held_out - len(told), seed=f"{seed}:{c.id}")
        divided[c.id] = Division([*given[c.id].for_editor, *ours], [*told, *theirs])
    hidden = {wording(p.text) for division in divided.values() for p in division.held_out}
    for c in edited:
        kept = [p for p in divided[c.id].for_editor if wording(p.text) not in hidden]
        at_least = sum(p.family == _GIVEN for p in kept)
        divided[c.id] = Division(kept[: max(equivalents, at_least)], divided[c.id].held_out)
    return divided


def fit_to_teach(
    edited: Sequence[Correction], phrasings: Mapping[str, Sequence[Phrasing]]
) -> tuple[list[Correction], list[str]]:
    """The corrections without phrasings of reporters that must not be taught, and why each was left out.

    The phrasing is lost and not the correction: else anybody could take a correction out by adding to it.
    """
    answers: dict[tuple[str, bool], dict[str, str]] = {}
    for c in edited:
        for text in (c.prompt, *(p.text for p in phrasings[c.id])):
            answers.setdefault((wording(text), c.chat), {}).setdefault(_answer(c), c.id)
    fit, notes = [], []
    for c in edited:
        faults = {}
        for text in c.equivalents:
            others = (
                f"asks what correction {id_} answers otherwise"
                for said, id_ in answers.get((wording(text), c.chat), {}).items()
                if said != _answer(c)
            )
            held = instruction(text, chat=c.chat) or unseen(text)
            faults[text] = f"holds {held}" if held else next(others, "")
        fit.append(c.model_copy(update={"equivalents": tuple(t for t, fault in faults.items() if not fault)}))
        notes += [
            f"a phrasing that a reporter gave to correction {c.id} was left out: it {fault}"
            for fault in faults.values()
            if fault
        ]
    return fit, notes


def _answer(correction: Correction) -> str:
    return normalise_answer(correction.desired_output or "")


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
