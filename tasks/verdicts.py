"""The verdict on a candidate: taken from what was measured, and kept with all of it in the MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from tasks.evidence import Redact, log_evidence
from tasks.models import ModelFolder, load_delta
from tasks.own_gates import own_files, own_sources
from tasks.register import EDITOR_TAG, LEDGER_TAG, NO_DELTA
from tasks.registry import tag_version
from tasks.runs import log_files
from tasks.validate import MEASURED_FILE, OUTCOMES_FILE
from validation.verdict import Decision, decide, write_decision

if TYPE_CHECKING:
    from tasks.measuring import Measured
    from validation.early import Stop
    from validation.thresholds import GateFile

VERDICT_TAG = "mendflow.verdict"
COMPARED_TAG = "mendflow.compared_with"
REASON_TAG = "mendflow.verdict_reason"
DIGEST_TAG = "mendflow.verdict_digest"
RUN_TAG = "mendflow.verdict_run"
# The version whose weights another one has, behind other overrides: what was said of the one holds of both.
WEIGHTS_TAG = "mendflow.weights_of"

# What a version was made of besides what is kept with it, by the tag that has the digest.
MADE_OF = {"ledger": LEDGER_TAG, "editor": EDITOR_TAG}

# Characters, of a tag that people read on MLflow's page.
REASON_LENGTH = 1000
# Among the artifacts of a run: the verdict with what it was taken from, and the dataset that was asked.
VERDICT_FOLDER, DATASET_FOLDER = "verdict", "dataset"
VERDICT_FILE, GATES_FILE = "verdict.json", "gates.yaml"


def take(
    measured: Measured,
    gates: GateFile,
    *,
    digests: Mapping[str, str],
    needs_approval: bool,
    seed: int,
    docs_dir: Path | None = None,
) -> Decision:
    """Hold what was measured against the gates, and decide; the same inputs give the same decision."""
    from validation.gates import run_gates

    report = run_gates(
        measured.outcomes,
        gates,
        expected_rows=measured.expected_rows,
        perplexities=measured.perplexities,
        parameters=measured.parameters,
        renderings=measured.renderings,
        teacher_forced=measured.teacher_forced,
        answer_seconds=measured.answer_seconds,
        own=measured.own,
        docs_dir=docs_dir,
        seed=seed,
    )
    decision = decide(report, needs_approval=needs_approval, digests=digests)
    return decision if measured.stopped is None else _told_of_stop(decision, measured.stopped)


def _told_of_stop(decision: Decision, stop: Stop) -> Decision:
    """The decision, which says what was not measured because a gate had refused the candidate already."""
    from validation.metrics import Status

    left_out = {m.name for m in decision.metrics if m.status is Status.INSUFFICIENT and not m.n}
    why = f"was not measured: {', '.join(decision.failing)} refused it before"
    metrics = [m.model_copy(update={"reason": why}) if m.name in left_out else m for m in decision.metrics]
    count = "1 gate was" if len(left_out) == 1 else f"{len(left_out)} gates were"
    told = f"{decision.reason} Measured no further: {stop.told}, and {count} left out."
    return decision.model_copy(update={"reason": told, "metrics": tuple(metrics)})


def keep(
    decision: Decision,
    folder: Path,
    *,
    name: str,
    version: str,
    champion: str,
    run_id: str,
    tracking_uri: str,
    evidence: Path,
    redact: Redact,
    beside: Path | None = None,
) -> None:
    """Log a verdict with all that it was taken from, redacted, then tag the version with it.

    A promotion by hand and `verify` go by the tags, which are written last.

    Args:
        decision: the verdict.
        folder: the run's, with `measured` and `dataset` in it; verdict and gate file are written there.
        name: registered model.
        version: the candidate's.
        champion: version that it was compared with.
        run_id: MLflow run that keeps the files.
        tracking_uri: the MLflow store.
        evidence: where the home keeps what is redacted.
        redact: what is done to every text that goes to MLflow.
        beside: folder of the gate file; what it holds of the user's own gates is logged too.
    """
    from validation.thresholds import write_gates

    write_decision(decision, folder / VERDICT_FILE)
    write_gates(decision.gates, folder / GATES_FILE)
    files = (VERDICT_FILE, GATES_FILE, f"measured/{OUTCOMES_FILE}", f"measured/{MEASURED_FILE}")
    asked = sorted(one for one in (folder / "dataset").iterdir() if one.is_file())
    kept = {VERDICT_FOLDER: [folder / file for file in files], DATASET_FOLDER: asked}
    logged = []
    # Beside the gate file as they were beside the user's, so that they are found there again.
    for file in sorted(set(own_files(own_sources(decision.gates.own), beside).values())):
        place = (Path(VERDICT_FOLDER) / file.parent.relative_to(beside or "")).as_posix()
        if file.suffix == ".py":
            logged.append((place, file))
        else:
            kept.setdefault(place, []).append(file)
    log_evidence(tracking_uri, run_id, kept, redact=redact, evidence=evidence)
    log_files(tracking_uri, run_id, logged)
    tags = {
        VERDICT_TAG: decision.verdict.value,
        REASON_TAG: shorten(redact(decision.reason), REASON_LENGTH),
        COMPARED_TAG: champion,
        DIGEST_TAG: decision.digest(),
        RUN_TAG: run_id,
    }
    tag_version(name, version, tags, tracking_uri=tracking_uri)


def delta_digest(folder: ModelFolder) -> str:
    """Digest of a model's delta; `none` for a base.

    Raises:
        UserError: the delta cannot be read.
    """
    return NO_DELTA if folder.delta is None else load_delta(folder.delta, folder).digest()
