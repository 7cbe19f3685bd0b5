"""How long answers take: candidate and champion by the same clock, each pair the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.statistics import Interval, bootstrap


@dataclass(frozen=True)
class AnswerSeconds:
    """Seconds for answers of the same number of tokens; entry i of both was taken at the same prompt."""

    champion: Sequence[float]
    candidate: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.champion) != len(self.candidate):
            raise ValueError("champion and candidate were timed on different prompts; time both in pairs")


def seconds_ratio(seconds: AnswerSeconds, seed: int = 0) -> Interval:
    """The median over pairs of the candidate's seconds over the champion's."""

    def median(sample: NDArray[np.float64], axis: int = -1) -> Any:
        return np.median(sample, axis=axis)

    return bootstrap((np.array(seconds.candidate) / np.array(seconds.champion),), median, seed)
