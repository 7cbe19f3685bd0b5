"""The outcomes frame: one row for every prompt that champion and candidate both answered.

Columns: `metric` (see `PROTOCOLS`), `id` (of the correction where one is asked, of the
locality row otherwise), `prompt`, `expected`, `champion_output`, `candidate_output`, `champion_ok` and
`candidate_ok` (0 or 1), `kind` ("near" or "far" where answers must stay; for a replay "chat" or "text"; of a
correction "text" where it is raw text, else ""), `locality_kl` (nats; NaN where not measured),
`champion_ended` and `candidate_ended` (1 where the model ended its answer itself, within the tokens that it
was given, else 0; NaN where that is not known; a frame measured before they were has no such columns).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from validation.matching import matches, same_answer, same_opening, same_substance

CHAT, TEXT = "chat", "text"

TEXT_COLUMNS = ("metric", "id", "prompt", "expected", "champion_output", "candidate_output", "kind")
NUMBER_COLUMNS = ("champion_ok", "candidate_ok", "locality_kl")
ENDED_COLUMNS = ("champion_ended", "candidate_ended")

EDIT = "edit_success_greedy"
NEW = "new_edit_success_greedy"
EQUIVALENCE = "equivalence_success_greedy"
NEW_EQUIVALENCE = "new_equivalence_success_greedy"
LOCALITY = "locality_agreement_greedy"
SUBSTANCE = "locality_substance_greedy"
RETENTION = "retention_greedy"
EQUIVALENCE_RETENTION = "equivalence_retention_greedy"
ANSWERED = "machine_answered_success_greedy"
SUPPRESSED = "suppressed_output_rate"
SUPPRESSED_WORST = f"{SUPPRESSED}_worst"
DRAWDOWN = "drawdown"
ANSWERS_ENDED = "answers_ended"
KEPT_ANSWERS_ENDED = "kept_answers_ended"
REPLAY = "replay_agreement_greedy"

PROTOCOLS = {
    EDIT: "the correction's own prompt gives the target",
    NEW: "the prompt of a correction that the champion does not hold gives the target",
    EQUIVALENCE: "a phrasing that was held out gives the target",
    NEW_EQUIVALENCE: "a held-out phrasing of a correction that the champion does not hold gives the target",
    RETENTION: "an earlier correction's prompt gives its target",
    EQUIVALENCE_RETENTION: "a held-out phrasing of an earlier correction gives its target",
    ANSWERED: "the prompt, or a held-out phrasing, of a correction that a program answered gives its target",
    SUPPRESSED: "a sampled answer does not show an output that must never appear",
    LOCALITY: "a prompt that must not move is answered with the champion's first five words",
    DRAWDOWN: "a prompt whose right answer is known is answered right",
    REPLAY: "a recent request that no correction asks is answered with the champion's words and substance",
}

# Asked of corrections; expected is the target.
CORRECTED = frozenset({EDIT, NEW, EQUIVALENCE, NEW_EQUIVALENCE, RETENTION, EQUIVALENCE_RETENTION, ANSWERED})

# Asked only where there is something to ask: a metric without rows is left out of what was measured.
OPTIONAL = frozenset({NEW, NEW_EQUIVALENCE, EQUIVALENCE_RETENTION, REPLAY, ANSWERED, SUPPRESSED})


def outcome(
    metric: str,
    row_id: str,
    prompt: str,
    expected: str,
    champion_output: str,
    candidate_output: str,
    *,
    chat: bool,
    wrong_output: str = "",
    kind: str = "",
    locality_kl: float = math.nan,
    champion_ended: float = math.nan,
    candidate_ended: float = math.nan,
) -> dict[str, Any]:
    """One row of the frame, both outputs judged by the metric's protocol.

    Args:
        metric: one of `PROTOCOLS`.
        row_id: the correction's id, or the locality row's.
        prompt: what both were asked.
        expected: the target; for locality and a replay the champion's answer; for drawdown the right answer
            if it is known, else the champion's confirmed reference.
        champion_output: greedy text of the champion, to its natural stop.
        candidate_output: greedy text of the candidate.
        chat: a chat turn has to give the target, raw text has to continue with it.
        wrong_output: what must be gone; empty where nothing must.
        kind: "near" or "far" for locality, "chat" or "text" for a replay, "text" for raw text to correct.
        locality_kl: KL(champion || candidate) in nats, where measured.
        champion_ended: 1 where the champion ended its answer itself, 0 where it was cut off; NaN if unknown.
        candidate_ended: likewise.
    """

    def right(output: str) -> float:
        if metric == LOCALITY:
            return float(same_opening(output, expected))
        if metric == REPLAY:
            return float(same_substance(output, expected, prompt))
        kept = metric == DRAWDOWN and same_answer(output, expected)
        return float(kept or matches(output, expected, chat=chat, wrong_output=wrong_output))

    return {
        "metric": metric,
        "id": row_id,
        "prompt": prompt,
        "expected": expected,
        "champion_output": champion_output,
        "candidate_output": candidate_output,
        "champion_ok": right(champion_output),
        "candidate_ok": right(candidate_output),
        "kind": kind,
        "locality_kl": locality_kl,
        "champion_ended": champion_ended,
        "candidate_ended": candidate_ended,
    }


def outcomes_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a checked frame; no rows give an empty frame with all columns."""
    numbers = (*NUMBER_COLUMNS, *ENDED_COLUMNS)
    frame = pd.DataFrame(list(rows), columns=[*TEXT_COLUMNS, *numbers])
    frame = frame.astype(dict.fromkeys(TEXT_COLUMNS, "object") | dict.fromkeys(numbers, "float64"))
    check_outcomes(frame)
    return frame


def substance(frame: pd.DataFrame, who: str) -> pd.Series:
    """Of rows that must stay, 1 where what `who` (champion or candidate) answers is what is expected, else 0.

    By `same_substance`; missing where the row was not judged.
    """
    texts = zip(frame[f"{who}_output"], frame["expected"], frame["prompt"], strict=True)
    marks = [float(same_substance(*row)) for row in texts]
    return pd.Series(marks, frame.index, dtype="float64").where(frame[f"{who}_ok"].notna())


def has_endings(frame: pd.DataFrame) -> bool:
    """Whether the frame says which answers ended by themselves."""
    return all(column in frame for column in ENDED_COLUMNS)


def check_outcomes(frame: pd.DataFrame) -> None:
    """Refuse a frame whose figures would not mean what their names say.

    Raises:
        ValueError: a column is missing, a metric is unknown, or a mark is neither 0, 1 nor missing.
    """
    missing = [column for column in (*TEXT_COLUMNS, *NUMBER_COLUMNS) if column not in frame]
    if missing:
        raise ValueError(f"the outcomes frame lacks {', '.join(missing)}; build it with outcomes_frame()")
    unknown = sorted(set(frame["metric"]) - set(PROTOCOLS))
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r} in the outcomes; use one of {', '.join(PROTOCOLS)}")
    for column in ("champion_ok", "candidate_ok", *(ENDED_COLUMNS if has_endings(frame) else ())):
        marks = frame[column].dropna()
        if not marks.isin([0, 1]).all():
            raise ValueError(f"{column} must be 0, 1 or missing, not {marks[~marks.isin([0, 1])].iloc[0]}")


def outcomes_digest(frame: pd.DataFrame) -> str:
    """SHA-256 over the frame's rows in order; extra columns and the index do not count."""
    columns = [*TEXT_COLUMNS, *NUMBER_COLUMNS, *(ENDED_COLUMNS if has_endings(frame) else ())]
    text = frame[columns].to_json(orient="values", double_precision=15)
    return hashlib.sha256(text.encode()).hexdigest()
