"""The main job: flagged errors in, a corrected, validated, registered and promoted model out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect import flow

from flows import stages
from flows.already_correct import close_already_correct
from flows.answering import answer_waiting, open_answerer
from flows.approve import carry_out_written
from flows.attempt import Workshop
from flows.bisect import Notebook, Solved, solve
from flows.console import Narrator
from flows.dataset import requests_to_replay
from flows.judge import check_own_gates, gates_left_out
from flows.notify import tell_of_run
from flows.overriding import Answering, overrides_differ, wanted_overrides, with_other_overrides
from flows.promote import brought_back, put_back
from flows.review import ask_reviewers, read_reviews
from flows.settings import CorrectSettings
from flows.show import publish, write_run_report
from tasks import approval, promotion, register
from tasks.collect import NoExperiment
from tasks.ledger import Ledger
from tasks.models import resolve
from tasks.records import Collected, Rejected, State, UserError
from tasks.registry import describe
from tasks.review.questions import Kind
from validation.verdict import Verdict

RESULT_FILE = "result.json"
REJECTED = "rejected"


@dataclass
class CorrectionRun:
    """What a run did; `outcome` is one of promoted, held, rejected, insufficient, nothing to do."""

    outcome: str
    model_name: str
    champion: str
    previous: str | None = None
    candidate: str | None = None
    folder: str = ""
    run_id: str = ""
    report: str = ""
    reason: str = ""
    editor: dict[str, Any] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    solves: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    set_aside: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@flow(name="correct", persist_result=False)
def correct(settings: CorrectSettings) -> CorrectionRun:
    """Collect, build, train or reuse, apply, register, validate, promote; safe to kill and to run again."""
    stages.check_editor(settings)
    answerer = open_answerer(settings)
    name, redact = settings.model_name, settings.redaction.redact
    with Ledger(settings.ledger) as ledger, ledger.lease(f"{name}/correct", "correct", seconds=3600) as lease:
        narrator = Narrator(going_on=lease.keep, redact=redact)
        check_own_gates(settings)
        narrator.warn(gates_left_out(settings))
        promotion.recover(name, ledger=ledger, tracking_uri=settings.tracking)
        champion = stages.find_champion(settings, ledger)
        stages.check_base(settings, champion)
        if carry_out_written(settings, ledger):
            champion = stages.find_champion(settings, ledger)
        stages.reconcile(ledger, name, champion, brought_back=brought_back(settings, ledger, champion))
        notebook = Notebook(settings.home / "runs" / name)

        with narrator.stage("collect", "Collect flagged errors"):
            reviewed = read_reviews(settings, ledger)
            collected = collected_errors(settings, ledger, narrator)
            ledger.record(collected.reports)
            narrator.left_out(collected.rejected)
        for line in (*reviewed.done, *reviewed.open):
            narrator.say(f"review: {line}")
        if answerer is not None:
            with narrator.stage("answer", "Answer reports that came without an answer") as progress:
                answered = answer_waiting(settings, ledger, answerer, progress)
            narrator.say(f"{answered.asked} asked of {answerer.name}, {answered.taken} answered")
        with narrator.stage("check", "Ask the champion whether they are errors still") as progress:
            close_already_correct(settings, ledger, champion, progress)
        narrator.say(
            f"{len(collected.reports)} reports collected, {len(ledger.corrections(name, State.ACCEPTED))} "
            f"corrections to make, {len(collected.traffic)} other requests, "
            f"{sum(one.confirmed for one in collected.traffic)} of them said to be right"
        )
        if settings.review_queue:
            ask_reviewers(settings, ledger, kinds=(Kind.ANSWER, Kind.CHOOSE))
        wanted = {c.id for c in ledger.corrections(name, *stages.OPEN)}
        if wanted == set(champion.correction_ids):
            notebook.forget()
            overrides = wanted_overrides(settings, ledger, champion)
            rolled_back = put_back(settings, ledger, champion) is not None
            if not overrides_differ(champion, overrides, put_back=rolled_back):
                return CorrectionRun("nothing to do", name, champion.version, counts=_counts(ledger, name))
            answering = with_other_overrides(settings, ledger, champion, overrides)
            run = CorrectionRun(
                "nothing to do" if answering.outcome == REJECTED else answering.outcome,
                name,
                champion.version,
                candidate=answering.version,
                counts=_counts(ledger, name),
            )
            return _answered(run, answering)
        if not wanted:
            raise _nothing_left(settings, champion)

        base = resolve(champion.folder.ref, cache=settings.home / "models")
        replay = requests_to_replay(settings, ledger, champion, collected.traffic)
        shop = Workshop(settings, ledger, champion, base, collected.traffic, replay, narrator, lease.renew)
        # Each editor: find or train it, build the dataset, apply, register, validate. Parts too, if refused.
        solved = solve(shop, notebook)
        taken = solved.taken
        judged, applied, run_id = taken.judged, taken.applied, taken.run_id

        verdict = judged.decision.verdict
        rejection = ledger.rejection(name, taken.candidate)
        result = CorrectionRun(
            outcome=REJECTED if rejection else _OUTCOMES[verdict],
            model_name=name,
            champion=champion.version,
            candidate=taken.candidate,
            folder=str(taken.folder),
            run_id=run_id,
            reason=f"{promotion.rejected(rejection)}." if rejection else judged.decision.reason,
            editor=taken.method.described(),
            tried=solved.methods,
            solves=solved.solves,
            cost={
                "seconds": applied.seconds,
                "seconds_per_edit": applied.seconds_per_edit,
                "seconds_per_unit": applied.unit_seconds,
                "multiple_of_forward_and_backward": applied.cost_in_units,
            },
            metrics={m.name: m.model_dump(mode="json") for m in judged.decision.metrics},
            set_aside=_set_aside(ledger, name, solved, collected.rejected),
            seconds=narrator.seconds,
        )
        # From here on the ledger and the registry are changed: not after another run took the lease.
        lease.renew()
        with narrator.stage("report", "Write the report"):
            known = ledger.corrections(name)
            result.report = write_run_report(settings, result, judged, taken.folder, known)
        if solved.failed:
            # A run that is killed from here on finds what is left, and solves no other part of the batch.
            notebook.write(solved)
            ledger.set_aside(solved.failed, run_id, model_name=name)
        if rejection:
            # Registered again, it had the alias of a candidate again.
            promotion.reject(
                name,
                taken.candidate,
                ledger=ledger,
                who=rejection.who,
                why=rejection.why,
                tracking_uri=settings.tracking,
            )
        elif verdict is Verdict.HOLD:
            approval.ask(name, taken.candidate, tracking_uri=settings.tracking)
        elif verdict is Verdict.PROMOTE:
            # Written first: a run that is killed after its promotion leaves its result all the same.
            promises = replace(result, previous=champion.version, champion=taken.candidate)
            _write_result(promises, taken.folder)
            with narrator.stage("promote", "Promote it"):
                promotion.promote(
                    name,
                    taken.candidate,
                    expected_champion=champion.version,
                    ledger=ledger,
                    who="correct flow",
                    why=judged.decision.reason,
                    tracking_uri=settings.tracking,
                    run_id=run_id,
                )
                promoted = stages.find_champion(settings, ledger)
                stages.reconcile(ledger, name, promoted)
            result.previous, result.champion = champion.version, promoted.version
        elif solved.refused and settings.override_failed:
            # Set aside or tried again by the next run: users need not see the wrong answers meanwhile.
            overrides = wanted_overrides(
                settings, ledger, champion, aside=wanted - set(champion.correction_ids)
            )
            if overrides_differ(champion, overrides):
                result = _answered(result, with_other_overrides(settings, ledger, champion, overrides))
        if settings.review_queue:
            # With the rewordings that this run's dataset has.
            ask_reviewers(settings, ledger)
        result.counts = _counts(ledger, name)
        _write_result(result, taken.folder)
        notebook.forget()
        publish(result, judged.decision, settings)
        if rejection is None:
            tell_of_run(settings, result)
    return result


_OUTCOMES = {
    Verdict.PROMOTE: "promoted",
    Verdict.HOLD: "held",
    Verdict.REJECT: REJECTED,
    Verdict.INSUFFICIENT: "insufficient",
}
_SET_ASIDE = (
    State.QUARANTINED,
    State.CONFLICTING,
    State.FAILED,
    State.NEEDS_ANSWER,
    State.ALREADY_CORRECT,
)


def collected_errors(settings: CorrectSettings, ledger: Ledger, narrator: Narrator) -> Collected:
    """What there is to collect; a ledger filled by hand needs no traces, nor does a base's first run."""
    try:
        return stages.collect_errors(settings)
    except NoExperiment as error:
        chosen = settings.experiment != CorrectSettings.model_fields["experiment"].default
        if chosen or not (settings.base or ledger.corrections(settings.model_name)):
            raise
        if not ledger.corrections(settings.model_name):
            narrator.warn(str(error))
        return Collected()


def _answered(run: CorrectionRun, answering: Answering) -> CorrectionRun:
    """The run, with what became of a version with other overrides."""
    run = replace(run, reason=f"{run.reason} {answering.reason}".strip())
    if answering.outcome == "promoted":
        return replace(run, previous=run.champion, champion=answering.version)
    return run


def _set_aside(
    ledger: Ledger, name: str, solved: Solved, unreadable: Iterable[Rejected]
) -> list[dict[str, str]]:
    """What is not solved, and why: as the ledger has it, and as it will once this run's are set aside."""
    rows = []
    for c in ledger.corrections(name, *_SET_ASIDE, *stages.OPEN):
        failed = c.id in solved.failed
        state, reason = (State.FAILED, solved.failed[c.id]) if failed else (c.state, c.reason)
        if state in _SET_ASIDE:
            told = f"{reason}; an override answers it" if c.id in solved.taken.overridden else reason
            rows.append({"id": c.id, "prompt": c.prompt, "state": state.value, "reason": told})
    rows += [{"id": r.source, "prompt": "", "state": "unreadable", "reason": r.reason} for r in unreadable]
    return rows


def _nothing_left(settings: CorrectSettings, champion: stages.Champion) -> UserError:
    """What to do where every correction that the champion holds was withdrawn or set aside."""
    name = settings.model_name
    versions = describe(name, tracking_uri=settings.tracking).versions
    bases = [v.number for v in versions if v.tags.get(register.DELTA_TAG) == register.NO_DELTA]
    remedy = "report one"
    if bases:
        remedy = f"`{settings.command('promote', '--version', bases[-1])}` puts the base back"
    return UserError(
        f"no correction of {name} is left to solve, and its champion, version {champion.version}, holds "
        f"{len(champion.corrected)}: {remedy}"
    )


def _write_result(result: CorrectionRun, folder: Path) -> None:
    partial = folder / f".{RESULT_FILE}"
    partial.write_text(json.dumps(result.__dict__, indent=2, default=str))
    os.replace(partial, folder / RESULT_FILE)


def _counts(ledger: Ledger, name: str) -> dict[str, int]:
    return {state.value: count for state, count in ledger.counts(name).items() if count}
