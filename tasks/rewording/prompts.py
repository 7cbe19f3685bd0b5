"""What kind of prompt one is, and the reading of it that the rewording rules share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from tasks.rewording import grammar
from tasks.rewording.grammar import word_set
from tasks.rewording.questions import BARE, Question, asked_for, read_question

Kind = Literal["question", "instruction", "completion", "other", "foreign"]
Item = TypeVar("Item")

_LONGEST_IN_WORDS = 60
_STRONG = word_set(
    "the are and to that which what who whom where when how why with by from does did do has have can "
    "could would please tell name give"
)
_WEAK = word_set("is was were of in on a an for at as it i")
_ASKING = re.compile(
    r"(?:please )?(?:tell me|give me|name|state|give|identify|let me know) "
    r"(the .+?|\S.*?['’]s [a-z].*?)[.!]?",
    re.IGNORECASE,
)
_COMMANDS = word_set(
    "name tell give list state explain describe write translate summarise summarize compute calculate "
    "convert find identify show compare define draft rewrite classify answer complete suggest create "
    "make generate solve"
)
_ABBREVIATIONS = word_set("st. dr. mr. mrs. ms. vs. no. jr. sr. inc. ltd. co. e.g. i.e. mt. ft. prof. gen.")
_IN_SITU = re.compile(r"(.+?),? (is|was|are|were) (what|who|where|when)")
# "the mother tongue of Ada": a relational noun and whose it is.
_OF = re.compile(
    r"the ((?:(?:[a-z-]+|[A-Z]{2,5}) ){0,2}[a-z-]+"
    r"|(?:date|place|country|city|year|cause) of (?:birth|death|origin)) of (.+)"
)
_APPOSITIVES = word_set(
    "city town state country province kingdom republic island county village month year number type "
    "kind part sort two three four five six seven eight nine ten use end rest top side amount list lot "
    "lack case field idea art process act most one city species"
)


@dataclass(frozen=True)
class Prompt:
    """A prompt as the rules see it: its last sentence, what came before, and the parts of its question."""

    whole: str
    lead: str
    core: str
    kind: Kind
    question: Question | None

    @classmethod
    def read(cls, whole: str, *, chat: bool) -> Prompt:
        """Read a stripped, non-empty prompt."""
        plain = len(whole.split()) <= _LONGEST_IN_WORDS and not re.search(r"[\n`{}<>|]|https?:", whole)
        lead, core = _last_sentence(whole) if plain else ("", whole)
        question = _question(core) if plain else None
        if question is None and not _is_english(whole):
            return cls(whole, "", whole, "foreign", None)
        if not plain:
            return cls(whole, "", whole, "other", None)
        opening = core.split()[0].lower()
        asks = core.endswith("?") or (chat and opening in BARE | {"whose"} | grammar.AUXILIARIES)
        if question is not None or asks:
            return cls(whole, lead, core, "question", question)
        if opening in _COMMANDS | {"please"}:
            return cls(whole, lead, core, "instruction", None)
        unfinished = core[-1] not in '.!"”'
        # In a chat, only a text that stops at a word which cannot end a sentence is one to complete.
        last = core.split()[-1].lower()
        hanging = grammar.AUXILIARIES | grammar.PREPOSITIONS | grammar.DETERMINERS | {"as"}
        if unfinished and len(core.split()) > 1 and (not chat or last in hanging):
            return cls(whole, lead, core, "completion", None)
        return cls(whole, lead, core, "other", None)

    @property
    def sentence(self) -> str:
        """The whole prompt as a well-formed sentence: a capital first, a mark at the end."""
        if self.kind == "completion":
            return self.whole
        commanding = self.core.split()[0].lower() in _COMMANDS | {"please"}
        end = "" if self.whole[-1] in '.?!"”' else "?" if self.kind == "question" and not commanding else "."
        return grammar.capitalise(self.whole) + end

    @property
    def is_direct(self) -> bool:
        """Whether the prompt is worded as a question, not as a phrase or an instruction."""
        opening = re.split(r"[\s'’]", self.core.lower())
        fronted = (
            opening[0] in grammar.PREPOSITIONS and opening[1:2] and opening[1] in {"what", "which", "whose"}
        )
        return self.core.endswith("?") or bool(fronted) or opening[0].startswith(("wh", "how"))

    def after_lead(self, text: str) -> str:
        """A reworded last sentence behind the sentences that came before it."""
        return f"{self.lead} {text}".strip()

    def pick(self, pool: Sequence[Item], count: int, salt: str) -> list[Item]:
        """`count` items of a pool by the prompt's digest: always the same, and varied over prompts."""
        order = sorted(
            range(len(pool)),
            key=lambda i: hashlib.sha256(f"{salt}\x1f{i}\x1f{self.whole}".encode()).digest(),
        )
        return [pool[i] for i in order[:count]]


def relation_of(noun_phrase: str) -> tuple[str, str] | None:
    """("capital", "Chad") of "the capital of Chad", where that also reads as "Chad's capital"."""
    match = _OF.fullmatch(noun_phrase)
    if match is None:
        return None
    relation, owner = match[1], match[2]
    words = owner.split()
    named = all(grammar.is_name(word) for word in words) and len(words) <= 5
    if "," in owner or not (named or (len(words) == 1 and not grammar.is_plural(owner) and owner.isalpha())):
        return None
    first, last = relation.split()[0], relation.split()[-1]
    closed = grammar.PREPOSITIONS | grammar.RELATIVISERS | grammar.AUXILIARIES - {"will"}
    if (
        {first, last} & _APPOSITIVES
        or first.endswith(("est", "most"))
        or set(relation.split()) & closed - {"of"}
    ):
        return None
    return relation, owner


def owned_by(noun_phrase: str) -> tuple[str, str] | None:
    """("place of work", "Ada Byron") of "Ada Byron's place of work"."""
    match = re.fullmatch(r"(?:the )?([^'’]+)['’]s ((?:[a-z-]+ ){0,3}[a-z-]+)", noun_phrase)
    if match is None or set(match[1].split()) & (grammar.DETERMINERS | grammar.PREPOSITIONS):
        return None
    owner = f"the {match[1]}" if noun_phrase.startswith("the ") else match[1]
    first, last = match[2].split()[0], match[2].split()[-1]
    described = grammar.is_participle(last) or grammar.is_progressive(last) or last in grammar.PREPOSITIONS
    return None if described or first.endswith(("est", "most")) or first == "first" else (match[2], owner)


def _question(core: str) -> Question | None:
    if question := read_question(core):
        return question
    bare = core.rstrip(" ?.!")
    if match := _ASKING.fullmatch(core):
        return asked_for(match[1]) if not re.search(r" (?:and|or|that|which|who|to) |,", match[1]) else None
    if core.endswith("?") and (match := _IN_SITU.fullmatch(bare)):
        subject = match[1] if grammar.is_name(match[1].split()[0]) else match[1].lower()
        return Question(match[3], match[2], grammar.decapitalise(match[1]) or subject, match[2])
    phrase = grammar.decapitalise(bare)
    phrase = phrase if phrase.startswith("the ") else f"the {phrase}"
    return asked_for(phrase) if relation_of(phrase) and phrase[4:5].islower() else None


def _last_sentence(text: str) -> tuple[str, str]:
    start = 0
    for match in re.finditer(r"(\S+[.!?])\s+(?=[\"“'(]?[^\W\d_a-z])", text):
        word = match[1]
        if word.lower() not in _ABBREVIATIONS and not re.fullmatch(r"\W*(?:\w\.)+", word):
            start = match.end()
    return text[:start].strip(), text[start:]


def _is_english(text: str) -> bool:
    words = [word.strip(".,?!:;\"'()").lower() for word in text.split()]
    if sum(word.isascii() for word in words) < len(words) / 2:
        return False
    if words[-1] in _WEAK and all(grammar.is_name(word) for word in text.split()[:-1]):
        return True
    strong = sum(word in _STRONG or bool(grammar.finite_tense(word)) or _is_verbal(word) for word in words)
    hanging = (words[-1] in _WEAK) / 2
    return strong + hanging + sum(word in _WEAK for word in set(words)) / 2 >= 1


def _is_verbal(word: str) -> bool:
    return word in grammar.BASE_VERBS or grammar.is_participle(word)
