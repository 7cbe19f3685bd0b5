"""Is the champion still what was promoted? Reloaded, asked again, reported; rolled back where allowed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow

from flows.console import Narrator, ReportProgress
from flows.judge import check_gates, check_own_gates, redacted_decision
from flows.notify import tell
from flows.promote import roll_back
from flows.settings import CorrectSettings
from flows.show import publish_revalidation
from flows.stages import OPEN, Champion, stage, version_at
from tasks import promotion
from tasks.evidence import evidence_of
from tasks.ledger import Ledger
from tasks.models import DamagedVersionError, load
from tasks.own_gates import own_digests, own_sources
from tasks.records import StoreFailedError, UserError
from tasks.registry import CHAMPION, PREVIOUS, Version, describe, resolve_version
from tasks.revalidation import revalidation_dataset
from tasks.validate import measure, measured_digest
from tasks.verdicts import COMPARED_TAG, VERDICT_FILE, delta_digest, take
from validation.verdict import Decision, Verdict, write_decision

HOLDS, FAILS, INSUFFICIENT, NOTHING = "holds", "fails", "insufficient", "nothing to ask"
_OUTCOMES = {Verdict.PROMOTE: HOLDS, Verdict.REJECT: FAILS, Verdict.INSUFFICIENT: INSUFFICIENT}


@dataclass(frozen=True)
class Revalidation:
    """What became of a champion; `outcome` is one of holds, fails, insufficient, nothing to ask."""

    outcome: str
    model_name: str
    version: str
    reason: str
    corrections: int = 0
    rolled_back_to: str | None = None


@flow(name="revalidate", persist_result=False)
def revalidate(settings: CorrectSettings, roll_back_failing: bool = False) -> Revalidation:
    """Ask the champion, reloaded in a fresh process, its active corrections and what its gates asked.

    A champion that fails its gates, or is damaged, is rolled back where `roll_back_failing` allows it and the
    version before it can be loaded. What was found is an artifact on Prefect's page in any case.

    Raises:
        UserError: there is no champion, or it cannot be loaded or asked for a reason that is not its own.
    """
    check_own_gates(settings)
    name, uri, redact = settings.model_name, settings.tracking, settings.redaction.redact
    with (
        Ledger(settings.ledger) as ledger,
        ledger.lease(f"{name}/revalidate", "revalidate", seconds=3600) as lease,
    ):
        narrator = Narrator(going_on=lease.keep, redact=redact)
        promotion.recover(name, ledger=ledger, tracking_uri=uri)
        number = resolve_version(name, CHAMPION, tracking_uri=uri)
        decision = None
        with narrator.stage("load", f"Load version {number} of {name}"):
            champion = _loaded(settings, number)
        if isinstance(champion, str):
            found = Revalidation(FAILS, name, number, f"It cannot be loaded: {champion}.")
        else:
            with narrator.stage("ask", "Ask it everything again") as progress:
                found, decision = _asked(settings, ledger, champion, progress)
        narrator.say(f"{found.outcome}: {found.reason}")
        try:
            if found.outcome == FAILS and roll_back_failing:
                found = _rolled_back(settings, ledger, found, lease.renew)
        finally:
            publish_revalidation(found, decision)
            if found.outcome == FAILS:
                back = f", rolled back to version {found.rolled_back_to}" if found.rolled_back_to else ""
                tell(settings, f"version {found.version}: revalidation failed{back}", found.reason)
    return found


def _loaded(settings: CorrectSettings, version: str) -> Champion | str:
    """A version, once it could be loaded whole; else what about it is damaged."""
    try:
        found = version_at(settings, version)
        load(found.folder)
    except DamagedVersionError as error:
        return " ".join(str(error).split()).rstrip(".")
    return found


@stage
def _asked(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, progress: ReportProgress
) -> tuple[Revalidation, Decision | None]:
    """Measure the champion beside the version that it was promoted over, and hold it against the gates."""
    name, uri = settings.model_name, settings.tracking
    # The ledger may say what another version holds: one was promoted meanwhile, or a promotion was killed.
    active = [c for c in ledger.corrections(name, *OPEN) if c.id in set(champion.correction_ids)]
    if not active:
        return Revalidation(NOTHING, name, champion.version, "No correction that it holds is active."), None
    versions = {one.number: one for one in describe(name, tracking_uri=uri).versions}
    folder = _emptied(settings.home / "revalidations" / name)
    dataset = revalidation_dataset(
        versions[champion.version],
        active,
        folder / "dataset",
        tracking_uri=uri,
        evidence=evidence_of(settings.home),
    )
    gates, code = check_gates(settings), settings.gates.parent if settings.gates else None
    own = own_sources(gates.own)
    beside = _beside(settings, versions[champion.version], champion)
    measured = measure(
        folder / "measured",
        tracking_uri=uri,
        candidate=f"models:/{name}/{champion.version}",
        champion=f"models:/{name}/{beside.version}",
        dataset=folder / "dataset",
        earlier=[id_ for id_ in dataset.edits["id"] if id_ in set(beside.correction_ids)],
        own=own,
        beside=code,
        readings=settings.readings,
        progress=progress,
    )
    decision = take(
        measured,
        gates,
        digests={
            "base": champion.folder.digest,
            "champion": delta_digest(beside.folder),
            "delta": delta_digest(champion.folder),
            "dataset": dataset.digest,
            "measured": measured_digest(folder / "measured"),
            **own_digests(own, code),
        },
        needs_approval=False,
        seed=settings.seed,
    )
    decision = redacted_decision(decision, settings)
    write_decision(decision, folder / VERDICT_FILE)
    outcome = _OUTCOMES[decision.verdict]
    return Revalidation(outcome, name, champion.version, decision.reason, len(active)), decision


def _beside(settings: CorrectSettings, version: Version, champion: Champion) -> Champion:
    """The version that the champion was compared with; itself where there was none, or it is gone."""
    compared = version.tags.get(COMPARED_TAG)
    try:
        found = _loaded(settings, compared) if compared else champion
    except StoreFailedError:
        raise
    except UserError:
        return champion
    return champion if isinstance(found, str) else found


def _rolled_back(
    settings: CorrectSettings, ledger: Ledger, found: Revalidation, renew: Callable[[], None]
) -> Revalidation:
    """Put the previous champion back, if it can serve; what was found, with what was done about it."""
    previous = describe(settings.model_name, tracking_uri=settings.tracking).previous
    fault = "there is none before it" if previous in (None, found.version) else ""
    before = "" if fault else _loaded(settings, PREVIOUS)
    if isinstance(before, str):
        why = f"{found.reason} It was not rolled back: {fault or f'version {previous} cannot be loaded'}."
        return replace(found, reason=why)
    # To fetch and load the version before may have taken longer than the lease.
    renew()
    number = roll_back(settings, ledger, "revalidate flow", found.reason, expected_champion=found.version)
    return replace(found, rolled_back_to=number)


def _emptied(folder: Path) -> Path:
    """An empty folder: what was measured before is not taken for what is measured now."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
