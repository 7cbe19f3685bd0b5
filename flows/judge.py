"""The validate stage: measure the candidate, hold it against the gates, say the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import ReportProgress
from flows.settings import CorrectSettings
from flows.stages import Champion, stage
from tasks.apply import Applied
from tasks.edit_dataset import EditDataset
from tasks.records import UserError
from tasks.registry import tag_version
from tasks.validate import measure
from validation.outcomes import DRAWDOWN, LOCALITY
from validation.verdict import Decision, Verdict, decide, write_decision

VERDICT_TAG = "mendflow.verdict"
COMPARED_TAG = "mendflow.compared_with"
# The metrics over prompts whose answers must stay.
_STAYING = ("answers_kept", DRAWDOWN, LOCALITY)

if TYPE_CHECKING:
    import pandas as pd

    from validation.thresholds import GateFile


@dataclass(frozen=True)
class Judged:
    """A verdict with what it was taken from."""

    decision: Decision
    outcomes: pd.DataFrame
    dataset: EditDataset
    verdict_file: Path
    docs: Path


def check_gates(settings: CorrectSettings) -> GateFile:
    """The gates that will decide; a file that cannot be used is refused before any work is done.

    Raises:
        UserError: the gate file cannot be used.
    """
    from validation.thresholds import GateFileError, load_gates

    try:
        return load_gates(settings.gates)
    except GateFileError as error:
        raise UserError(str(error)) from error


@stage
def judge(
    settings: CorrectSettings,
    dataset: EditDataset,
    champion: Champion,
    candidate: str,
    applied: Applied,
    folder: Path,
    progress: ReportProgress,
) -> Judged:
    """Measure the candidate reloaded from the registry in a fresh process, and decide."""
    from validation.gates import run_gates

    gates = check_gates(settings)
    name = settings.model_name
    held = set(champion.correction_ids)
    measured = measure(
        folder / "measured",
        tracking_uri=settings.tracking,
        candidate=f"models:/{name}/{candidate}",
        champion=f"models:/{name}/{champion.version}",
        dataset=folder / "dataset",
        earlier=[id_ for id_ in dataset.edits["id"] if id_ in held],
        progress=progress,
    )
    docs = folder / "gate_docs"
    report = run_gates(
        measured.outcomes,
        gates,
        expected_rows=measured.expected_rows,
        perplexities=measured.perplexities,
        parameters=measured.parameters,
        renderings=measured.renderings,
        teacher_forced=measured.teacher_forced,
        docs_dir=docs,
        seed=settings.seed,
    )
    digests = {"base": champion.folder.digest, "delta": applied.digest, "dataset": dataset.digest}
    decision = decide(report, needs_approval=settings.promotion == "review", digests=digests)
    decision = _with_remedy(decision, settings.experiment)
    write_decision(decision, folder / "verdict.json")
    # A promotion by hand looks at these: what the gates said, and beside which champion.
    said = {VERDICT_TAG: decision.verdict.value, COMPARED_TAG: champion.version}
    tag_version(name, candidate, said, tracking_uri=settings.tracking)
    return Judged(decision, measured.outcomes, dataset, folder / "verdict.json", docs)


def _with_remedy(decision: Decision, experiment: str) -> Decision:
    """The decision; where too few prompts were there to tell damage by, its reason says how to give them."""
    lacking = [m for m in decision.metrics if m.name in _STAYING and m.name in decision.insufficient]
    if decision.verdict is not Verdict.INSUFFICIENT or not lacking:
        return decision
    needed = max(decision.gates.gates[metric.name].minimum_n for metric in lacking)
    reason = (
        f"Nothing can be said yet: the gates need {needed} prompts whose right answers must stay, and have "
        f"{min(metric.n for metric in lacking)}; name more in the column `locality` of a file of reports, or "
        f"let the model answer with tracing on (experiment {experiment!r}) and mark what it answers rightly "
        "with the feedback `correct`, then run again."
    )
    return decision.model_copy(update={"reason": reason})
