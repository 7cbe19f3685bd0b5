"""Rules for text to complete, and rules that put something around any prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tasks.rewording import grammar, wrappers
from tasks.rewording.grammar import decapitalise
from tasks.rewording.prompts import Prompt, owned_by, relation_of


def main_clause(prompt: Prompt) -> Sequence[str]:
    """From "Ada, which is located in": Ada is located in."""
    clause = _main_clause(prompt.core)
    return (
        [prompt.after_lead(clause)] if prompt.kind == "completion" and clause not in {"", prompt.core} else []
    )


def fragment(prompt: Prompt) -> Sequence[str]:
    """From "Ada is located in": "Ada, located in"."""
    match = re.fullmatch(r"([^,]+) (?:is|was|are|were) (\w+ (?:in|at|by|after|for|on))", prompt.core)
    usable = prompt.kind == "completion" and match and grammar.is_participle(match[2].split()[0])
    return [prompt.after_lead(f"{match[1]}, {match[2]}")] if match and usable else []


def completion_possessive(prompt: Prompt) -> Sequence[str]:
    """From "the mother tongue of Ada is": Ada's mother tongue is; and back."""
    if prompt.kind != "completion" or not (match := re.fullmatch(r"(.+) (is|was|are|were)", prompt.core)):
        return []
    phrase, verb = decapitalise(match[1]), match[2]
    if relation := relation_of(phrase):
        return [prompt.after_lead(f"{relation[1]}'s {relation[0]} {verb}")]
    if relation := owned_by(phrase):
        return [prompt.after_lead(f"The {relation[0]} of {relation[1]} {verb}")]
    return []


def completion_reported(prompt: Prompt) -> Sequence[str]:
    """It is known that the mother tongue of Ada is ..."""
    clause = _main_clause(prompt.core) if prompt.kind == "completion" else ""
    frames = prompt.pick(wrappers.REPORTS, 2, "report")
    return [prompt.after_lead(frame.format(decapitalise(clause))) for frame in frames] if clause else []


def completion_dialogue(prompt: Prompt) -> Sequence[str]:
    """Q: What is the mother tongue of Ada? A: ..."""
    if prompt.kind != "completion" or not (match := re.fullmatch(r"(.+) (is|was|are|were)", prompt.core)):
        return []
    phrase = decapitalise(match[1])
    if not (relation_of(phrase) or owned_by(phrase)):
        return []
    frames = prompt.pick(wrappers.DIALOGUES, 2, "dialogue")
    return [frame.format(f"What {match[2]} {phrase}?") for frame in frames] if not prompt.lead else []


def _main_clause(text: str) -> str:
    """The prompt as a main clause that stops where it does, or nothing where it cannot be told."""
    before, comma, _ = text.partition(",")
    placed = before.lower().startswith(tuple(f"{word} " for word in grammar.PREPOSITIONS))
    if comma and (placed or not before or relation_of(decapitalise(before))):
        # "The capital of Chad, a country in": the rest may be about the last name only.
        return ""
    if match := re.fullmatch(r"(.+?),? (which|who|that) (\w+)((?: [^,]*)?)", text):
        finite = match[3] in grammar.AUXILIARIES or grammar.finite_tense(match[3])
        subject = f"{match[1]}," if "," in match[1] else match[1]
        # "The man who wrote it was": the verb behind the relative clause is the sentence's.
        second = any(_is_second_verb(word, match[3]) for word in match[4].split())
        # "To be or not to be, that is": here "that" begins the main clause itself.
        second = second or (match[2] == "that" and not match[4])
        return f"{subject} {match[3]}{match[4]}" if finite and not second else ""
    if match := re.fullmatch(r"([^,]+), (an? [^,]+)", text):
        return f"{match[1]} is {match[2]}"
    if match := re.fullmatch(r"([^,]+), (\w+)((?: [^,]*)?)", text):
        verb = {"located": "is", "situated": "is", "based": "is"}.get(match[2], "was")
        return f"{match[1]} {verb} {match[2]}{match[3]}" if grammar.is_participle(match[2]) else ""
    words = text.split()
    # After a name, "died" or "succumbed" is the verb, not a participle.
    has_verb = any(
        word in grammar.AUXILIARIES or grammar.finite_tense(word) or grammar.is_participle(word)
        for word in words[1:]
    )
    return text if has_verb and "," not in text else ""


def _is_second_verb(word: str, first: str) -> bool:
    if word in grammar.AUXILIARIES:
        return word not in {"be", "been"}
    return bool(grammar.finite_tense(word)) and not (
        first in grammar.AUXILIARIES and grammar.is_participle(word)
    )


def request(prompt: Prompt) -> Sequence[str]:
    """Could you explain photosynthesis? - from and to: Explain photosynthesis."""
    order = prompt.order.rstrip(" .!?")
    if not order or ":" in order:
        return []
    inside = order[0].lower() + order[1:]
    frames = prompt.pick(wrappers.REQUESTS, 2, "request")
    texts = [f"{grammar.capitalise(order)}.", *(frame.format(inside) for frame in frames)]
    return [prompt.after_lead(text) for text in texts]


def wrapped_in(family: str) -> Callable[[Prompt], Sequence[str]]:
    """The rule that puts the wordings of one family around a prompt."""

    def rule(prompt: Prompt) -> Sequence[str]:
        if family == "adverbial" and prompt.lead:
            return []
        frames = prompt.pick(wrappers.WRAPPERS[prompt.kind].get(family, ()), 2, family)
        return [frame.format(_fitted(prompt, frame)) for frame in frames]

    return rule


def _fitted(prompt: Prompt, frame: str) -> str:
    """The prompt as a sentence, with a small first letter after a colon or comma."""
    inline = frame.partition("{}")[0].rstrip().endswith((":", ","))
    if not inline or prompt.lead:
        return prompt.sentence
    if prompt.whole[:1].islower():
        return prompt.whole[:1] + prompt.sentence[1:]
    return decapitalise(prompt.sentence)


def unrelated_prefix(prompt: Prompt) -> Sequence[str]:
    """The kettle had just begun to whistle. What is the capital of Chad?"""
    if prompt.kind == "foreign":
        return []
    words = set(re.findall(r"[a-z]{4,}", prompt.whole.lower()))
    pool = [s for s in wrappers.UNRELATED if not words & set(re.findall(r"[a-z]{4,}", s.lower()))]
    return [f"{sentence} {prompt.sentence}" for sentence in prompt.pick(pool, 2, "prefix")]


def casual(prompt: Prompt) -> Sequence[str]:
    """Without capitals and marks: "what is the capital of chad"."""
    if prompt.kind == "completion" or len(prompt.whole) > 200 or "\n" in prompt.whole:
        return []
    tidy = [prompt.sentence] if prompt.kind == "question" else []
    return [*tidy, prompt.whole.lower().rstrip(" ?.!")]


def haste(prompt: Prompt) -> Sequence[str]:
    """Typed in haste: "what is teh capital of chad pls"."""
    if prompt.kind != "question" or not prompt.is_direct or prompt.lead:
        return []
    words = prompt.whole.rstrip(" ?").split()
    slips = [(i, wrappers.SLIPS[w.lower()]) for i, w in enumerate(words) if w.lower() in wrappers.SLIPS]
    for i, slip in prompt.pick(slips, 1, "haste"):
        words[i] = slip
    text = " ".join(words).lower()
    return [f"{text}??", f"{text} pls"] if slips else []
