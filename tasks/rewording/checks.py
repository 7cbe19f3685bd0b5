"""What every rewording has to keep, whichever rule made it."""

from __future__ import annotations

import re
from collections import Counter

from tasks.rewording import grammar
from tasks.rewording.grammar import word_set

# A rule may put these another way, or leave them out. Verbs too: "did it end" is "it ended".
_FREE = (
    grammar.DETERMINERS
    | grammar.PRONOUNS
    | grammar.PREPOSITIONS
    | grammar.AUXILIARIES
    | grammar.RELATIVISERS
    | word_set(
        "what why how whether if me us be been please kindly mind happen like trying many much s t re d m"
    )
    | word_set("old tall deep heavy large big located situated based")
)
# A number's sign, point and comma belong to it.
_WORD = re.compile(r"[-+]?\d(?:[\d.,]*\d)?|[^\W_]+")
_UNTIDY = re.compile(r" {2,}| [?.,;:!](?!\.)|(?<!\.)[?.!,;:]\.(?!\.)|[.,;:]\?|,[,!;:]")


def words(text: str) -> list[str]:
    """The words and numbers of a text, without case."""
    return _WORD.findall(text.lower())


def is_sound(prompt: str, text: str) -> bool:
    """Whether a rewording holds what the prompt says and has no marks or spaces gone astray."""
    kept = Counter(words(text))
    lost = Counter(word for word in words(prompt) if not _may_go(word)) - kept
    return not lost and not _untidy(text) - _untidy(prompt)


def _may_go(word: str) -> bool:
    return (
        word in _FREE
        or word in grammar.BASE_VERBS
        or bool(grammar.finite_tense(word))
        or grammar.is_participle(word)
    )


def _untidy(text: str) -> set[str]:
    return set(_UNTIDY.findall(text))
