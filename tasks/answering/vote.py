"""A majority among sampled answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from validation.matching import normalise_answer


@dataclass(frozen=True)
class Vote:
    """The answer that most samples give, as most of them write it; empty where none give one."""

    answer: str
    agreeing: int
    samples: int


def majority(samples: Sequence[str], abstains: str = "") -> Vote:
    """What most samples answer; case, accents, punctuation and articles do not count.

    A sample that is empty, or says what one that does not know says, counts among the samples and answers
    nothing. Of equally frequent answers the one that was given first is taken.
    """
    nothing = {"", _key(abstains)}
    said = [text.strip() for text in samples if _key(text) not in nothing]
    counted = Counter(map(_key, said))
    if not counted:
        return Vote("", 0, len(samples))
    key, agreeing = counted.most_common(1)[0]
    written = Counter(text for text in said if _key(text) == key)
    return Vote(written.most_common(1)[0][0], agreeing, len(samples))


def _key(text: str) -> str:
    return normalise_answer(text) or text.strip()
