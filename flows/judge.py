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
from tasks.validate import measure
from validation.verdict import Decision, decide, write_decision

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Judged:
    """A verdict with what it was taken from."""

    decision: Decision
    outcomes: pd.DataFrame
    dataset: EditDataset
    verdict_file: Path
    docs: Path


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
    from validation.thresholds import GateFileError, load_gates

    try:
        gates = load_gates(settings.gates)
    except GateFileError as error:
        raise UserError(str(error)) from error
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
        teacher_forced=measured.teacher_forced,
        docs_dir=docs,
        seed=settings.seed,
    )
    digests = {"base": champion.folder.digest, "delta": applied.digest, "dataset": dataset.digest}
    decision = decide(report, needs_approval=settings.promotion == "review", digests=digests)
    write_decision(decision, folder / "verdict.json")
    return Judged(decision, measured.outcomes, dataset, folder / "verdict.json", docs)
