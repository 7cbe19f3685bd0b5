"""Rules that put a question another way.

Each is a function from a read prompt to texts; it gives none where it does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.rewording import grammar, wrappers
from tasks.rewording.grammar import BE, capitalise, word_set
from tasks.rewording.prompts import Prompt, owned_by, relation_of
from tasks.rewording.questions import Question

# Who VERBED it: the noun for who does that, and the participle.
_AGENT_NOUNS = """
write:writer invent:inventor discover:discoverer paint:painter compose:composer direct:director found:founder
design:designer create:creator develop:developer produce:producer publish:publisher build:builder
establish:founder own:owner kill:killer win:winner edit:editor translate:translator sing:singer make:maker
manufacture:manufacturer organise:organiser organize:organizer
"""
_AGENTS = {
    grammar.past(verb): (noun, grammar.participle(verb))
    for verb, noun in (pair.split(":") for pair in _AGENT_NOUNS.split())
}
_DIMENSIONS = {
    "old": "age",
    "tall": "height",
    "deep": "depth",
    "heavy": "weight",
    "large": "size",
    "big": "size",
}
_WHOLES = word_set("type kind sort piece work body form style line field branch")
_FRONTED = word_set("in on at for from to by with of")
_PLACED = word_set("located situated born based buried headquartered")


def indirect(prompt: Prompt) -> Sequence[str]:
    """Could you tell me what the capital of Chad is?"""
    if not prompt.question:
        return []
    frames = prompt.pick(wrappers.INDIRECT_QUESTIONS, 2, "indirect")
    return [prompt.after_lead(frame.format(prompt.question.embedded)) for frame in frames]


def indirect_statement(prompt: Prompt) -> Sequence[str]:
    """I would like to know what the capital of Chad is."""
    if not prompt.question:
        return []
    frames = prompt.pick(wrappers.INDIRECT_STATEMENTS, 2, "statement")
    return [prompt.after_lead(frame.format(prompt.question.embedded)) for frame in frames]


def direct(prompt: Prompt) -> Sequence[str]:
    """What is the capital of Chad? - for a prompt that asks it in another form."""
    q = prompt.question
    if not q:
        return []
    if q.inverted:
        return [prompt.after_lead(_ask(q, q.subject))] if q.finite == q.auxiliary else []
    verb = q.finite.split()[0]
    asks = q.wh in {"who", "what", "which"} and (verb in grammar.AUXILIARIES or grammar.finite_tense(verb))
    return [prompt.after_lead(f"{capitalise(q.wh)} {q.finite}?")] if asks else []


def imperative(prompt: Prompt) -> Sequence[str]:
    """Tell me the capital of Chad."""
    phrase = description(prompt.question)
    # Nobody names a name or a number.
    pool = [
        f
        for f in wrappers.IMPERATIVES
        if f != "Name {}." or not phrase.startswith(("the name", "the number"))
    ]
    frames = prompt.pick(pool, 2, "imperative")
    return [prompt.after_lead(frame.format(phrase)) for frame in frames] if phrase else []


def noun_phrase(prompt: Prompt) -> Sequence[str]:
    """The capital of Chad? / capital of Chad."""
    phrase = description(prompt.question)
    if not phrase:
        return []
    short = phrase.removeprefix("the ")
    return [prompt.after_lead(text) for text in (f"{capitalise(phrase)}?", short) if text != prompt.core]


def possessive(prompt: Prompt) -> Sequence[str]:
    """What is Chad's capital?"""
    if prompt.question and (relation := relation_of(prompt.question.noun_phrase)):
        return [prompt.after_lead(_ask(prompt.question, f"{relation[1]}'s {relation[0]}"))]
    return []


def of_phrase(prompt: Prompt) -> Sequence[str]:
    """What is the capital of Chad? - from Chad's capital."""
    if prompt.question and (relation := owned_by(prompt.question.noun_phrase)):
        return [prompt.after_lead(_ask(prompt.question, f"the {relation[0]} of {relation[1]}"))]
    return []


def in_situ(prompt: Prompt) -> Sequence[str]:
    """The capital of Chad is what? / Ada went to what college?"""
    q = prompt.question
    if not q or not q.inverted or q.subject in grammar.PRONOUNS:
        return []
    words = len(q.finite.split())
    simple = q.finite in BE and q.wh in {"what", "who"}
    adverbial = q.wh in {"when", "where"} and words in {2, 3}
    ends = words == 1 or q.finite.split()[-1] in grammar.PREPOSITIONS
    timed = q.wh.split()[-1] in {"year", "date", "day", "month", "time", "century"}
    counted = len(q.wh.split()) > 1 and words <= 3 and ends and not timed and q.finite not in BE
    fronted = q.wh.split()[0] in grammar.PREPOSITIONS
    if not (simple or adverbial or counted or fronted):
        return []
    return [prompt.after_lead(f"{capitalise(q.subject)} {q.finite} {q.wh}?")]


def cleft(prompt: Prompt) -> Sequence[str]:
    """Who was it that wrote Hamlet? / When was it that it opened?"""
    q = prompt.question
    if not q or q.wh.split()[0] in {"how", "why", "what", "whether"} | grammar.PREPOSITIONS:
        return []
    verb = q.finite.split()[0]
    was = "was" if verb in {"was", "were", "did", "had"} or grammar.finite_tense(verb) == "past" else "is"
    if q.inverted and q.wh in {"when", "where"} and len(q.finite.split()) > 1:
        return [prompt.after_lead(f"{capitalise(q.wh)} {was} it that {q.subject} {q.finite}?")]
    known = verb in grammar.AUXILIARIES or grammar.finite_tense(verb)
    if q.inverted or not known or (len(q.wh.split()) > 1 and grammar.is_plural(q.wh)):
        return []
    return [prompt.after_lead(f"{capitalise(q.wh)} {was} it that {q.finite}?")]


def passive(prompt: Prompt) -> Sequence[str]:
    """Hamlet was written by whom? / By whom was Hamlet written?"""
    if not (parts := _agent(prompt.question)):
        return []
    _, was, done, thing = parts
    texts = (f"{capitalise(thing)} {was} {done} by whom?", f"By whom {was} {thing} {done}?")
    return [prompt.after_lead(text) for text in texts]


def nominal(prompt: Prompt) -> Sequence[str]:
    """Who is the writer of Hamlet? / What is the number of moons that Mars has?"""
    q = prompt.question
    if not q or q.noun_phrase:
        return []
    if parts := _agent(q):
        return [prompt.after_lead(f"Who is the {parts[0]} of {parts[3]}?")]
    phrase = description(q)
    asks = "Which" if " that " in phrase and not q.wh.startswith("how") else "What"
    return [prompt.after_lead(f"{asks} is {phrase}?")] if phrase else []


def fronting(prompt: Prompt) -> Sequence[str]:
    """In what language is it written? - from and to: What language is it written in?"""
    q = prompt.question
    words = prompt.core.rstrip(" ?").split()
    if not q or not q.inverted or not prompt.is_direct or len(q.wh.split()) < 2 or q.wh.startswith("how"):
        return []
    first, last = words[0].lower(), words[-1]
    if first in _FRONTED and last not in grammar.PREPOSITIONS:
        return [prompt.after_lead(f"{capitalise(' '.join(words[1:]))} {first}?")]
    if last in _FRONTED and first in {"what", "which"} and len(q.finite.split()) > 2:
        return [prompt.after_lead(f"{capitalise(last)} {first} {' '.join(words[1:-1])}?")]
    return []


def topic(prompt: Prompt) -> Sequence[str]:
    """Regarding Chad, what is the capital?"""
    q = prompt.question
    if not q or not (relation := relation_of(q.noun_phrase) or owned_by(q.noun_phrase)):
        return []
    return [prompt.after_lead(f"Regarding {relation[1]}, {q.wh} {q.auxiliary} the {relation[0]}?")]


def contraction(prompt: Prompt) -> Sequence[str]:
    """What's the capital of Chad?"""
    text = re.sub(r"^(what|who|where) is ", r"\1's ", prompt.core, flags=re.IGNORECASE)
    usable = (
        prompt.kind == "question" and not text.isupper() and text != prompt.core and len(text.split()) > 2
    )
    return [prompt.after_lead(f"{capitalise(text).rstrip('?')}?")] if usable else []


def sentence_to_complete(prompt: Prompt) -> Sequence[str]:
    """Complete the sentence: The capital of Chad is ..."""
    start = _statement_start(prompt.question)
    frames = prompt.pick(wrappers.BLANKS, 1, "blank")
    return [prompt.after_lead(frame.format(capitalise(start))) for frame in frames] if start else []


def description(question: Question | None) -> str:
    """A definite noun phrase for what is asked: "the capital of Chad", "the number of moons Mars has"."""
    if question is None:
        return ""
    if question.noun_phrase:
        return question.noun_phrase
    if parts := _agent(question):
        return f"the {parts[0]} of {parts[3]}"
    words = question.wh.split()
    if question.subject == "it" or "else" in words:
        return ""
    clause = f"{question.subject} {question.finite}".strip()
    if words[:1] == ["how"]:
        return _measured(question, words[1:], clause)
    if question.wh in {"when", "where"} and question.inverted and len(clause.split()) > 2:
        if question.finite.startswith("can "):
            return ""
        return (
            _life_date(question)
            or f"the {'date' if question.wh == 'when' else 'place'} {question.wh} {clause}"
        )
    if words[0] in grammar.PREPOSITIONS and words[1] in {"what", "which"} and len(words) > 2:
        return f"the {' '.join(words[2:])} {words[0]} which {clause}"
    if words[0] not in {"what", "which"} or len(words) < 2 or question.finite in BE:
        return ""
    of_whole = "of" in words and question.inverted
    return f"the {' '.join(words[1:])} that {clause}" if not of_whole or words[1] in _WHOLES else ""


def _measured(question: Question, words: Sequence[str], clause: str) -> str:
    if words[:1] == ["many"] and len(words) > 1:
        return f"the number of {' '.join(words[1:])} {'' if question.inverted else 'that '}{clause}"
    dimension = _DIMENSIONS.get(" ".join(words))
    return f"the {dimension} of {question.subject}" if dimension and question.finite in BE else ""


def _life_date(question: Question) -> str:
    what = {"was born": "birth", "died": "death"}.get(question.finite)
    return (
        f"the {'date' if question.wh == 'when' else 'place'} of {what} of {question.subject}" if what else ""
    )


def _agent(question: Question | None) -> tuple[str, str, str, str] | None:
    """(writer, was, written, Hamlet) of "Who wrote Hamlet?"."""
    if question is None or question.wh != "who" or question.inverted:
        return None
    verb, _, thing = question.finite.partition(" ")
    if (
        verb not in _AGENTS
        or not thing
        or thing.split()[0] in grammar.PREPOSITIONS | {"it", "them", "him", "her"}
    ):
        return None
    if re.search(r"\b(?:who|that|which|and|or)\b", thing):
        return None
    agent, done = _AGENTS[verb]
    plural = not grammar.is_name(thing) and thing.split()[0] == "the" and grammar.is_plural(thing)
    return agent, "were" if plural and " of " not in thing else "was", done, thing


def _statement_start(question: Question | None) -> str:
    if question is None:
        return ""
    if question.noun_phrase:
        return f"{question.noun_phrase} {question.auxiliary}"
    if parts := _agent(question):
        return f"{parts[3]} {parts[1]} {parts[2]} by"
    if question.wh == "where" and question.finite.split()[-1] in _PLACED:
        return f"{question.subject} {question.finite} in"
    if question.wh.startswith(("in what ", "in which ")) and len(question.finite.split()) < 4:
        return f"{question.subject} {question.finite} in"
    return ""


def _ask(question: Question, subject: str) -> str:
    return f"{capitalise(question.wh)} {question.auxiliary} {subject}?"
