"""Which answers are to end by themselves: one that does not end its turn is cut off by whoever serves it."""

from __future__ import annotations

import pandas as pd

from validation import outcomes as rows_of


def corrected_endings(outcomes: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of corrections whose answer is to end; None where the frame says nothing of endings.

    With a target its end is taught, in raw text too: an answer that gives it is to end there. One that does
    not give it is to end where the champion's does, and counts for nothing where that goes on as well.
    """
    if not rows_of.has_endings(outcomes):
        return None
    asked = outcomes[outcomes["metric"].isin([rows_of.EDIT, rows_of.EQUIVALENCE])]
    to_end = (asked["candidate_ok"] == 1) | (asked["champion_ended"] == 1)
    return asked[to_end & asked["champion_ended"].notna() & asked["candidate_ended"].notna()]


def kept_endings(outcomes: pd.DataFrame) -> pd.DataFrame | None:
    """Rows that must stay and whose answer the champion ends, each prompt once; None as above."""
    if not rows_of.has_endings(outcomes):
        return None
    kept = outcomes[outcomes["metric"].isin([rows_of.LOCALITY, rows_of.DRAWDOWN])]
    kept = kept[(kept["champion_ended"] == 1) & kept["candidate_ended"].notna()]
    return kept.drop_duplicates(["prompt", "champion_output", "candidate_output"])
