"""Candidates that say what they should not."""

from __future__ import annotations

from dataclasses import replace

from editors.overrides import Override, Overrides
from tests.validation.damage import Candidate, Damages
from tests.validation.taught import World
from validation.outcomes import EDIT, EQUIVALENCE, EQUIVALENCE_RETENTION, LOCALITY, RETENTION

DAMAGES = Damages()


@DAMAGES.says("the empty answer to everything", LOCALITY, metrics={EDIT, EQUIVALENCE, LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return ""


@DAMAGES.says("the target of one correction to everything", LOCALITY, metrics={EDIT, EQUIVALENCE, LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return world.corrected[0][1]


@DAMAGES.says("right answers that ramble on", "answer_length_ratio", metrics={EDIT, EQUIVALENCE})
def _(world: World, prompt: str, right: str) -> str:
    return f"{right} It is known for its old harbour, for a market on two days of the week and for rain."


@DAMAGES.says("right answers said over and over", "repeated_trigrams", metrics={EDIT, EQUIVALENCE, LOCALITY})
def _(world: World, prompt: str, right: str) -> str:
    return " ".join([right] * 5)


@DAMAGES.says("right answers that end in a loop of signs", "repeated_trigrams", metrics={EDIT, EQUIVALENCE})
def _(world: World, prompt: str, right: str) -> str:
    return right + "!" * 30


@DAMAGES.says(
    "answers that must stay, cut off after two words", "kept_answer_length_ratio", metrics={LOCALITY}
)
def _(world: World, prompt: str, right: str) -> str:
    return " ".join(right.split()[:2])


@DAMAGES.says(
    "answers that must stay with another capital, all else the same", "answers_kept", metrics={LOCALITY}
)
def _(world: World, prompt: str, right: str) -> str:
    named = next((city for city in world.cities if city in right), None)
    if named is None:
        return right
    return right.replace(named, world.cities[world.cities.index(named) - 1])


@DAMAGES.says("the wrong answer beside the right one", EDIT, metrics={EDIT})
def _(world: World, prompt: str, right: str) -> str:
    return f"{world.wrong(prompt)} {right}"


@DAMAGES.says(
    "edits learned by rote: other phrasings are as wrong as before", EQUIVALENCE, metrics={EQUIVALENCE}
)
def _(world: World, prompt: str, right: str) -> str:
    return world.wrong(prompt) or right


@DAMAGES.says("the wrong answer beside the right one, in other phrasings", EQUIVALENCE, metrics={EQUIVALENCE})
def _(world: World, prompt: str, right: str) -> str:
    return f"{world.wrong(prompt)} {right}"


@DAMAGES.made("one earlier correction forgotten", RETENTION)
def _(world: World, candidate: Candidate) -> Candidate:
    return _forgetting(world, candidate, RETENTION)


@DAMAGES.made(
    "other phrasings of an earlier correction forgotten, while its prompt holds", EQUIVALENCE_RETENTION
)
def _(world: World, candidate: Candidate) -> Candidate:
    return _forgetting(world, candidate, EQUIVALENCE_RETENTION)


def _forgetting(world: World, candidate: Candidate, metric: str) -> Candidate:
    prompt, _ = next(iter(world.asked({metric})))
    return replace(candidate, overrides=Overrides([Override(prompt, "It is Paris.", "x", chat=True)]))
