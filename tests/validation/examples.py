"""A candidate that passes every gate, the pieces to spoil it with, and the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from validation.gates import GateReport, run_gates
from validation.latency import AnswerSeconds
from validation.metrics import Metric, Perplexities
from validation.outcomes import (
    ANSWERED,
    DRAWDOWN,
    EDIT,
    EQUIVALENCE,
    EQUIVALENCE_RETENTION,
    LOCALITY,
    NEW,
    NEW_EQUIVALENCE,
    RETENTION,
    SUPPRESSED,
    outcome,
    outcomes_frame,
)
from validation.parameters import ParameterChanges
from validation.probes import probes
from validation.renderings import RenderingChanges
from validation.thresholds import load_gates

GATES = load_gates()
WRONG = "It was written by Someone Else."
EXPECTED_ROWS = {EDIT: 12, EQUIVALENCE: 24, RETENTION: 10, LOCALITY: 40, DRAWDOWN: 40}
EXPECTED_ROWS |= dict.fromkeys((NEW, NEW_EQUIVALENCE, EQUIVALENCE_RETENTION, ANSWERED, SUPPRESSED), 0)
READ = Perplexities([(90.0 + i, 30) for i in range(40)], [(90.1 + i, 30) for i in range(40)])
PERPLEXITIES = dict.fromkeys(probes(), READ)
SECONDS = AnswerSeconds([0.5] * 9, [0.51] * 9)
PARAMETERS = ParameterChanges(("layer.weight",), (), (), 12, 0.1)
RENDERINGS = RenderingChanges(0, 120)

Answer = Callable[[str, str, str], str]


def sound(metric: str, row_id: str, answer: str) -> str:
    """What a candidate without fault says."""
    return answer


def outcomes(says: Answer = sound) -> pd.DataFrame:
    """Outcomes of a candidate that gives `says(metric, id, right answer)` for every prompt."""
    rows: list[dict[str, Any]] = []
    for i in range(12):
        right, cid = f"It was written by Author {i}.", f"c{i}"
        rows.append(
            outcome(
                EDIT,
                cid,
                f"Who wrote book {i}?",
                f"Author {i}",
                WRONG,
                says(EDIT, cid, right),
                chat=True,
                wrong_output=WRONG,
            )
        )
        for form in ("By whom is book", "Name the author of book"):
            said = says(EQUIVALENCE, cid, right)
            rows.append(outcome(EQUIVALENCE, cid, f"{form} {i}?", f"Author {i}", WRONG, said, chat=True))
    for i in range(10):
        right, rid = f"The old answer is {i}.", f"r{i}"
        said = says(RETENTION, rid, right)
        rows.append(outcome(RETENTION, rid, f"Old question {i}?", f"answer is {i}", right, said, chat=True))
    for i in range(40):
        right, lid, prompt = f"It stands at place {i}.", f"l{i}", f"Where is thing {i}?"
        said, kind = says(LOCALITY, lid, right), "near" if i % 2 else "far"
        rows.append(
            outcome(LOCALITY, lid, prompt, right, right, said, chat=True, kind=kind, locality_kl=i / 1000)
        )
        said = says(DRAWDOWN, lid, right)
        rows.append(outcome(DRAWDOWN, lid, prompt, f"place {i}", right, said, chat=True))
    return outcomes_frame(rows)


def gate(frame: pd.DataFrame, **changes: Any) -> GateReport:
    """What the gates say of the frame, all else being sound but for `changes`."""
    inputs: dict[str, Any] = {
        "expected_rows": EXPECTED_ROWS,
        "perplexities": PERPLEXITIES,
        "parameters": PARAMETERS,
        "renderings": RENDERINGS,
        "teacher_forced": [1.0] * 12,
        "answer_seconds": SECONDS,
    }
    return run_gates(frame, changes.pop("gates", GATES), **{**inputs, **changes})


def by_name(report: GateReport) -> dict[str, Metric]:
    """The report's metrics."""
    return {metric.name: metric for metric in report.metrics}
