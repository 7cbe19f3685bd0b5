"""The data gate: what is wrong with an edit dataset, row by row, before anything is learned from it.

A row that fails a critical check is set aside with the reason, and the rest goes on. The frames are checked
as facts derived from them (lengths, "duplicate of ..."), so that a finding names the other row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from validation.data_checks import CRITICAL, RIVAL, WARNING, Check, edit_checks, locality_checks
from validation.dataset_facts import (
    EDIT_COLUMNS,
    LOCALITY_COLUMNS,
    edit_facts,
    locality_facts,
    reporters_of,
)
from validation.expectations import ExpectationResult, docs_index, run_suite
from validation.flooding import most_of_one, named
from validation.limits import DataLimits

EDITS = "edits"
LOCALITY = "locality"


@dataclass(frozen=True)
class DataGateResult:
    """What may be learned from.

    `passed` says whether what is left is enough to go on with, and `reason` why not; single rows never make
    it false. `rows_failed` gives the reasons of every edit that was set aside by its id (a row without one as
    "row 3", counted from 0), `locality_failed` those of locality rows by position in the frame, since several
    may bear one id. `results` is JSON: every expectation of both suites with what it found.
    """

    passed: bool
    reason: str
    rows_failed: Mapping[str, str]
    locality_failed: Mapping[int, str]
    warnings: tuple[str, ...]
    results: Mapping[str, Any] = field(repr=False)
    docs_dir: Path | None
    edits: pd.DataFrame = field(repr=False)
    locality: pd.DataFrame = field(repr=False)

    def docs_index(self, frame: str = EDITS) -> Path | None:
        """The Data Docs page of the "edits" or the "locality" frame."""
        return None if self.docs_dir is None else docs_index(self.docs_dir / frame)


def check_data(
    edits: pd.DataFrame,
    locality: pd.DataFrame,
    *,
    docs_dir: Path | None = None,
    limits: DataLimits | None = None,
    model_name: str = "NAME",
    redact: Callable[[str], str] = str,
) -> DataGateResult:
    """Check an edit dataset; the result holds the rows of both frames that may be learned from.

    Args:
        edits: columns id, prompt, target, wrong_output, subject, chat, equivalents, held_out, reports,
            reporters, sources, active (the champion holds it), approved (when a person chose it), answered
            (a person who did not report it gave its target) and rivals (the ids of those that ask the same
            and answer otherwise).
        locality: columns id, prompt, reference, confirmed, kind, role, chat.
        docs_dir: folder for the Data Docs, a folder for each frame; none are written without one.
        limits: lengths and least numbers of rows.
        model_name: whose corrections they are, for the commands that the reasons name.
        redact: what is done to every text that Data Docs, reasons and warnings quote.
    """
    limits = limits or DataLimits()
    for name, frame, columns in ((EDITS, edits, EDIT_COLUMNS), (LOCALITY, locality, LOCALITY_COLUMNS)):
        missing = [column for column in columns if column not in frame]
        if missing:
            reason = f"the {name} frame lacks the columns {', '.join(missing)}; build the dataset again"
            # No row can be trusted, and none is to blame: nothing is left and nothing is set aside.
            return DataGateResult(
                False, reason, {}, {}, (), {"schema": reason}, None, edits.iloc[:0], locality.iloc[:0]
            )

    facts = edit_facts(edits, limits, redact)
    limit = limits.reporter_corrections or most_of_one(len(named(reporters_of(edits))))
    checks = edit_checks(limits, limit, len(edits))
    found = _run(EDITS, facts, checks, docs_dir)
    edits_failed, stays = _reasons(facts, checks, found, model_name)
    kept_edits = edits.iloc[[place for place in range(len(edits)) if place not in edits_failed]]

    # Against all edits: a prompt set aside as an edit is still none that must stay as it is.
    checks_of_locality, facts_of_locality = (
        locality_checks(limits),
        locality_facts(locality, edits, limits, redact),
    )
    locality_found = _run(LOCALITY, facts_of_locality, checks_of_locality, docs_dir)
    locality_failed, _ = _reasons(facts_of_locality, checks_of_locality, locality_found, model_name)
    kept_locality = locality.iloc[[place for place in range(len(locality)) if place not in locality_failed]]

    gate_rows = int((kept_locality["role"] == "gate").sum())
    reason = ""
    if len(kept_edits) < limits.minimum_edits:
        reason = (
            f"{len(kept_edits)} usable corrections are left of {len(edits)}, {limits.minimum_edits} needed"
        )
    elif gate_rows < limits.minimum_gate_locality:
        reason = (
            f"{gate_rows} usable locality prompts are left for the gates, {limits.minimum_gate_locality}"
            " needed; collect more traffic"
        )
    return DataGateResult(
        passed=not reason,
        reason=reason,
        rows_failed=_by_id(facts, edits_failed),
        locality_failed=locality_failed,
        warnings=stays
        + _warnings(EDITS, checks, found)
        + _warnings(LOCALITY, checks_of_locality, locality_found),
        results={EDITS: [r.as_json() for r in found], LOCALITY: [r.as_json() for r in locality_found]},
        docs_dir=docs_dir,
        edits=kept_edits,
        locality=kept_locality,
    )


def _run(
    name: str, facts: pd.DataFrame, checks: Sequence[Check], docs_dir: Path | None
) -> list[ExpectationResult]:
    import great_expectations.expectations as gxe

    expectations = [
        getattr(gxe, check.expectation)(
            **({"column": check.column} if check.column else {}),
            **check.arguments,
            severity=check.severity,
            description=check.name.replace("_", " ") + (f": {check.column}" if check.column else ""),
            meta={"check": check.name, "subject": name},
        )
        for check in checks
    ]
    results = run_suite(facts, name, expectations, docs_dir=None if docs_dir is None else docs_dir / name)
    for result in results:
        if result.error:
            # A check that could not run finds no bad rows, which must not read as "none are bad".
            raise RuntimeError(f"the data gate could not check {name}.{result.check}: {result.error}")
    return results


def _reasons(
    facts: pd.DataFrame, checks: Sequence[Check], found: Sequence[ExpectationResult], model_name: str
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Why each failing row is set aside, by position, and what is told of active ones that stay.

    Every reason is given, in the order of the checks; then the command that takes a row all the same.
    """
    failed: dict[int, list[Check]] = {}
    for check, result in zip(checks, found, strict=True):
        for row in result.rows if check.severity == CRITICAL and check.column else ():
            failed.setdefault(row, []).append(check)
    reasons, stays = {}, []
    for row, failing in sorted(failed.items()):
        fact = facts.iloc[row]
        said = "; ".join(check.reason.format(fact=fact[check.column]) for check in failing)
        if not all(check.waived or check.name == RIVAL for check in failing):
            reasons[row] = said
        elif any(check.name == RIVAL for check in failing) or not (fact["active"] or fact["approved"]):
            reasons[row] = f"{said}; `mendflow choose {model_name} {fact['id']}` takes it all the same"
        elif not fact["approved"]:
            stays.append(
                f"{EDITS}: correction {fact['id']} is active and stays, but {said}; if it is wrong, "
                f"`mendflow retire {model_name} {fact['id']}` withdraws it"
            )
    return reasons, tuple(stays)


def _by_id(facts: pd.DataFrame, reasons: Mapping[int, str]) -> dict[str, str]:
    ids = facts["id"]
    return {str(ids.iloc[row]) if ids.iloc[row] else f"row {row}": reason for row, reason in reasons.items()}


def _warnings(name: str, checks: Sequence[Check], found: Sequence[ExpectationResult]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {check.reason.format(count=result.unexpected)}"
        for check, result in zip(checks, found, strict=True)
        if check.severity == WARNING and not result.success
    )
