"""Equivalent phrasings of a prompt by rule, and their division between the editor and the gates.

The rules are general English and need no model. Each phrasing carries the form it was made by,
`family/variant`. What is held out for the gates is held out by family, so that it is never a template the
editor saw.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tasks.records import normalise_prompt
from tasks.rewording.prompts import Prompt
from tasks.rewording.rules import SYNTACTIC, reworded
from validation.limits import DataLimits

Item = TypeVar("Item")

# A phrasing in these families differs from the prompt in case and punctuation only: too easy to be a check.
_NEVER_HELD_OUT = frozenset({"casual"})


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


def split_by_form(
    phrasings: Sequence[Phrasing], *, held_out: int, seed: str
) -> tuple[list[Phrasing], list[Phrasing]]:
    """Divide phrasings between the editor and the gates by family; no family is on both sides.

    The held-out part mixes syntactic forms and wrappers, and holds no phrasing with the same words as one the
    editor gets. At most half of the families are held out; of a held-out family the rest is dropped. The
    editor's part goes round the families, so that the first few of it are already varied.

    Args:
        phrasings: What `rephrase` gave.
        held_out: How many to hold out; fewer where there are too few families.
        seed: Usually the correction's id; the same seed gives the same division.
    """
    families: dict[str, list[Phrasing]] = {}
    for phrasing in sorted(phrasings, key=lambda p: _hash(seed, p.form, p.text)):
        families.setdefault(phrasing.family, []).append(phrasing)
    order = sorted(families, key=lambda family: _hash(seed, family))
    held = _held_families(order, held_out)
    for_editor = _round_robin([families[family] for family in order if family not in held])
    known = {wording(phrasing.text) for phrasing in for_editor}
    fresh = [[p for p in families[family] if wording(p.text) not in known] for family in held]
    return for_editor, _round_robin(fresh)[:held_out]


def _held_families(order: Sequence[str], held_out: int) -> list[str]:
    candidates = [family for family in order if family not in _NEVER_HELD_OUT]
    pools = [[f for f in candidates if f in SYNTACTIC], [f for f in candidates if f not in SYNTACTIC]]
    return _round_robin(pools)[: min(held_out, len(order) // 2)]


def _round_robin(groups: Sequence[Sequence[Item]]) -> list[Item]:
    longest = max((len(group) for group in groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
