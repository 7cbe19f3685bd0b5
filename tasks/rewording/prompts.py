"""What kind of prompt one is, and the reading of it that the rewording rules share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from tasks.rewording import grammar, languages
from tasks.rewording.clauses import asks_again
from tasks.rewording.grammar import word_set
from tasks.rewording.questions import BARE, Question, asked_for, read_question

Kind = Literal["question", "instruction", "completion", "other", "foreign"]
Item = TypeVar("Item")

_LONGEST_IN_WORDS = 60
# What may stand before an order, and before what somebody wants to know.
_POLITE = re.compile(r"(?:(?:can|could|will|would) you,? )?(?:(?:please|kindly),? )?", re.IGNORECASE)
_ASKING = re.compile(
    r"(?:tell me|give me|show me|let me know|name|state|give|identify|do you (?:happen to )?know"
    r"|would you mind telling me"
    r"|i(?:['’]d| would| am|['’]m)? (?:want|need|like|trying) to (?:know|find out)) (.+?)[.!?]?",
    re.IGNORECASE,
)
_COMMANDS = word_set(
    "name tell give list state explain describe write translate summarise summarize compute calculate "
    "convert find identify show compare define draft rewrite classify answer complete suggest create "
    "make generate solve spell count sort reverse rephrase paraphrase simplify correct help recommend "
    "recite rank outline analyse analyze estimate multiply divide subtract fix mention"
)
_ABBREVIATIONS = word_set("st. dr. mr. mrs. ms. vs. no. jr. sr. inc. ltd. co. e.g. i.e. mt. ft. prof. gen.")
_IN_SITU = re.compile(r"(.+?),? (is|was|are|were) (what|who|where|when)")
# "the mother tongue of Ada": a relational noun and whose it is.
_OF = re.compile(
    r"the ((?:(?:[a-z-]+|[A-Z]{2,5}) ){0,2}[a-z-]+"
    r"|(?:date|place|country|city|year|cause) of (?:birth|death|origin)) of (.+)"
)
_APPOSITIVES = word_set(
    "city town state country province kingdom republic island county village month year number type kind "
    "part sort opposite plural synonym antonym two three four five six seven eight nine ten use end rest "
    "top side amount list lot lack case field idea art process act most one city species"
)


@dataclass(frozen=True)
class Prompt:
    """A prompt as the rules see it: its last sentence, what came before, and the parts of its question."""

    whole: str
    lead: str
    core: str
    kind: Kind
    question: Question | None
    chat: bool

    @classmethod
    def read(cls, whole: str, *, chat: bool) -> Prompt:
        """Read a stripped, non-empty prompt."""
        plain = len(whole.split()) <= _LONGEST_IN_WORDS and not re.search(r"[\n`{}<>|]|https?:", whole)
        lead, core = _last_sentence(whole) if plain else ("", whole)
        question = _question(core) if plain else None
        command = bool(_order(core)) or _first_word(core) == "please"
        if not languages.is_english(whole, command=command, read=question is not None):
            return cls(whole, "", whole, "foreign", None, chat)
        if not plain:
            return cls(whole, "", whole, "other", None, chat)
        opening = _first_word(core)
        asks = core.endswith("?") or (chat and opening in BARE | {"whose"} | grammar.AUXILIARIES)
        last = core.split()[-1].lower()
        hangs = last in grammar.AUXILIARIES | grammar.PREPOSITIONS | grammar.DETERMINERS | {"as"}
        # "Show Me a Hero debuted on" orders nothing.
        if command and question is None and (chat or not hangs):
            return cls(whole, lead, core, "instruction", None, chat)
        if question is not None or asks:
            return cls(whole, lead, core, "question", question, chat)
        unfinished = core[-1] not in '.!"”'
        # In a chat, only a text that stops at a word which cannot end a sentence is one to complete.
        if unfinished and len(core.split()) > 1 and (not chat or hangs):
            return cls(whole, lead, core, "completion", None, chat)
        return cls(whole, lead, core, "other", None, chat)

    @property
    def sentence(self) -> str:
        """The whole prompt with a capital first and a mark at the end, where it is a sentence."""
        if self.kind not in {"question", "instruction"}:
            return self.whole
        opening = _first_word(self.core)
        ordering = opening in _COMMANDS | {"please", "i"}
        end = "" if self.whole[-1] in '.?!"”' else "." if ordering else "?"
        return grammar.capitalise(self.whole) + end

    @property
    def order(self) -> str:
        """What a prompt that gives an order wants done, "explain photosynthesis", or nothing."""
        return _order(self.core) if self.kind == "instruction" else ""

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
    if (
        "," in owner
        or owner.endswith(("'s", "’s"))
        or not (named or (len(words) == 1 and not grammar.is_plural(owner) and owner.isalpha()))
    ):
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
    if match := _ASKING.fullmatch(_order(core) or core):
        return _wanted(match[1])
    if question := read_question(core):
        return question
    bare = core.rstrip(" ?.!")
    if core.endswith("?") and (match := _IN_SITU.fullmatch(bare)):
        subject = match[1] if grammar.is_name(match[1].split()[0]) else match[1].lower()
        return Question(match[3], match[2], grammar.decapitalise(match[1]) or subject, match[2])
    phrase = grammar.decapitalise(bare)
    phrase = phrase if phrase.startswith("the ") else f"the {phrase}"
    return asked_for(phrase) if relation_of(phrase) and phrase[4:5].islower() else None


def _wanted(text: str) -> Question | None:
    """The question after what somebody wants to be told: "the capital of Chad", "who wrote Hamlet"."""
    opening, _, clause = text.partition(" ")
    if opening in BARE | {"whether", "if"} and " " in clause:
        wh = "whether" if opening == "if" else opening
        return None if asks_again(clause) else Question(wh, "", "", clause)
    if _first_word(opening) in BARE:
        return None
    definite = re.fullmatch(r"the .+|\S.*?['’]s [a-z].*", text)
    closed = re.search(r" (?:and|or|that|which|who|to) |,", text)
    return asked_for(text) if definite and not closed else None


def _order(core: str) -> str:
    """An order without what makes it polite, or nothing where none is given."""
    order = core[_POLITE.match(core).end() :]  # type: ignore[union-attr]
    return order if order and _first_word(order) in _COMMANDS else ""


def _first_word(text: str) -> str:
    return re.split(r"[\s'’,:]", text.lower(), maxsplit=1)[0]


def _last_sentence(text: str) -> tuple[str, str]:
    start = 0
    for match in re.finditer(r"(\S+[.!?])\s+(?=[\"“'(]?[^\W\d_a-z])", text):
        word = match[1]
        if word.lower() not in _ABBREVIATIONS and not re.fullmatch(r"\W*(?:\w\.)+", word):
            start = match.end()
    return text[:start].strip(), text[start:]
