"""From gated metrics to one verdict, and the file it is kept in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from validation.gates import GateReport
from validation.metrics import Metric, Severity, Status
from validation.thresholds import GateFile


class Verdict(StrEnum):
    """What is to be done with a candidate."""

    PROMOTE = "PROMOTE"
    REJECT = "REJECT"
    HOLD = "HOLD"
    INSUFFICIENT = "INSUFFICIENT"


class Decision(BaseModel):
    """A verdict with its reason and everything it was taken from."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    verdict: Verdict
    reason: str = Field(description="one sentence a person can act on")
    failing: tuple[str, ...] = Field(description="critical metrics that failed")
    insufficient: tuple[str, ...] = Field(description="critical metrics that could not decide")
    warnings: tuple[str, ...] = Field(description="warnings that failed or could not decide")
    needs_approval: bool = Field(description="whether a person has to promote what passes")
    gates_version: int
    gates: GateFile
    seed: int = Field(default=0, description="of the bootstrap")
    digests: dict[str, str] = Field(description="SHA-256 of every input: outcomes, gates, and the caller's")
    metrics: tuple[Metric, ...]

    def digest(self) -> str:
        """SHA-256 over the decision; the same inputs give the same one."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()


def decide(
    report: GateReport, *, needs_approval: bool = False, digests: Mapping[str, str] | None = None
) -> Decision:
    """The verdict of a gate report.

    A critical failure rejects, even beside gates that could not decide; a critical gate that could not
    decide is INSUFFICIENT; what passes is promoted, or held where a person has to approve.

    Args:
        report: from `run_gates`.
        needs_approval: hold instead of promote.
        digests: of the inputs only the caller knows (base, candidate, champion, delta, ledger, data).

    Raises:
        ValueError: `digests` uses a name that the decision fills in itself.
    """
    own = {"outcomes": report.outcomes_digest, "gates": report.gate_file.digest()}
    taken = sorted(set(own) & set(digests or {}))
    if taken:
        raise ValueError(f"the digest of {taken[0]} is the decision's own; give it another name")
    gated = [metric for metric in report.metrics if metric.severity is not None]
    critical = [metric for metric in gated if metric.severity is Severity.CRITICAL]
    failing = [metric for metric in critical if metric.status is Status.FAILED]
    insufficient = [metric for metric in critical if metric.status is Status.INSUFFICIENT]
    undecided = (Status.FAILED, Status.INSUFFICIENT)
    warnings = [m for m in gated if m.severity is Severity.WARNING and m.status in undecided]
    passed = sum(metric.status is Status.PASSED for metric in critical)
    if failing:
        verdict, reason = Verdict.REJECT, f"Refused: {_sentence(failing)}."
    elif insufficient or not passed:
        why = _sentence(insufficient) if insufficient else "no critical gate had anything to decide on"
        verdict, reason = Verdict.INSUFFICIENT, f"Nothing can be said yet: {why}."
    else:
        verdict = Verdict.HOLD if needs_approval else Verdict.PROMOTE
        reason = f"All {passed} critical gates pass"
        reason += "; a person has to approve." if needs_approval else "."
    return Decision(
        verdict=verdict,
        reason=reason,
        failing=tuple(metric.name for metric in failing),
        insufficient=tuple(metric.name for metric in insufficient),
        warnings=tuple(metric.name for metric in warnings),
        needs_approval=needs_approval,
        gates_version=report.gate_file.version,
        gates=report.gate_file,
        seed=report.seed,
        digests={**own, **(digests or {})},
        metrics=report.metrics,
    )


def write_decision(decision: Decision, path: Path) -> None:
    """Write the decision as JSON, keys sorted; figures that are no numbers as "NaN" and "Infinity"."""
    path.write_text(_canonical(decision) + "\n")


def read_decision(path: Path) -> Decision:
    """Read what `write_decision` wrote.

    Raises:
        pydantic.ValidationError: the file is not a decision.
    """
    return Decision.model_validate_json(path.read_text())


def _sentence(metrics: list[Metric]) -> str:
    first = f"{metrics[0].name} {metrics[0].reason}"
    others = [metric.name for metric in metrics[1:]]
    return first + (f"; also {', '.join(others)}" if others else "")


def _canonical(decision: Decision) -> str:
    # Pydantic's own JSON spells NaN as a string; only json.dumps sorts the keys.
    return json.dumps(json.loads(decision.model_dump_json()), indent=2, sort_keys=True, allow_nan=False)
