"""Equivalent phrasings of a prompt by rule, and their division between the editor and the gates.

The rules are general English and need no model. Each phrasing carries the form it was made by,
`family/variant`. What is held out for the gates is held out by family, the same ones for all corrections
that are solved together, so that it is never a template the editor saw.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tasks.records import normalise_prompt
from tasks.rewording.prompts import Prompt
from tasks.rewording.rules import RESERVED, SAME_WORDS, SYNTACTIC, reworded
from validation.limits import DataLimits

Item = TypeVar("Item")


@dataclass(frozen=True)
class Phrasing:
    """Another way to put a prompt, and the form it has: `family/variant`."""

    text: str
    form: str

    @property
    def family(self) -> str:
        """The family of forms, such as `indirect` or `wrapper`."""
        return self.form.partition("/")[0]


def wording(prompt: str) -> str:
    """The prompt's words alone: no case, punctuation or spacing. A held-out phrasing must differ in these."""
    return " ".join(re.findall(r"[^\W_]+", normalise_prompt(prompt)))


def rephrase(prompt: str, *, chat: bool) -> list[Phrasing]:
    """Equivalent phrasings of `prompt`, without duplicates and without the prompt itself.

    The same prompt always gives the same phrasings. One that is not English gets forms that belong to no
    language; one that is empty or too long to be taught gets none.

    Args:
        prompt: A question, an instruction, or a text to complete.
        chat: A chat turn; false for raw text that the model continues.
    """
    whole = prompt.strip()
    if not whole or len(whole) > DataLimits().prompt_characters:
        return []
    parsed = Prompt.read(whole, chat=chat)
    seen, phrasings = {normalise_prompt(whole)}, []
    for form, text in reworded(parsed):
        key = normalise_prompt(text)
        if key and key not in seen:
            seen.add(key)
            phrasings.append(Phrasing(text, form))
    return phrasings


def phrasings_to_practise(prompt: str, *, chat: bool) -> list[Phrasing]:
    """Those that a training may use: none of a reserved family, nor one with the words of such a one."""
    phrasings = rephrase(prompt, chat=chat)
    reserved = {wording(p.text) for p in phrasings if p.family in RESERVED}
    return [p for p in phrasings if p.family not in RESERVED and wording(p.text) not in reserved]


def families_to_hold_out(
    groups: Iterable[Sequence[Phrasing]], *, held_out: int, seed: int | str
) -> frozenset[str]:
    """Families of forms that only the gates see, of all corrections that are solved together.

    Were each correction to hold out families of its own, the solve would learn every form from the others.
    Reserved families come first: no training has seen what is reported later in these. Syntactic forms and
    wrappers take turns; families are taken until every correction has as many of them as it is to hold out,
    or half of its own.

    Args:
        groups: What `rephrase` gave for each correction.
        held_out: How many phrasings each is to hold out.
        seed: The same seed gives the same order of families.
    """
    owned = {frozenset(phrasing.family for phrasing in group) for group in groups}
    candidates = sorted(frozenset().union(*owned) - SAME_WORDS, key=lambda family: _hash(str(seed), family))
    held: set[str] = set()
    for family in (
        *_taking_turns([f for f in candidates if f in RESERVED]),
        *_taking_turns([f for f in candidates if f not in RESERVED]),
    ):
        wanting = (own for own in owned if family in own)
        if any(len(own & held) < min(held_out, len(own) // 2) for own in wanting):
            held.add(family)
    return frozenset(held)


def split_by_form(
    phrasings: Sequence[Phrasing], held: Collection[str], *, held_out: int, seed: str
) -> tuple[list[Phrasing], list[Phrasing]]:
    """Divide phrasings between the editor and the gates by family; no family is on both sides.

    The held-out part holds no phrasing with the same words as one the editor gets; of a held-out family the
    rest is dropped. The editor's part goes round the families, so that the first few of it are varied.

    Args:
        phrasings: What `rephrase` gave.
        held: The families that are held out, from `families_to_hold_out`.
        held_out: How many to hold out; fewer where there are too few.
        seed: Usually the correction's id; the same seed gives the same division.
    """
    families: dict[str, list[Phrasing]] = {}
    for phrasing in sorted(phrasings, key=lambda p: _hash(seed, p.form, p.text)):
        families.setdefault(phrasing.family, []).append(phrasing)
    order = sorted(families, key=lambda family: _hash(seed, family))
    for_editor = _round_robin([families[family] for family in order if family not in held])
    known = {wording(phrasing.text) for phrasing in for_editor}
    fresh = [
        [p for p in families[family] if wording(p.text) not in known] for family in order if family in held
    ]
    return for_editor, _round_robin(fresh)[: max(held_out, 0)]


def _taking_turns(families: Sequence[str]) -> list[str]:
    syntactic, others = [f for f in families if f in SYNTACTIC], [f for f in families if f not in SYNTACTIC]
    return _round_robin([syntactic, others])


def _round_robin(groups: Sequence[Sequence[Item]]) -> list[Item]:
    longest = max((len(group) for group in groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
