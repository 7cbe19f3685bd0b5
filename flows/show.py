"""What a person looks at after a run: the HTML report in MLflow, and artifacts on Prefect's page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.judge import Judged, for_others
from flows.settings import CorrectSettings
from tasks.evidence import redacted
from tasks.records import Correction
from tasks.runs import artifact_address, log_run
from validation.verdict import Decision

if TYPE_CHECKING:
    from flows.correct import CorrectionRun
    from flows.revalidate import Revalidation

REPORT_FILE, TRIED_FILE = "report.html", "methods.json"


def write_run_report(
    settings: CorrectSettings,
    run: CorrectionRun,
    judged: Judged,
    folder: Path,
    corrections: Iterable[Correction],
) -> str:
    """Write the report, log it and everything else with the MLflow run; the report's path.

    What the `corrections` of the ledger say must never appear is withheld in it, and it is redacted.
    """
    from validation.report import SetAside, write_report

    redact = settings.redaction.redact
    path, tried = folder / REPORT_FILE, folder / TRIED_FILE
    methods = redacted(run.tried, redact)
    tried.write_text(json.dumps(methods, indent=2))
    edits = judged.dataset.edits
    answerers = {id_: who for id_, who in zip(edits["id"], edits["answerer"], strict=True) if who}
    write_report(
        path,
        title=f"{run.model_name}, version {run.candidate}",
        summary={
            "Model": run.model_name,
            "Candidate": f"version {run.candidate}",
            "Champion": f"version {run.champion}",
            "Corrections": str(len(edits)) + (f", {len(answerers)} by a program" if answerers else ""),
            "Editor": f"{run.editor['name']} ({run.editor['origin']})",
            "Cost": f"{run.cost['seconds_per_edit']:.2f} s an edit, "
            f"{run.cost['multiple_of_forward_and_backward']:.2f} times a forward and backward pass",
        },
        verdict=judged.decision,
        metrics=judged.decision.metrics,
        outcomes=judged.outcomes,
        set_aside=[SetAside(**entry) for entry in run.set_aside],
        tried=methods,
        solves=redacted(run.solves, redact),
        answerers=answerers,
        withheld=for_others(settings, corrections),
        stages_seconds=run.seconds,
        commands={**_decisions(settings, run), "Undo the last promotion": settings.command("rollback")},
        links={"Data gate": "data_docs/edits/index.html", "Model gates": "gate_docs/index.html"},
    )
    log_run(
        settings.tracking,
        run.run_id,
        parameters={
            "model": run.model_name,
            "candidate": str(run.candidate),
            "champion": run.champion,
            "editor": str(run.editor["name"]),
            "editor_digest": str(run.editor["digest"]),
            "data_digest": judged.dataset.digest,
            "verdict": judged.decision.verdict.value,
        },
        metrics={
            **{m.name: m.value for m in judged.decision.metrics if math.isfinite(m.value)},
            **{f"cost_{name}": value for name, value in run.cost.items()},
        },
        dataset=judged.dataset,
        artifacts={
            "report": path,
            "methods": tried,
            "report/data_docs": folder / "data_docs",
            "report/gate_docs": judged.docs,
        },
    )
    return str(path)


def _decisions(settings: CorrectSettings, run: CorrectionRun) -> dict[str, str]:
    """What a person who has read the report may do with the version."""
    version = ("--version", str(run.candidate))
    if run.outcome == "held":
        note = ("--note", "TEXT", *version)
        return {
            "Approve this version": settings.command("approve", *note),
            "Reject it for good": settings.command("reject", *note),
        }
    return {"Promote this version, if it does not serve": settings.command("promote", *version)}


def publish(run: CorrectionRun, decision: Decision, settings: CorrectSettings) -> None:
    """Leave a table, a markdown and a link artifact on Prefect's page of the run."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    key = _artifact_key(run.model_name)
    create_table_artifact(_gate_rows(decision), key=f"{key}-gates", description=decision.reason)
    create_markdown_artifact(
        f"# {run.model_name}: {run.outcome}\n\n{decision.reason}\n\n"
        f"Candidate version {run.candidate}, champion version {run.champion}.\n",
        key=f"{key}-run",
    )
    link = artifact_address(settings.tracking, run.run_id, f"report/{REPORT_FILE}")
    create_link_artifact(link, link_text="Report", key=f"{key}-report")


def publish_revalidation(found: Revalidation, decision: Decision | None) -> None:
    """Leave what became of the champion, and the table of its gates, on Prefect's page of the run."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    key = _artifact_key(found.model_name)
    told = f"# {found.model_name}, version {found.version}: {found.outcome}\n\n{found.reason}\n"
    if found.rolled_back_to:
        told += f"\nRolled back to version {found.rolled_back_to}.\n"
    create_markdown_artifact(told, key=f"{key}-revalidation")
    if decision is not None:
        create_table_artifact(
            _gate_rows(decision), key=f"{key}-revalidation-gates", description=decision.reason
        )


def _gate_rows(decision: Decision) -> list[dict[str, str]]:
    return [
        {
            "gate": m.name,
            "value": _shown(m.value),
            "interval": f"{_shown(m.low)} to {_shown(m.high)}",
            "threshold": _shown(m.threshold),
            "champion": _shown(m.champion),
            "status": m.status.value,
        }
        for m in decision.metrics
    ]


def _artifact_key(model_name: str) -> str:
    """What Prefect takes for a key: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", model_name.lower()).strip("-")


def _shown(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
