from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.validation.examples import (
    EXPECTED_ROWS,
    GATES,
    PARAMETERS,
    PERPLEXITIES,
    READ,
    WRONG,
    by_name,
    gate,
    outcomes,
    sound,
)
from validation.metrics import Perplexities, Status
from validation.outcomes import (
    DRAWDOWN,
    EDIT,
    EQUIVALENCE,
    LOCALITY,
    NEW,
    NEW_EQUIVALENCE,
    RETENTION,
    SUBSTANCE,
    outcome,
    outcomes_digest,
    outcomes_frame,
)
from validation.parameters import ParameterChanges
from validation.probes import PROSE
from validation.thresholds import GateFile
from validation.verdict import Verdict, decide, read_decision, write_decision


def marked(metric: str, column: str, value: float, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    frame = outcomes() if frame is None else frame
    frame.loc[frame.index[frame["metric"] == metric][0], column] = value
    return frame


def test_a_sound_candidate_is_promoted(tmp_path: Path) -> None:
    report = gate(outcomes(), docs_dir=tmp_path / "docs")
    decision = decide(report)
    assert decision.verdict is Verdict.PROMOTE, decision.reason
    assert not decision.warnings
    metrics = by_name(report)
    assert set(GATES.gates) <= set(metrics)
    assert (metrics[EDIT].value, metrics[EDIT].n, metrics[EDIT].champion) == (1.0, 12, 0.0)
    assert metrics["perplexity_ratio"].value == pytest.approx(math.exp(0.1 / 30))
    assert metrics["locality_kl_p95"].value == 0.038
    assert metrics["answer_length_ratio"].champion == 1.0
    assert metrics["edit_success_teacher_forced"].passed is None
    assert report.docs_index is not None
    assert EDIT in next((tmp_path / "docs" / "validations").rglob("*.html")).read_text()


def always_the_target(metric: str, row_id: str, answer: str) -> str:
    return answer if metric in (EDIT, EQUIVALENCE) else "It was written by Author 3."


def forgets_one(metric: str, row_id: str, answer: str) -> str:
    return "I do not know that one." if (metric, row_id) == (RETENTION, "r4") else answer


def rambles(metric: str, row_id: str, answer: str) -> str:
    return " ".join([answer] * 5) if metric in (EDIT, EQUIVALENCE) else answer


def moves_neighbours(metric: str, row_id: str, answer: str) -> str:
    return answer.replace("stands", "lies") if metric == LOCALITY else answer


def learned_nothing(metric: str, row_id: str, answer: str) -> str:
    return WRONG if metric in (EDIT, EQUIVALENCE) else answer


def learned_by_rote(metric: str, row_id: str, answer: str) -> str:
    return WRONG if metric == EQUIVALENCE else answer


def says_both(metric: str, row_id: str, answer: str) -> str:
    return f"{WRONG} {answer}" if metric == EDIT else answer


def forgets_what_it_knew(metric: str, row_id: str, answer: str) -> str:
    return "Nobody knows." if metric == DRAWDOWN and row_id in ("l1", "l2", "l3") else answer


# What is wrong with the candidate, and the critical gates that refuse it: those, and no others.
DAMAGED: dict[str, tuple[Callable[..., str], dict[str, Any], tuple[str, ...]]] = {
    "answers everything with the target": (
        always_the_target,
        {},
        (RETENTION, "answers_kept", LOCALITY, DRAWDOWN),
    ),
    "forgets one earlier correction": (forgets_one, {}, (RETENTION,)),
    "rambles on": (rambles, {}, ("answer_length_ratio", "repeated_trigrams")),
    "moves its neighbours": (moves_neighbours, {}, (LOCALITY,)),
    "learned nothing": (learned_nothing, {}, (EDIT, EQUIVALENCE)),
    "learned by rote": (learned_by_rote, {}, (EQUIVALENCE,)),
    "still says what was wrong": (says_both, {}, (EDIT,)),
    "forgets what it knew": (forgets_what_it_knew, {}, ("answers_kept", DRAWDOWN)),
    "writes prose twice as badly": (
        sound,
        {
            "perplexities": PERPLEXITIES
            | {PROSE: Perplexities(READ.champion, [(x + 30 * math.log(2), n) for x, n in READ.champion])}
        },
        ("perplexity_ratio",),
    ),
    "prose that is not a number": (
        sound,
        {
            "perplexities": PERPLEXITIES
            | {PROSE: Perplexities(READ.champion, [(math.nan, n) for _, n in READ.champion])}
        },
        ("perplexity_ratio",),
    ),
    "is the base, and finds prose infinitely unlikely": (
        sound,
        {
            "perplexities": PERPLEXITIES
            | {PROSE: Perplexities(READ.champion, [(math.inf, n) for _, n in READ.champion])},
            "parameters": ParameterChanges((), (), (), 12, 0.0),
        },
        ("perplexity_ratio", "changed_parameters"),
    ),
    "holds NaN where the delta declares no change": (
        sound,
        {"parameters": ParameterChanges(("head", "layer.weight"), ("head",), ("head",), 12, 0.1)},
        ("non_finite_parameters", "undeclared_parameters"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_candidate_is_refused_by_the_gate_that_should(damage: str) -> None:
    says, inputs, responsible = DAMAGED[damage]
    decision = decide(gate(outcomes(says), **inputs))
    assert decision.verdict is Verdict.REJECT
    assert decision.failing == responsible
    assert decision.failing[0] in decision.reason


def test_a_mark_that_is_missing_is_not_a_pass() -> None:
    frame = marked(EDIT, "candidate_ok", math.nan)
    frame = marked(DRAWDOWN, "champion_ok", math.nan, frame)
    decision = decide(gate(frame))
    assert decision.verdict is Verdict.REJECT
    assert decision.failing == (EDIT, "answers_kept", "answers_kept_unseen", DRAWDOWN)
    assert "not a number" in decision.reason


def test_a_known_failure_outweighs_what_is_unknown() -> None:
    decision = decide(gate(outcomes(learned_nothing), perplexities=None))
    assert decision.verdict is Verdict.REJECT
    assert decision.insufficient == tuple(PERPLEXITIES)


def test_infinite_divergence_is_refused() -> None:
    decision = decide(gate(marked(LOCALITY, "locality_kl", math.inf)))
    assert decision.verdict is Verdict.REJECT
    assert decision.failing == ("locality_kl_mean",)


def about_countries(says: Callable[[int], str]) -> pd.DataFrame:
    """Outcomes where answers that must stay repeat their prompts; the candidate ends with `says(number)`."""
    frame = outcomes()
    frame = frame[frame["metric"] != LOCALITY]
    asked, answer = (
        "What is the official language of Far Land {}?",
        "The official language of Far Land {} is {}.",
    )
    rows = [
        outcome(
            LOCALITY,
            f"l{i}",
            asked.format(i),
            answer.format(i, f"Tongue {i}"),
            answer.format(i, f"Tongue {i}"),
            answer.format(i, says(i)),
            chat=True,
            kind="near" if i % 2 else "far",
            locality_kl=0.1,
        )
        for i in range(40)
    ]
    return outcomes_frame([*frame.to_dict("records"), *rows])


def test_answers_that_repeat_the_question_are_compared_in_what_they_say_themselves() -> None:
    assert decide(gate(about_countries(lambda i: f"Tongue {i}"))).verdict is Verdict.PROMOTE
    report = gate(about_countries(lambda i: "Lome"))
    assert by_name(report)[LOCALITY].value == 1.0
    assert by_name(report)[SUBSTANCE].value == 0.0
    assert decide(report).failing == (SUBSTANCE,)


@pytest.mark.parametrize("kind", ["near", "far"])
def test_near_and_far_prompts_are_judged_by_themselves_where_they_are_enough(kind: str) -> None:
    """Among many of the other kind, those for which the damage is greatest would be lost."""
    frame = outcomes()
    near = (frame["metric"] == LOCALITY) & (frame["kind"] == kind)
    some = frame.index[near][:10]
    frame.loc[some, "candidate_ok"] = 0.0
    frame.loc[some, "candidate_output"] = "Nobody knows."
    few = frame.drop(frame.index[near].difference(some[:8]))
    many = frame.drop(frame.index[near].difference(some))
    for rows, verdict in ((few, Verdict.PROMOTE), (many, Verdict.REJECT)):
        expected = {**EXPECTED_ROWS, LOCALITY: int((rows["metric"] == LOCALITY).sum())}
        assert decide(gate(rows, expected_rows=expected)).verdict is verdict
    metrics = by_name(gate(few, expected_rows={**EXPECTED_ROWS, LOCALITY: 28}))
    assert metrics[f"{LOCALITY}_{kind}"].status is Status.NOT_APPLICABLE


def test_a_person_is_waited_for() -> None:
    report = gate(outcomes())
    assert decide(report, needs_approval=True).verdict is Verdict.HOLD
    failed = [metric.model_copy(update={"status": Status.FAILED}) for metric in report.metrics[:1]]
    spoiled = dataclasses.replace(report, metrics=(*failed, *report.metrics[1:]))
    assert decide(spoiled, needs_approval=True).verdict is Verdict.REJECT
    with pytest.raises(ValueError, match="another name"):
        decide(report, digests={"gates": "mine"})


def test_the_same_candidate_twice_gives_the_same_decision(tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        decision = decide(gate(outcomes()), digests={"base": "abc"})
        write_decision(decision, tmp_path / f"{name}.json")
        files.append((tmp_path / f"{name}.json").read_bytes())
        assert read_decision(tmp_path / f"{name}.json").digest() == decision.digest()
    assert files[0] == files[1]
    assert outcomes_digest(outcomes()) != outcomes_digest(marked(LOCALITY, "locality_kl", 0.5))


def test_a_decision_carries_its_inputs(tmp_path: Path) -> None:
    decision = decide(gate(outcomes(), perplexities=None), digests={"base": "abc"})
    write_decision(decision, tmp_path / "verdict.json")
    again = read_decision(tmp_path / "verdict.json")
    assert again.digests == {"base": "abc", "outcomes": decision.digests["outcomes"], "gates": GATES.digest()}
    assert again.gates_version == GATES.version
    assert math.isnan(next(m for m in again.metrics if m.name == "perplexity_ratio").value)


def test_relative_bounds_compare_with_the_champion() -> None:
    relative = {"max_worse_than_champion": 0.05, "minimum_n": 1, "severity": "critical"}
    gates = GateFile.model_validate({"version": 7, "gates": {RETENTION: relative}})
    report = gate(outcomes(forgets_one), gates=gates)
    metric = by_name(report)[RETENTION]
    assert (metric.threshold, metric.value, metric.status) == (0.95, 0.9, Status.FAILED)
    unknown = outcomes()
    unknown.loc[unknown["metric"] == RETENTION, "champion_ok"] = math.nan
    assert decide(gate(unknown, gates=gates)).verdict is Verdict.INSUFFICIENT


@pytest.mark.parametrize(
    ("taken", "verdict"), [(5, Verdict.PROMOTE), (4, Verdict.REJECT), (0, Verdict.REJECT)]
)
def test_new_corrections_that_do_not_take_get_not_lost_among_many_that_hold(
    taken: int, verdict: Verdict
) -> None:
    frame = outcomes()
    held = frame[frame["metric"] == EDIT].iloc[:1]
    new = [
        outcome(metric, f"n{i}", f"New {i}?", "Togo", "Mali.", "Togo." if i < taken else "Mali.", chat=True)
        for metric in (EDIT, NEW)
        for i in range(5)
    ]
    many = pd.concat([frame, *[held] * 88, outcomes_frame(new)], ignore_index=True)
    report = gate(many, expected_rows={**EXPECTED_ROWS, EDIT: 105, NEW: 5})
    assert by_name(report)[EDIT].status is Status.PASSED
    assert decide(report).verdict is verdict
    assert decide(report).failing == ((NEW,) if verdict is Verdict.REJECT else ())


@pytest.mark.parametrize(("taken", "verdict"), [(6, Verdict.PROMOTE), (5, Verdict.REJECT)])
def test_phrasings_of_new_corrections_get_not_lost_among_those_that_hold(
    taken: int, verdict: Verdict
) -> None:
    new = [
        outcome(metric, f"n{i}", f"New {i}?", "Togo", "Mali.", "Togo." if i < taken else "Mali.", chat=True)
        for metric in (EQUIVALENCE, NEW_EQUIVALENCE)
        for i in range(10)
    ]
    many = pd.concat([outcomes(), outcomes_frame(new)], ignore_index=True)
    report = gate(many, expected_rows={**EXPECTED_ROWS, EQUIVALENCE: 34, NEW_EQUIVALENCE: 10})
    assert by_name(report)[EQUIVALENCE].status is Status.PASSED
    assert decide(report).verdict is verdict
    assert decide(report).failing == ((NEW_EQUIVALENCE,) if verdict is Verdict.REJECT else ())


@pytest.mark.parametrize(
    ("norm", "status"), [(None, Status.NOT_APPLICABLE), (0.4, Status.PASSED), (0.6, Status.FAILED)]
)
def test_the_size_of_new_neurons_passes_no_gate(norm: float | None, status: Status) -> None:
    report = gate(outcomes(), parameters=dataclasses.replace(PARAMETERS, largest_relative_norm=norm))
    metric = by_name(report)["relative_delta_norm"]
    assert metric.status is status
    assert ("all that changed are new neurons" in metric.reason) is (norm is None)
    assert decide(report).failing == (("relative_delta_norm",) if norm == 0.6 else ())
