"""One reporter who floods a batch: how many new corrections rest on the word of one of several people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# Of one of two people who report nobody can say that it is much.
SEVERAL = 3
# So many are no team of testers any more.
STRANGERS = 10
# A day's work of a diligent tester and more, and what one user among many finds.
MOST_OF_TESTER, MOST_OF_STRANGER = 100, 20
# What a report without a name says; nobody can be held to it.
_ANONYMOUS = frozenset({"", "unknown"})


def named(reporters: Sequence[Sequence[str]]) -> set[str]:
    """Everybody with a name, given those who reported each correction."""
    return {name for names in reporters for name in names} - _ANONYMOUS


def most_of_one(reporters: int) -> int:
    """New corrections that one of so many may alone stand behind.

    In a team one tester, or a program that judges answers, supplies most; of many strangers nobody does but
    who floods.
    """
    return MOST_OF_STRANGER if reporters >= STRANGERS else MOST_OF_TESTER


def new_of_reporter(
    reporters: Sequence[Sequence[str]], stands: Sequence[bool], answered: Sequence[bool]
) -> list[int]:
    """For each correction that one person's word alone stands behind, how many this person has; else 0.

    Args:
        reporters: who reported each correction.
        stands: whether it is active or a person chose it: it counts for nobody, and makes up for one of each
            of its reporters' others.
        answered: whether a person answered what others reported: it counts for nobody.
    """
    names = [named([of_one]) for of_one in reporters]
    if len(set().union(*names)) < SEVERAL:
        return [0] * len(names)
    proven = Counter(name for of_one, good in zip(names, stands, strict=True) if good for name in of_one)
    sole = [
        next(iter(of_one)) if len(of_one) == 1 and not (good or settled) else None
        for of_one, good, settled in zip(names, stands, answered, strict=True)
    ]
    alone = Counter(name for name in sole if name)
    return [max(alone[name] - proven[name], 0) if name else 0 for name in sole]
