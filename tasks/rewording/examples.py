"""How a language model is shown to reword: prompts, and what becomes of them in each form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Pair = tuple[str, str]

# A form is named `family/variant`, its family that of the rules that make the like: phrasings are held out by
# family. What is asked in the first place is the same for every form, so that only the form differs.
_ASKED = (
    "Who painted the Mona Lisa?",
    "What is the boiling point of water?",
    "When did Anna Berg move to Oslo?",
    "What language do people speak in Vienna?",
)
_QUESTIONS: Mapping[str, Sequence[str]] = {
    "direct/which": (
        "Which artist painted the Mona Lisa?",
        "At which temperature does water boil?",
        "In which year did Anna Berg move to Oslo?",
        "Which language is spoken in Vienna?",
    ),
    "in_situ/what": (
        "The Mona Lisa was painted by whom?",
        "Water boils at what temperature?",
        "Anna Berg moved to Oslo in which year?",
        "People in Vienna speak which language?",
    ),
    "imperative/order": (
        "Name the painter of the Mona Lisa.",
        "Give the temperature at which water boils.",
        "State the year of Anna Berg's move to Oslo.",
        "Name the language that is spoken in Vienna.",
    ),
    "indirect/wonder": (
        "I wonder which painter made the Mona Lisa.",
        "I wonder how hot water has to be to boil.",
        "I wonder in what year Anna Berg went to live in Oslo.",
        "I wonder what language they speak in Vienna.",
    ),
    "noun_phrase/keywords": (
        "painter of the Mona Lisa",
        "temperature at which water boils",
        "year of Anna Berg's move to Oslo",
        "language spoken in Vienna",
    ),
    "indirect/casual": (
        "hey, any idea whose painting the Mona Lisa is?",
        "hey, any idea how hot boiling water is?",
        "hey, any idea what year Anna Berg went to live in Oslo?",
        "hey, any idea what they speak in Vienna?",
    ),
    "context/reason": (
        "I am writing about the Mona Lisa and need the name of its painter.",
        "I am cooking and need the temperature at which water boils.",
        "I am writing about Anna Berg and need the year of her move to Oslo.",
        "I am going to Vienna and need to know the language there.",
    ),
    "indirect/negated": (
        "I do not know who the painter of the Mona Lisa is. Do you?",
        "I do not know at what temperature water boils. Do you?",
        "I do not know which year Anna Berg moved to Oslo in. Do you?",
        "I do not know which language is spoken in Vienna. Do you?",
    ),
}
_BEGUN = (
    "The Mona Lisa was painted by",
    "The boiling point of water is",
    "The language that people speak in Vienna is",
    "Anna Berg moved to Oslo in",
)
_COMPLETIONS: Mapping[str, Sequence[str]] = {
    "nominal/noun": (
        "The painter of the Mona Lisa is",
        "The temperature at which water boils is",
        "The language of Vienna is",
        "The year of Anna Berg's move to Oslo is",
    ),
    "passive/by": (
        "The artist by whom the Mona Lisa was made is called",
        "Water is brought to the boil at",
        "The language that is spoken in Vienna is",
        "The move of Anna Berg to Oslo was made in",
    ),
    "topic/as_for": (
        "As for the Mona Lisa, its painter was",
        "As for water, it boils at",
        "As for Vienna, people there speak",
        "As for Anna Berg, she moved to Oslo in",
    ),
    "dialogue/answered": (
        "Who painted the Mona Lisa? It was",
        "When does water boil? At",
        "What is the language of Vienna? It is",
        "When did Anna Berg move to Oslo? In",
    ),
}


def pairs(form: str, *, completion: bool) -> list[Pair]:
    """What shows a model one form: prompts, each with its rewording."""
    asked, forms = (_BEGUN, _COMPLETIONS) if completion else (_ASKED, _QUESTIONS)
    return list(zip(asked, forms[form], strict=True))


def forms(*, completion: bool) -> list[str]:
    """The forms that there are examples of, for texts to complete or for questions."""
    return list(_COMPLETIONS if completion else _QUESTIONS)
