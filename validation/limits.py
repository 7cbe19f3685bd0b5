"""The limits of what may be learned from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataLimits:
    """Lengths beyond which a row is set aside, and rows below which there is nothing to go on with.

    What is longer than its limit of characters is not read for what it holds either: that takes too long.

    Where several people report, one who alone stands behind more than `reporter_corrections` new corrections
    has all of these set aside; None leaves the number to `flooding.most_of_one`.
    """

    prompt_characters: int = 4000
    target_characters: int = 1000
    target_words: int = 64
    reporter_corrections: int | None = None
    minimum_edits: int = 1
    minimum_gate_locality: int = 20
