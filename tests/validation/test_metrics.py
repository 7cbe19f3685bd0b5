from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tests.validation.examples import EXPECTED_ROWS, PARAMETERS, PERPLEXITIES, RENDERINGS, SECONDS, outcomes
from validation.metric_definitions import DEFINITIONS
from validation.metrics import Metric, Perplexities, compute_metrics
from validation.outcomes import (
    ANSWERED,
    DRAWDOWN,
    EDIT,
    EQUIVALENCE_RETENTION,
    LOCALITY,
    NEW,
    NEW_EQUIVALENCE,
    REPLAY,
    SUPPRESSED,
    check_outcomes,
    outcome,
    outcomes_frame,
)
from validation.probes import PROSE
from validation.suppression import sample_outcome


def by_name(**inputs: object) -> dict[str, Metric]:
    return {metric.name: metric for metric in compute_metrics(**inputs)}  # type: ignore[arg-type]


def replayed(*answers: tuple[str, str]) -> pd.DataFrame:
    """The example with requests that were replayed: (champion's answer, candidate's)."""
    rows = [
        outcome(REPLAY, f"replay-{i}", f"Request {i}?", before, before, after, chat=True, kind="chat")
        for i, (before, after) in enumerate(answers)
    ]
    return pd.concat([outcomes(), outcomes_frame(rows)], ignore_index=True)


def test_a_replay_is_only_where_there_was_one_and_counts_answers_that_begin_otherwise() -> None:
    assert REPLAY not in by_name(outcomes=outcomes())
    same = "It is a city by the sea."
    answers = (same, same + " And so on."), (same, "It is a village."), ("", "")
    metric = by_name(outcomes=replayed(*answers))[REPLAY]
    assert (metric.value, metric.n, metric.champion) == (pytest.approx(2 / 3), 3, 1.0)


def test_every_metric_is_computed_and_in_order() -> None:
    asked = [
        outcome(NEW, "c1", "Who?", "Author 1", "Nobody.", "Author 1.", chat=True),
        outcome(NEW_EQUIVALENCE, "c1", "By whom?", "Author 1", "Nobody.", "Author 1.", chat=True),
        outcome(EQUIVALENCE_RETENTION, "c2", "By whom?", "Author 2", "Author 2.", "Author 2.", chat=True),
        outcome(ANSWERED, "c1", "Who?", "Author 1", "Nobody.", "Author 1.", chat=True),
        sample_outcome("c1", "Who?", "No.", ["Author 1"], "", ("Author 1.", "No.")),
    ]
    metrics = compute_metrics(
        pd.concat([replayed(("Yes.", "Yes.")), outcomes_frame(asked)], ignore_index=True),
        perplexities=PERPLEXITIES,
        parameters=PARAMETERS,
        renderings=RENDERINGS,
        teacher_forced=[1.0, 0.5],
        answer_seconds=SECONDS,
    )
    assert [metric.name for metric in metrics] == list(DEFINITIONS)
    rows = EXPECTED_ROWS | dict.fromkeys(
        (NEW, NEW_EQUIVALENCE, EQUIVALENCE_RETENTION, ANSWERED, SUPPRESSED), 1
    )
    assert {m.name: m.n for m in metrics if m.name in rows} == rows
    assert {m.name: m.value for m in metrics}["edit_success_teacher_forced"] == 0.75


def test_figures_of_a_mixed_candidate() -> None:
    def says(metric: str, row_id: str, answer: str) -> str:
        if metric == LOCALITY and row_id in ("l1", "l3", "l4"):
            return "Something else."
        if metric == DRAWDOWN and row_id == "l1":
            return "Nobody knows."
        return answer + " Yes." * 5 if metric == EDIT else answer

    frame = outcomes(says)
    # The champion is wrong on one known answer, and the candidate is right there.
    frame.loc[(frame["metric"] == DRAWDOWN) & (frame["id"] == "l9"), "champion_ok"] = 0.0
    metrics = by_name(outcomes=frame)
    assert metrics[LOCALITY].value == 37 / 40
    assert metrics[f"{LOCALITY}_near"].value == 18 / 20
    assert metrics[f"{LOCALITY}_far"].value == 19 / 20
    assert (metrics["answers_kept"].value, metrics["answers_kept"].n) == (38 / 39, 39)
    assert metrics[DRAWDOWN].value == pytest.approx(39 / 40 - 39 / 40)
    assert metrics["locality_kl_mean"].value == pytest.approx(np.mean(np.arange(40) / 1000))
    # 12 edits of 6 words said in 11, beside 24 phrasings of 6 and 10 earlier corrections of 4.
    assert metrics["answer_length_ratio"].value == pytest.approx(
        (12 * 11 + 24 * 6 + 10 * 4) / (12 * 6 + 24 * 6 + 10 * 6)
    )


def test_perplexity_is_of_all_tokens_together() -> None:
    metrics = by_name(
        outcomes=outcomes(),
        perplexities={
            PROSE: Perplexities([(10.0, 10), (40.0, 20), (0.0, 0)], [(13.0, 10), (46.0, 20), (0.0, 0)])
        },
    )
    assert metrics["perplexity_ratio"].value == pytest.approx(math.exp(59 / 30) / math.exp(50 / 30))
    assert metrics["perplexity_ratio"].n == 2
    with pytest.raises(ValueError, match="different texts"):
        Perplexities([(10.0, 10)], [(10.0, 11)])


def test_an_empty_frame_measures_nothing() -> None:
    for metric in by_name(outcomes=outcomes_frame([])).values():
        assert metric.n == 0
        assert math.isnan(metric.value)
        assert metric.passed is None


def test_outcomes_are_judged_by_their_protocol() -> None:
    def ok(metric: str, expected: str, said: str, *, chat: bool = True, wrong: str = "") -> float:
        return float(
            outcome(metric, "i", "p", expected, "", said, chat=chat, wrong_output=wrong)["candidate_ok"]
        )

    assert ok(EDIT, "Paris", "It is Paris.") == 1
    assert ok(EDIT, "Paris", "It is Paris.", chat=False) == 0
    assert ok(EDIT, "Paris", "It is Rome, or Paris.", wrong="Rome") == 0
    assert ok(LOCALITY, "It is Paris.", "It is Paris. Yes.") == 0
    assert ok(DRAWDOWN, "It is Paris.", "Yes. It is Paris.") == 1
    assert ok(DRAWDOWN, "?", "?", chat=False) == 1


def test_a_frame_that_lies_is_refused() -> None:
    frame = outcomes()
    with pytest.raises(ValueError, match="lacks kind, locality_kl"):
        check_outcomes(frame.drop(columns=["kind", "locality_kl"]))
    with pytest.raises(ValueError, match="unknown metric 'edit'"):
        check_outcomes(frame.assign(metric="edit"))
    with pytest.raises(ValueError, match=r"must be 0, 1 or missing, not 0\.5"):
        check_outcomes(frame.assign(candidate_ok=0.5))
