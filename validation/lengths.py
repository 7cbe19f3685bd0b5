"""How long the candidate's answers are beside the champion's, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from validation import outcomes as rows_of
from validation.matching import normalise_answer, words_through
from validation.statistics import Interval, bootstrap_ratio_of_sums

# Words of a sentence that may be put around a target of one word: nobody would call it too long.
SHORT = 6


def corrected_length_ratio(outcomes: pd.DataFrame, seed: int = 0) -> Interval:
    """Words in answers to corrected prompts, over those that there are to the target's end, or `SHORT` ones.

    What follows a target is too much, for the model is taught to end there. Where the target is not given,
    and in raw text, which a model goes on with, the longer of champion's answer and target is allowed.
    It says nothing of answers that are too short: a correction is often shorter than what it corrects, and
    one without the target's words has not succeeded.
    """
    asked = outcomes[outcomes["metric"].isin([rows_of.EDIT, rows_of.EQUIVALENCE, rows_of.RETENTION])]
    allowed = np.maximum(_words(asked, "champion_output"), _words(asked, "expected"))
    through = [
        words_through(row.candidate_output, row.expected) if row.kind != rows_of.TEXT else None
        for row in asked.itertuples()
    ]
    ended = np.array([np.nan if words is None else words for words in through], dtype=np.float64)
    allowed = np.where(np.isnan(ended), np.maximum(allowed, 1.0), np.maximum(ended, SHORT))
    return bootstrap_ratio_of_sums(_words(asked, "candidate_output"), allowed, seed)


def kept_length_ratio(outcomes: pd.DataFrame, seed: int = 0) -> Interval:
    """Words in answers to prompts that must stay, each prompt once, over those of the champion's answers."""
    kept = outcomes[outcomes["metric"].isin([rows_of.LOCALITY, rows_of.DRAWDOWN])]
    asked = kept.drop_duplicates(["prompt", "champion_output", "candidate_output"])
    allowed = np.maximum(_words(asked, "champion_output"), 1.0)
    return bootstrap_ratio_of_sums(_words(asked, "candidate_output"), allowed, seed)


def _words(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return rows[column].map(lambda text: len(normalise_answer(text).split())).to_numpy(dtype=np.float64)
