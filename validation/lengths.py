"""How long the candidate's answers are beside the champion's, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from validation import outcomes as rows_of
from validation.statistics import Interval, bootstrap_ratio_of_sums


def corrected_length_ratio(outcomes: pd.DataFrame, seed: int = 0) -> Interval:
    """Words in answers to corrected prompts, over the longer of the champion's answer and the target.

    It says nothing of answers that are too short: a correction is often shorter than what it corrects, and
    one without the target's words has not succeeded.
    """
    asked = outcomes[outcomes["metric"].isin([rows_of.EDIT, rows_of.EQUIVALENCE, rows_of.RETENTION])]
    allowed = np.maximum(_words(asked, "champion_output"), _words(asked, "expected"))
    return bootstrap_ratio_of_sums(_words(asked, "candidate_output"), np.maximum(allowed, 1.0), seed)


def kept_length_ratio(outcomes: pd.DataFrame, seed: int = 0) -> Interval:
    """Words in answers to prompts that must stay, each prompt once, over those of the champion's answers."""
    kept = outcomes[outcomes["metric"].isin([rows_of.LOCALITY, rows_of.DRAWDOWN])]
    asked = kept.drop_duplicates(["prompt", "champion_output", "candidate_output"])
    allowed = np.maximum(_words(asked, "champion_output"), 1.0)
    return bootstrap_ratio_of_sums(_words(asked, "candidate_output"), allowed, seed)


def _words(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return rows[column].map(lambda text: len(str(text).split())).to_numpy(dtype=np.float64)
