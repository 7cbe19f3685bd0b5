"""Repetition and length of answers: what loops, rambles or breaks off, and what is merely shorter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.validation.examples import EXPECTED_ROWS, PARAMETERS, PERPLEXITIES, RENDERINGS, WRONG, outcomes
from validation.gates import run_gates
from validation.lengths import corrected_length_ratio
from validation.metrics import Metric, Status
from validation.outcomes import DRAWDOWN, EDIT, EQUIVALENCE, LOCALITY
from validation.repetition import repeated_ngrams
from validation.thresholds import load_gates


def metrics(says) -> dict[str, Metric]:
    report = run_gates(
        outcomes(says),
        load_gates(),
        expected_rows=EXPECTED_ROWS,
        perplexities=PERPLEXITIES,
        parameters=PARAMETERS,
        renderings=RENDERINGS,
    )
    return {metric.name: metric for metric in report.metrics}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", (0, 0)),
        ("It is", (0, 0)),
        ("It is Cairo.", (0, 2)),
        ("no no no no no", (2, 3)),
        ("!!!!!!", (3, 4)),
        ("東京東京東京", (2, 4)),
        ("A b c, a B c", (1, 5)),
    ],
)
def test_repeated_ngrams(text: str, counts: tuple[int, int]) -> None:
    assert repeated_ngrams(text) == counts


@given(st.text(min_size=1, max_size=30).filter(str.strip))
def test_a_loop_of_anything_is_seen(text: str) -> None:
    repeated, grams = repeated_ngrams(text * 40)
    assert repeated > grams / 2


def test_corrections_may_be_much_shorter() -> None:
    found = metrics(
        lambda metric, _, answer: answer.split("by ")[-1] if metric in (EDIT, EQUIVALENCE) else answer
    )
    assert found["answer_length_ratio"].status is Status.PASSED
    assert found["answer_length_ratio"].value < 0.6


def test_what_follows_the_target_is_too_much_however_long_the_champion_was() -> None:
    more = " and so on and on as it was before" * 2
    rambling = metrics(lambda metric, _, answer: answer + more if metric == EQUIVALENCE else answer)
    assert rambling["answer_length_ratio"].status is Status.FAILED
    frame = outcomes(lambda metric, _, answer: answer + more if metric == EQUIVALENCE else answer)
    corrected = frame["metric"].isin([EDIT, EQUIVALENCE])
    frame.loc[corrected, "champion_output"] = WRONG + more
    assert corrected_length_ratio(frame).value > 1.5
    frame.loc[corrected, "kind"] = "text"
    assert corrected_length_ratio(frame).value < 1.0


def test_answers_that_stay_neither_break_off_nor_ramble() -> None:
    staying = (LOCALITY, DRAWDOWN)
    short = metrics(lambda metric, _, answer: "It" if metric in staying else answer)[
        "kept_answer_length_ratio"
    ]
    assert (short.status, short.threshold, short.champion) == (Status.FAILED, 0.4, 1.0)
    more = " and so on and on as it was before"
    long = metrics(lambda metric, _, answer: answer + more if metric in staying else answer)
    assert long["kept_answer_length_ratio"].status is Status.FAILED
    assert long["kept_answer_length_ratio"].threshold == 1.5
