"""Whether a model repeats itself: the share of n-grams of its answers that they held before."""

from __future__ import annotations

import numpy as np
import pandas as pd
import regex

from validation.matching import UNSPACED
from validation.outcomes import SUPPRESSED
from validation.statistics import Interval, bootstrap_ratio_of_sums

WORDS = 3

# Signs count, and long words in pieces: a loop of "!" or of "ParisParis" has no words to repeat.
_PIECES = regex.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}]){{1,8}}|\S")


def repeated_ngrams(text: str) -> tuple[int, int]:
    """(n-grams that the text held before, all n-grams); after seq-rep-n of Welleck et al. (2020), n = 3."""
    pieces = _PIECES.findall(text.casefold())
    grams = [tuple(pieces[start : start + WORDS]) for start in range(len(pieces) - WORDS + 1)]
    return len(grams) - len(set(grams)), len(grams)


def repetition(outcomes: pd.DataFrame, seed: int = 0) -> tuple[Interval, float]:
    """The share over all greedy answers of the candidate, each question once, and the champion's share.

    Summed over answers, so that those that go on and on count for as much as they say.
    """
    greedy = outcomes[outcomes["metric"] != SUPPRESSED]
    asked = greedy.drop_duplicates(["prompt", "champion_output", "candidate_output"])

    def counted(column: str) -> tuple[np.ndarray, np.ndarray]:
        counts = np.array([repeated_ngrams(str(text)) for text in asked[column]], dtype=np.float64)
        repeated, grams = counts.reshape(-1, 2).T
        # Answers too short for an n-gram repeat nothing.
        return repeated, np.maximum(grams, 1.0)

    repeated, grams = counted("champion_output")
    champion = float(repeated.sum() / grams.sum()) if len(asked) else float("nan")
    return bootstrap_ratio_of_sums(*counted("candidate_output"), seed), champion
