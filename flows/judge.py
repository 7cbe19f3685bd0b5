"""The validate stage: measure the candidate, hold it against the gates, say the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import ReportProgress
from flows.settings import CorrectSettings
from flows.stages import Champion, stage
from tasks.apply import Applied
from tasks.edit_dataset import EditDataset
from tasks.evidence import evidence_of
from tasks.own_gates import own_digests, own_sources
from tasks.promotion import WITHDRAWN_TAG
from tasks.records import Correction, UserError
from tasks.registry import describe
from tasks.validate import measure, measured_digest
from tasks.verdicts import MADE_OF, delta_digest, keep, take
from validation.early import BEFORE_ASKING, Stop
from validation.outcomes import DRAWDOWN, LOCALITY
from validation.verdict import Decision, Verdict

# The metrics over prompts whose answers must stay.
_STAYING = ("answers_kept", DRAWDOWN, LOCALITY)

if TYPE_CHECKING:
    import pandas as pd

    from validation.thresholds import GateFile


@dataclass(frozen=True)
class Judged:
    """A verdict with what it was taken from, and where the measuring stopped at a gate that refuses."""

    decision: Decision
    outcomes: pd.DataFrame
    dataset: EditDataset
    docs: Path
    stopped: Stop | None = None


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


def gates_left_out(settings: CorrectSettings) -> str:
    """A warning that names mendflow's critical gates that the user's file lacks; empty if there are none."""
    from validation.metrics import Severity
    from validation.thresholds import load_gates

    gates = check_gates(settings).gates
    default = load_gates().gates.items()
    lacking = [name for name, gate in default if gate.severity is Severity.CRITICAL and name not in gates]
    if not lacking:
        return ""
    return (
        f"the gates file {settings.gates} leaves out critical gates, which refuse nothing now: "
        f"{', '.join(lacking)}; copy those you want from validation/gates.yaml"
    )


def gates_digest(settings: CorrectSettings) -> str:
    """Digest of the gate file, and of the user's functions and tasks that are beside it."""
    gates, beside = check_gates(settings), settings.gates.parent if settings.gates else None
    return "".join([gates.digest(), *own_digests(own_sources(gates.own), beside).values()])


def check_own_gates(settings: CorrectSettings) -> None:
    """Refuse a gate file whose own functions and tasks cannot be used.

    Raises:
        UserError: a module, function, task file or its data is not there, or cannot be used.
    """
    beside = settings.gates.parent if settings.gates else None
    for name, source in own_sources(check_gates(settings).own).items():
        source.check(f"the gate {name}", beside)


@stage
def judge(
    settings: CorrectSettings,
    dataset: EditDataset,
    champion: Champion,
    candidate: str,
    applied: Applied,
    run_id: str,
    folder: Path,
    replay: Sequence[tuple[str, bool]],
    corrections: Iterable[Correction],
    progress: ReportProgress,
    thorough: bool = True,
) -> Judged:
    """Measure the candidate reloaded from the registry in a fresh process, and decide.

    What the `corrections` of the ledger say must never appear is withheld in what MLflow gets.
    What a gate refuses that needs no answers is measured no further; unless it is to be `thorough`, nor is
    what one over the corrections' own prompts refuses.
    """
    gates = check_gates(settings)
    name = settings.model_name
    held = set(champion.correction_ids)
    own, beside = own_sources(gates.own), settings.gates.parent if settings.gates else None
    measured = measure(
        folder / "measured",
        tracking_uri=settings.tracking,
        candidate=f"models:/{name}/{candidate}",
        champion=f"models:/{name}/{champion.version}",
        dataset=folder / "dataset",
        earlier=[id_ for id_ in dataset.edits["id"] if id_ in held],
        replay=replay,
        own=own,
        beside=beside,
        stop_at=gates,
        stops=BEFORE_ASKING if thorough else tuple(Stop),
        readings=settings.readings,
        progress=progress,
    )
    docs = folder / "gate_docs"
    tags = _tags(settings, candidate)
    withdrawn = tags.get(WITHDRAWN_TAG, "")
    unvouched = _answered_by_programs(dataset, held) if gates.machine_answered == "hold" else 0
    decision = take(
        measured,
        gates,
        digests={
            "base": champion.folder.digest,
            "champion": delta_digest(champion.folder),
            "delta": applied.digest,
            "dataset": dataset.digest,
            "measured": measured_digest(folder / "measured"),
            **{item: tags[tag] for item, tag in MADE_OF.items()},
            **own_digests(own, beside),
        },
        needs_approval=settings.promotion == "review" or unvouched > 0 or bool(withdrawn),
        seed=settings.seed,
        docs_dir=docs,
    )
    decision = _with_remedy(decision, settings.experiment)
    if decision.verdict is Verdict.HOLD and unvouched:
        told = f"A program answered {unvouched} of its corrections, and no person has promoted these before."
        decision = decision.model_copy(update={"reason": f"{decision.reason} {told}"})
    if decision.verdict is Verdict.HOLD and withdrawn:
        told = f"It was withdrawn as a canary: {withdrawn}."
        decision = decision.model_copy(update={"reason": f"{decision.reason} {told}"})
    decision = redacted_decision(decision, settings)
    keep(
        decision,
        folder,
        name=name,
        version=candidate,
        champion=champion.version,
        run_id=run_id,
        tracking_uri=settings.tracking,
        evidence=evidence_of(settings.home),
        redact=for_others(settings, corrections),
        beside=beside,
    )
    return Judged(decision, measured.outcomes, dataset, docs, measured.stopped)


def redacted_decision(decision: Decision, settings: CorrectSettings) -> Decision:
    """The decision as others may read it: a gate of the users' own may quote what it was asked."""
    redact = settings.redaction.redact
    metrics = tuple(m.model_copy(update={"reason": redact(m.reason)}) for m in decision.metrics)
    return decision.model_copy(update={"reason": redact(decision.reason), "metrics": metrics})


def for_others(settings: CorrectSettings, corrections: Iterable[Correction]) -> Callable[[str], str]:
    """What is done to a text before others read it: outputs that must never appear are withheld in it.

    Those of all corrections that are known: what is withdrawn or failed is no less private.
    """
    from validation.suppression import withholding

    redact = settings.redaction.redact
    secrets = [
        (one.suppressed, f"{one.prompt} {one.desired_output}") for one in corrections if one.suppressed
    ]
    if not secrets:
        return redact
    withheld = withholding(secrets)
    return lambda text: redact(withheld(text))


def _tags(settings: CorrectSettings, version: str) -> Mapping[str, str]:
    versions = describe(settings.model_name, tracking_uri=settings.tracking).versions
    return next(one.tags for one in versions if one.number == version)


def _answered_by_programs(dataset: EditDataset, held: set[str]) -> int:
    """The corrections that a program answered and that the champion does not hold yet."""
    edits = dataset.edits
    return int(((edits["answerer"] != "") & ~edits["id"].isin(held)).sum())


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
