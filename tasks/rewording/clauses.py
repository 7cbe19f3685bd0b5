"""What makes a question more than one: a second clause, alternatives, an aside, or a negation."""

from __future__ import annotations

import re

from tasks.rewording.grammar import word_set

NEGATIONS = word_set("not never cannot")
_WH = "what|which|who|whom|whose|when|where|why|how"
# "and what is its population", "and in what year", "and is it large"
_AND_ASKS = re.compile(
    rf"\b(?:and|or|but),? (?:(?:in|on|at|for|from|to|of|by|with) )?(?:(?:{_WH})\b"
    r"|(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have) "
    r"(?:i|you|he|she|it|we|they|the|a|this|that)\b)",
    re.IGNORECASE,
)
_ASIDE = re.compile(r", (?=[a-z])|,.* or ")
_TRAILS = re.compile(rf"\b(?:and|or)(?: (?:(?:in|on|at|for|from|to|of|by|with) )?(?:{_WH}))?$")


def asks_again(text: str) -> bool:
    """Whether a second question with words of its own follows; "and when" at the end has none."""
    return any(match.end() < len(text.rstrip(" ?!.")) for match in _AND_ASKS.finditer(text))


def is_one_thing(subject: str) -> bool:
    """Whether a question's subject can be moved as a whole."""
    negated = set(subject.lower().split()) & NEGATIONS
    return not (negated or _ASIDE.search(subject) or trails_off(subject))


def trails_off(text: str) -> bool:
    """Whether a text ends with one more question word: "was born and when"."""
    return bool(_TRAILS.search(text))
