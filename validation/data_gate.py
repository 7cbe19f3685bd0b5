"""The data gate: what is wrong with an edit dataset, row by row, before anything is learned from it.

A row that fails a critical check is set aside with the reason, and the rest goes on. The frames are checked
as facts derived from them (lengths, "duplicate of ..."), so that a finding names the other row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from validation.dataset_facts import EDIT_COLUMNS, LOCALITY_COLUMNS, DataLimits, edit_facts, locality_facts
from validation.expectations import ExpectationResult, docs_index, run_suite

EDITS = "edits"
LOCALITY = "locality"

_CRITICAL, _WARNING = "critical", "warning"
# Corrections of one reporter that are never called a flood.
_FLOOD = 20


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


@dataclass(frozen=True)
class _Check:
    """One expectation on the facts, and what to say of a row that fails it ({fact} is its column's value)."""

    name: str
    column: str
    expectation: str
    reason: str
    severity: str = _CRITICAL
    arguments: Mapping[str, Any] = field(default_factory=dict)


def check_data(
    edits: pd.DataFrame,
    locality: pd.DataFrame,
    *,
    docs_dir: Path | None = None,
    limits: DataLimits | None = None,
) -> DataGateResult:
    """Check an edit dataset; the result holds the rows of both frames that may be learned from.

    Args:
        edits: columns id, prompt, target, wrong_output, subject, chat, equivalents, held_out, reports,
            reporters, sources.
        locality: columns id, prompt, reference, confirmed, kind, role, chat.
        docs_dir: folder for the Data Docs, a folder for each frame; none are written without one.
        limits: lengths and least numbers of rows.
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

    checks, facts = _edit_checks(limits, len(edits)), edit_facts(edits)
    found = _run(EDITS, facts, checks, docs_dir)
    edits_failed = _reasons(facts, checks, found)
    kept_edits = edits.iloc[[place for place in range(len(edits)) if place not in edits_failed]]

    # Against all edits: a prompt set aside as an edit is still none that must stay as it is.
    locality_checks, facts_of_locality = _locality_checks(), locality_facts(locality, edits)
    locality_found = _run(LOCALITY, facts_of_locality, locality_checks, docs_dir)
    locality_failed = _reasons(facts_of_locality, locality_checks, locality_found)
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
        warnings=_warnings(EDITS, checks, found) + _warnings(LOCALITY, locality_checks, locality_found),
        results={EDITS: [r.as_json() for r in found], LOCALITY: [r.as_json() for r in locality_found]},
        docs_dir=docs_dir,
        edits=kept_edits,
        locality=kept_locality,
    )


def _edit_checks(limits: DataLimits, rows: int) -> list[_Check]:
    longest, most = limits.prompt_characters, limits.target_words
    return [
        _Check("enough_rows", "", "ExpectTableRowCountToBeBetween", "", arguments={"min_value": 1}),
        _present("id_present", "id", "it has no id"),
        _Check("id_unique", "id", "ExpectColumnValuesToBeUnique", "another row has the same id"),
        _one_of("chat_known", "chat", [True, False], "it does not say whether it is a chat turn"),
        _between("prompt_present", "prompt_characters", 1, None, "the prompt is empty or not text"),
        _between(
            "prompt_length",
            "prompt_characters",
            None,
            longest,
            f"the prompt is longer than {longest} characters",
        ),
        _between("target_present", "target_words", 1, None, "the target is empty or not text"),
        _between("target_length", "target_words", None, most, f"the target is longer than {most} words"),
        _one_of(
            "target_is_new", "target_is_wrong_output", [False], "the target says the same as the wrong output"
        ),
        _absent("no_duplicate", "duplicate_of", "correction {fact} has the same prompt and target"),
        _absent("no_conflict", "conflicts_with", "correction {fact} wants another answer to the same prompt"),
        _absent("held_out_unseen", "held_out_leak", "a held-out phrasing is given to the editor too: {fact}"),
        _between(
            "phrasings_present", "blank_phrasings", None, 0, "one of its phrasings is empty or not text"
        ),
        _between("provenance", "sources", 1, None, "nothing says where it came from"),
        _absent(
            "no_other_teaching",
            "taught_otherwise_by",
            "it asks in other words what correction {fact} answers otherwise; retire the wrong one",
        ),
        *_abuse_checks(),
        _reporter_check(limits.reporter_corrections, rows),
        _between(
            "has_equivalents", "equivalents", 1, None, "{count} corrections have no other phrasing", _WARNING
        ),
        _between(
            "has_held_out", "held_out", 1, None, "{count} corrections have no held-out phrasing", _WARNING
        ),
        _one_of(
            "wrong_output_is_wrong",
            "wrong_output_gives_target",
            [False],
            "{count} corrections have a wrong output that already gives the target",
            _WARNING,
        ),
    ]


def _abuse_checks() -> list[_Check]:
    prompt = "the prompt holds {fact}; report the question itself, in plain words"
    target = "the target holds {fact}; report it again with the plain answer"
    return [
        _absent("prompt_asks", "prompt_instruction", prompt),
        _absent("prompt_visible", "prompt_unseen", prompt),
        _absent("phrasings_ask", "phrasing_fault", "its phrasing {fact}; report it without that phrasing"),
        _absent("target_answers", "target_instruction", target),
        _absent("target_visible", "target_unseen", target),
        _absent("target_plain", "target_markup", target),
        _absent(
            "target_without_link",
            "target_link",
            "the target holds {fact} that its prompt does not ask for; report it again without",
        ),
        _absent(
            "target_without_secret",
            "target_leak",
            "the target holds {fact}, which the model would repeat to anybody; report it again without",
        ),
    ]


def _reporter_check(limit: int | None, rows: int) -> _Check:
    name, column = "reporters_share", "corrections_of_reporter"
    if limit is None:
        return _between(
            name,
            column,
            None,
            max(_FLOOD, rows // 2),
            "{count} corrections, more than half, stand on the word of one reporter; read them, or set"
            " reporter_limit",
            _WARNING,
        )
    return _between(
        name,
        column,
        None,
        limit,
        f"its reporter alone stands behind {{fact}} corrections, more than the limit of {limit}; take it with"
        " `mendflow choose` if it is right, or raise the limit",
    )


def _locality_checks() -> list[_Check]:
    return [
        _Check("enough_rows", "", "ExpectTableRowCountToBeBetween", "", arguments={"min_value": 1}),
        _between("prompt_present", "prompt_characters", 1, None, "the prompt is empty or not text"),
        _absent("prompt_asks", "prompt_instruction", "the prompt holds {fact}"),
        _absent("prompt_visible", "prompt_unseen", "the prompt holds {fact}"),
        _present("reference_present", "reference", "the champion's answer is missing"),
        _one_of("kind_known", "kind", ["near", "far"], "its kind is {fact}, neither near nor far"),
        _one_of("role_known", "role", ["editor", "gate"], "its role is {fact}, neither editor nor gate"),
        _one_of("chat_known", "chat", [True, False], "it does not say whether it is a chat turn"),
        _one_of("confirmed_known", "confirmed", [True, False], "it does not say whether its answer is right"),
        _absent("need_not_change", "must_change_for", "correction {fact} must change this very prompt"),
        _absent("gate_prompt_unseen", "editor_saw", "the editor is given the same prompt, as {fact}"),
        _absent("no_duplicate", "duplicate_of", "{fact} is the same prompt in the same role"),
    ]


def _present(name: str, column: str, reason: str) -> _Check:
    return _Check(name, column, "ExpectColumnValuesToNotBeNull", reason)


def _absent(name: str, column: str, reason: str) -> _Check:
    return _Check(name, column, "ExpectColumnValuesToBeNull", reason)


def _between(
    name: str, column: str, least: int | None, greatest: int | None, reason: str, severity: str = _CRITICAL
) -> _Check:
    bounds = {"min_value": least, "max_value": greatest}
    return _Check(name, column, "ExpectColumnValuesToBeBetween", reason, severity, bounds)


def _one_of(name: str, column: str, values: Sequence[Any], reason: str, severity: str = _CRITICAL) -> _Check:
    return _Check(name, column, "ExpectColumnValuesToBeInSet", reason, severity, {"value_set": list(values)})


def _run(
    name: str, facts: pd.DataFrame, checks: Sequence[_Check], docs_dir: Path | None
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
    facts: pd.DataFrame, checks: Sequence[_Check], found: Sequence[ExpectationResult]
) -> dict[int, str]:
    """Why each failing row is set aside, by position; every reason, in the order of the checks."""
    reasons: dict[int, list[str]] = {}
    for check, result in zip(checks, found, strict=True):
        for row in result.rows if check.severity == _CRITICAL and check.column else ():
            reasons.setdefault(row, []).append(check.reason.format(fact=facts[check.column].iloc[row]))
    return {row: "; ".join(said) for row, said in sorted(reasons.items())}


def _by_id(facts: pd.DataFrame, reasons: Mapping[int, str]) -> dict[str, str]:
    ids = facts["id"]
    return {str(ids.iloc[row]) if ids.iloc[row] else f"row {row}": reason for row, reason in reasons.items()}


def _warnings(name: str, checks: Sequence[_Check], found: Sequence[ExpectationResult]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {check.reason.format(count=result.unexpected)}"
        for check, result in zip(checks, found, strict=True)
        if check.severity == _WARNING and not result.success
    )
