"""The limits of what may be learned from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataLimits:
    """Lengths beyond which a row is set aside, and rows below which there is nothing to go on with.

    What is longer than its limit of characters is not read for what it holds either: that takes too long.

    Where several people report, those who alone stand behind more than `reporter_corrections` have all of
    these set aside. None only warns, of more than half of a batch: one tester, or a program that judges
    answers, supplies most corrections of many good teams, and nothing but the team's own number tells them
    from a flood.
    """

    prompt_characters: int = 4000
    target_characters: int = 1000
    target_words: int = 64
    reporter_corrections: int | None = None
    minimum_edits: int = 1
    minimum_gate_locality: int = 20
