"""The rewording rules, in order.

Add one by writing a function and a row here; the row names its form, `family/variant`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.rewording import question_rules as question
from tasks.rewording import text_rules as text
from tasks.rewording import wrappers
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

SYNTACTIC = word_set(
    "indirect direct imperative noun_phrase possessive in_situ cleft passive nominal fronting topic "
    "contraction completion main_clause reported dialogue"
)
"""Families that change the sentence itself; the others put something around it."""
