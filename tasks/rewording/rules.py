"""The rewording rules, in order.

Add one by writing a function and a row here; the row names its form, `family/variant`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.rewording import anywhere, checks, wrappers
from tasks.rewording import question_rules as question
from tasks.rewording import text_rules as text
from tasks.rewording.grammar import word_set
from tasks.rewording.prompts import Prompt

Rule = Callable[[Prompt], Sequence[str]]

RULES: tuple[tuple[str, Rule], ...] = (
    ("indirect/question", question.indirect),
    ("indirect/statement", question.indirect_statement),
    ("direct/question", question.direct),
    ("imperative/name", question.imperative),
    ("noun_phrase/bare", question.noun_phrase),
    ("possessive/of", question.of_phrase),
    ("possessive/owner", question.possessive),
    ("in_situ/end", question.in_situ),
    ("cleft/it", question.cleft),
    ("passive/by", question.passive),
    ("nominal/noun", question.nominal),
    ("fronting/preposition", question.fronting),
    ("topic/regarding", question.topic),
    ("contraction/is", question.contraction),
    ("completion/blank", question.sentence_to_complete),
    ("request/order", text.request),
    ("main_clause/relative", text.main_clause),
    ("main_clause/fragment", text.fragment),
    ("possessive/completion", text.completion_possessive),
    ("reported/that", text.completion_reported),
    ("dialogue/question", text.completion_dialogue),
    ("prefix/unrelated", text.unrelated_prefix),
    *((f"{family}/frame", text.wrapped_in(family)) for family in wrappers.FAMILIES),
    ("casual/lower", text.casual),
    ("haste/slip", text.haste),
)
# For what has few forms otherwise: other languages, code, long texts.
IN_ANY_LANGUAGE: tuple[tuple[str, Rule], ...] = (
    ("casual/set_off", anywhere.set_off),
    ("repeated/twice", anywhere.twice),
    *((f"{family}/mark", anywhere.marked(family)) for family in anywhere.MARKS),
)
# Half of a prompt's families may be held out: of so many, as many as the gates usually want.
_FAMILIES_WANTED = 6

SYNTACTIC = word_set(
    "indirect direct imperative noun_phrase possessive in_situ cleft passive nominal fronting topic "
    "contraction completion request main_clause reported dialogue"
)
"""Families that change the sentence itself; the others put something around it."""

SAME_WORDS = frozenset({"casual"})
"""Families that differ from the prompt in case and marks only; what another makes has to differ in words."""

RESERVED = word_set(
    "indirect in_situ nominal contraction completion request reported dialogue "
    "brief quoted context wrapper quotation label numbered markup mail"
)
"""Families that no editor practises on; the gates hold out these before any other.

A prompt of the traffic that is practised on may be reported later. Every kind of prompt has as many of these
as the gates usually want, syntactic ones and wrappers, and enough others to practise on.
"""


def reworded(prompt: Prompt) -> list[tuple[str, str]]:
    """Every sound rewording of a prompt with its form, in the order of the rules.

    Families that belong to no language are added only until there are enough: English forms teach more.
    """
    made = [(form, text) for form, rule in RULES for text in _sound(prompt, form, rule)]
    for form, rule in IN_ANY_LANGUAGE:
        if len({_family(form) for form, _ in made}) < _FAMILIES_WANTED:
            made += [(form, text) for text in _sound(prompt, form, rule)]
    return made


def _sound(prompt: Prompt, form: str, rule: Rule) -> list[str]:
    words, same = checks.words(prompt.whole), _family(form) in SAME_WORDS
    texts = [text for text in rule(prompt) if checks.is_sound(prompt.whole, text)]
    return [text for text in texts if same or checks.words(text) != words]


def _family(form: str) -> str:
    return form.partition("/")[0]
