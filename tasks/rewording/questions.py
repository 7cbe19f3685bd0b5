"""Reading a wh-question into its parts, so that it can be put another way without a parser or a model.

What cannot be read with confidence is not read at all: a rule that finds no parts makes no phrasing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tasks.rewording import grammar
from tasks.rewording.clauses import NEGATIONS, asks_again, is_one_thing, trails_off
from tasks.rewording.grammar import AUXILIARIES, BE, DETERMINERS, DO, NAME_LINKERS, PREPOSITIONS, word_set

_CLAUSE = r" (?:that|which|who|whom|whose|where|when|is|was|are|were|made|called) "
BARE = frozenset({"what", "which", "who", "whom", "when", "where", "why", "how"})
_MEASURES = word_set("old tall high long much far large big deep heavy wide fast often soon close hot cold")
# "Tell me what gender Anna is", but "tell me which river is the longest": these name a property of the rest.
_ATTRIBUTES = word_set(
    "colour color gender sex age size nationality language religion species genus type kind family rank "
    "year date day height weight occupation profession position status voice title ethnicity"
)


# Where what is said of the subject begins: "How old was he | when he died", "How far is it | from Rome".
_ADVERBIAL = word_set("when while if because before after since until compared from")


_PEOPLE = word_set(
    "author writer president king queen emperor pope ceo founder leader inventor director husband "
    "wife father mother son daughter brother sister composer painter singer mayor minister "
    "chancellor owner creator discoverer captain winner architect governor chairman"
)


# What people leave out: "Which state is the hall located (in)?"
_LEFT_OUT = {"located": "in", "situated": "in", "based": "in", "born": "in", "belong": "to", "belongs": "to"}
_LEFT_OUT |= {"belonged": "to", "originate": "in", "originates": "in", "originated": "in"}


@dataclass(frozen=True)
class Question:
    """A wh-question's parts.

    An inverted question ("What | is | the capital of Chad", "Where | was | Ada | born") has an auxiliary and
    a subject. In a subject question ("Who | wrote Hamlet") the wh-phrase is the subject, `finite` the rest.
    """

    wh: str
    auxiliary: str
    subject: str
    finite: str
    """The verb phrase in statement order, without the subject: "is", "was born", "went to"."""

    @property
    def inverted(self) -> bool:
        """Whether the statement has another word order than the question."""
        return bool(self.subject)

    @property
    def embedded(self) -> str:
        """The question in statement order, "what the capital of Chad is", or a long noun phrase by itself."""
        if self.noun_phrase and len(self.subject.split()) > 6 and re.search(_CLAUSE, self.subject):
            return self.subject
        wh = "what" if self.wh == "which" and self.noun_phrase and self.finite in {"is", "was"} else self.wh
        return " ".join(part for part in (wh, self.subject, self.finite) if part)

    @property
    def noun_phrase(self) -> str:
        """What a question after a definite thing asks for, "the capital of Chad", or nothing.

        "Who were the Beatles?" and "What is the heart?" ask what something is, and not for it.
        """
        asks = self.wh in {"what", "who", "which"} and self.finite in BE and is_definite(self.subject)
        words = self.subject.split()
        described = len(words) > 2 or not self.subject.startswith("the ")
        named = all(grammar.is_name(word) or word in NAME_LINKERS for word in words)
        return self.subject if asks and described and not named else ""


def is_definite(phrase: str) -> bool:
    """Whether a noun phrase names one definite thing: "the capital of Chad", "Chad's capital"."""
    return phrase.startswith("the ") or bool(re.search(r"(?:['’]s|s['’]) [a-z]", phrase))


def asked_for(noun_phrase: str) -> Question:
    """The question after a noun phrase: "the capital of Chad" -> what is the capital of Chad."""
    head = re.split(r" (?:of|for|in|on|at|to|that|which|who|where|and|or) ", noun_phrase)[0].split()[-1]
    auxiliary = "are" if grammar.is_plural(head) else "is"
    return Question("who" if head in _PEOPLE else "what", auxiliary, noun_phrase, auxiliary)


def read_question(text: str) -> Question | None:
    """The parts of one wh-question, or None where they cannot be told with confidence."""
    tokens = text.rstrip(" ?!.").split()
    if tokens and re.search(r"\w\.\w", tokens[-1]) and f"{tokens[-1]}." in text:
        tokens[-1] += "."  # The mark is the abbreviation's: "the U.S."
    if len(tokens) < 3 or any(mark in text for mark in (";", ":", "\n")) or asks_again(text):
        return None
    if any(token.lower().endswith(("n't", "n’t")) for token in tokens):
        return None
    tokens[0] = tokens[0].lower()
    tokens = _expand_contraction(tokens)
    start = 1 if tokens[0] in PREPOSITIONS and len(tokens) > 3 else 0
    word = tokens[start].lower()
    if word in AUXILIARIES and not start and text.rstrip().endswith("?"):
        question = _after_auxiliary("whether", word, tokens[1:])
        usable = (
            question
            and question.inverted
            and question.finite not in AUXILIARIES
            and is_one_thing(question.subject)
        )
        # "Are you a robot?" is no matter that anybody else could look up.
        return question if usable and tokens[1].lower() != "you" else None
    if word not in BARE | {"whose"}:
        return None
    boundary = _wh_boundary(tokens, start)
    if boundary is None:
        return None
    wh, rest = " ".join(tokens[:boundary]), tokens[boundary:]
    nouns = tokens[start + 1 : boundary]
    if nouns and grammar.is_name(nouns[-1]) and any(noun.islower() for noun in nouns):
        # "Which lady Princess Ada was ...": where the wh-phrase ends cannot be told.
        return None
    head = rest[0]
    if head not in AUXILIARIES:
        # A fronted preposition can only stand before an inversion.
        return None if start else Question(wh, "", "", " ".join(rest))
    if len(rest) < 2:
        return None
    question = _after_auxiliary(wh, head, rest[1:])
    if question is None or not is_one_thing(question.subject):
        return None
    if question.inverted and trails_off(question.finite):
        return None
    return _mended(question, fronted=bool(start))


def _mended(question: Question, *, fronted: bool) -> Question | None:
    """The question with the preposition its wh-phrase needs; None where it has it twice."""
    last = question.finite.split()[-1]
    if fronted:
        return None if last in PREPOSITIONS and question.inverted else question
    if question.wh == "where" and last in {"at", "to", "in"}:
        return replace(question, finite=question.finite.rpartition(" ")[0])
    left_out = (
        _LEFT_OUT.get(last) if question.wh.startswith(("what ", "which ")) and question.inverted else None
    )
    return replace(question, finite=f"{question.finite} {left_out}") if left_out else question


def _expand_contraction(tokens: list[str]) -> list[str]:
    match = re.fullmatch(r"(what|who|where|when|how)(?:['’]s|s)", tokens[0])
    return [match[1], "is", *tokens[1:]] if match else tokens


def _wh_boundary(tokens: list[str], start: int) -> int | None:
    """Index of the first token after the wh-phrase: an auxiliary, or the verb of a subject question."""
    word, after = tokens[start], tokens[start + 1]
    if after in AUXILIARIES:
        return start + 1
    # "What plays did Shakespeare write?" asks after plays; "Who plays Ada?" does not.
    asks_after_noun = word == "what" and any(token in DO for token in tokens[2:6])
    if word in {"who", "what"} and grammar.finite_tense(after) and not asks_after_noun:
        return start + 1
    if word in {"who", "whom", "when", "where", "why"}:
        return start + 1 if word == "who" and after in grammar.ADVERBS else None
    window = range(start + 2, min(len(tokens), start + 9))
    relative = next((i for i in window if tokens[i] in grammar.RELATIVISERS), len(tokens))
    inversion = next((i for i in window if tokens[i] in DO and i < relative), None)
    if inversion is not None:
        return inversion
    for i in window:
        plural = word in {"how", "whose", "which", "what"} and grammar.is_plural(tokens[i - 1])
        base = plural and tokens[i] in grammar.BASE_VERBS
        if i < relative and (tokens[i] in AUXILIARIES or grammar.finite_tense(tokens[i]) or base):
            return i
    return None


def _after_auxiliary(wh: str, auxiliary: str, rest: list[str]) -> Question | None:
    first = rest[0]
    bare = wh in BARE
    if first in NEGATIONS:
        # "Which state does not border Canada" stays as it is; "why is not ..." cannot.
        asked = wh.split()[0] in {"who", "what", "which", "whose"}
        return Question(wh, "", "", " ".join([auxiliary, *rest])) if asked and len(rest) > 1 else None
    if wh in {"who", "which", "what"} and auxiliary in BE and re.search(r"^[a-z].*, .* or ", " ".join(rest)):
        # "Which is heavier, gold or lead?"
        plain = first not in DETERMINERS and not set(rest) & {"of"}
        return Question(wh, "", "", " ".join([auxiliary, *rest])) if plain else None
    if auxiliary in DO:
        return _do_question(wh, auxiliary, rest)
    if auxiliary in BE:
        if _opens_predicate(first):
            return Question(wh, "", "", " ".join([auxiliary, *rest]))
        split = _split_be(wh, rest)
        if wh == "whose" or wh.startswith("whose "):
            split = len(rest) if first in DETERMINERS else split
            bare = first in DETERMINERS
        if split == len(rest) and not bare and not _asks_attribute(wh) and not _is_name_run(rest):
            return Question(wh, "", "", " ".join([auxiliary, *rest]))
    else:
        if first in grammar.BASE_VERBS or grammar.is_participle(first) or first in {"be", "been"}:
            return Question(wh, "", "", " ".join([auxiliary, *rest]))
        perfect = auxiliary in {"has", "have", "had"}
        verbs = {"been"} if perfect else grammar.BASE_VERBS | {"be"}
        split = _first(rest, lambda word: word in verbs or (perfect and grammar.is_participle(word)))
        if split is None and perfect and (wh in {"who", "what"} or not bare) and first in DETERMINERS:
            # "Who has the highest average?": the auxiliary is the verb.
            return Question(wh, "", "", " ".join([auxiliary, *rest]))
    if split is None:
        return None
    if split == len(rest) and (wh in {"why", "whether"} or rest[-1] == "like"):
        return None
    predicate = " ".join(rest[split:])
    return Question(wh, auxiliary, " ".join(rest[:split]), f"{auxiliary} {predicate}".strip())


def _do_question(wh: str, auxiliary: str, rest: list[str]) -> Question | None:
    if len(rest) < 2:
        return None
    verb = _first(rest, lambda word: word in grammar.BASE_VERBS)
    if rest[0].lower() in grammar.PRONOUNS and (auxiliary == "do" or rest[1] in grammar.BASE_VERBS):
        verb = 1
    if verb is None:
        return None
    start = verb - 1 if verb > 1 and rest[verb - 1] in grammar.ADVERBS | {"originally"} else verb
    finite = [*rest[start:verb], grammar.inflect(rest[verb], auxiliary), *rest[verb + 1 :]]
    return Question(wh, auxiliary, " ".join(rest[:start]), " ".join(finite))


def _first(rest: list[str], is_verb: object) -> int | None:
    assert callable(is_verb)
    for i in range(1, len(rest)):
        before = rest[i - 1]
        inside = before in DETERMINERS | PREPOSITIONS | {"and", "of"} or before.endswith(("'s", "’s"))
        if before in grammar.RELATIVISERS or before.lower() in {"who", "that"}:
            return None
        if is_verb(rest[i]) and not inside:
            return i
    return None


def _opens_predicate(word: str) -> bool:
    return (
        grammar.is_participle(word)
        or grammar.is_progressive(word)
        or word in grammar.PREDICATE_ADJECTIVES
        or word in PREPOSITIONS
        or (word.endswith("ly") and word.islower() and len(word) > 5)
    )


def _asks_attribute(wh: str) -> bool:
    nouns = wh.replace(" of", " ").split()
    return any(word in _ATTRIBUTES for word in nouns) or (nouns[0] == "how" and nouns[-1] in _MEASURES)


def _is_name_run(rest: list[str]) -> bool:
    return rest[0] not in DETERMINERS and all(grammar.is_name(w) or w in NAME_LINKERS for w in rest)


def _split_be(wh: str, rest: list[str]) -> int | None:
    """How many words after "is" are the subject; all of them where nothing is predicated."""
    if rest[0].lower() in grammar.PRONOUNS:
        return 1
    if wh.split()[0] in {"how", "where"}:
        adverbial = (i for i, word in enumerate(rest) if i and word in _ADVERBIAL)
        if (split := next(adverbial, None)) is not None:
            return split
    determined = rest[0] in DETERMINERS or not grammar.is_name(rest[0])
    relative = next((i for i, word in enumerate(rest) if word in grammar.RELATIVISERS), None)
    if relative is not None and wh not in {"what", "who", "which"} and grammar.is_participle(rest[-1]):
        # "Where was the treaty that ended the war signed?": whose participle it is cannot be told.
        return None
    if determined and wh in BARE and relative is None and any(word in AUXILIARIES for word in rest):
        # "the country Ada is from": a clause without its relative pronoun.
        return len(rest)
    if rest[-1] in PREPOSITIONS and relative is None:
        return _before_final_preposition(rest)
    for i in range(1, len(rest)):
        word, after = rest[i], rest[i + 1] if i + 1 < len(rest) else ""
        if relative is not None and i >= relative:
            break
        # "the most visited museum": a participle before a noun describes it.
        closes = not after or after in PREPOSITIONS | {"and", "or", "by"}
        verbal = grammar.is_participle(word) or (grammar.is_progressive(word) and bool(after))
        if verbal and rest[i - 1] not in DETERMINERS and (closes or not determined):
            # "What is the product made by UniFirst?" asks after a product; "... called?" predicates.
            return (
                i
                if wh not in {"what", "who", "which"} or (i >= len(rest) - 2 and after != "by")
                else len(rest)
            )
        if (
            word in DETERMINERS - ({"the"} if wh != "whether" else set())
            and grammar.is_name(rest[i - 1])
            and not determined
        ):
            return i
        if word in grammar.PREDICATE_ADJECTIVES and rest[i - 1] not in DETERMINERS and not after:
            return i
    return len(rest)


def _before_final_preposition(rest: list[str]) -> int | None:
    """Where the predicate of "... X from?", "... X famous for?", "... X a tributary of?" begins."""
    for i in range(1, len(rest)):
        before_is_name = grammar.is_name(rest[i - 1])
        if _opens_predicate(rest[i]) and rest[i] not in PREPOSITIONS and rest[i - 1] not in DETERMINERS:
            return i
        if rest[i] in {"a", "an", "the"} and before_is_name and i >= len(rest) - 4:
            return i
    return len(rest) - 1 if grammar.is_name(rest[-2]) or rest[0] in DETERMINERS else None
