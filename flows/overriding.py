"""Overrides in front of a version: which corrections get one, and a champion behind other ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from editors.delta import Delta
from editors.overrides import Overrides
from flows.notify import tell, tell_once
from flows.settings import CorrectSettings
from flows.stages import OPEN, Champion
from tasks import approval, promotion, register
from tasks.ledger import Ledger
from tasks.models import load_delta
from tasks.overriding import overridden, overrides_of, write
from tasks.records import State
from tasks.registry import describe, tag_version
from tasks.verdicts import COMPARED_TAG, RUN_TAG, WEIGHTS_TAG


@dataclass(frozen=True)
class Answering:
    """A version with the champion's own weights behind other overrides; it was promoted, held or rejected."""

    outcome: str
    version: str
    reason: str


def wanted_overrides(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, *, aside: Collection[str] = ()
) -> Overrides:
    """Overrides of all failed corrections where the user allows it, else of those the champion overrides.

    So one that is there stays, whoever runs the next solve, until its correction is retired or an edit takes.
    Open corrections that are `aside` count as failed.
    """
    corrections = ledger.corrections(settings.model_name, State.FAILED, *OPEN)
    failed = [c for c in corrections if c.state is State.FAILED or c.id in aside]
    if not settings.override_failed:
        failed = [c for c in failed if c.id in champion.overridden]
    return overrides_of(failed, [c for c in corrections if c.state in OPEN and c.id not in aside])


def overrides_differ(champion: Champion, wanted: Overrides, *, put_back: bool = False) -> bool:
    """Whether the champion's overrides are others than they should be.

    One that was `put_back` by a rollback may lack some: to add them would undo the rollback.
    """
    should, there = set(overridden(wanted)), set(champion.overridden)
    return bool(there - should) or bool(should - there and not put_back)


def with_other_overrides(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, overrides: Overrides
) -> Answering:
    """Other overrides before the champion's own weights, promoted, unless a person decides or has decided.

    No gate is asked: it answers nothing but the overridden prompts otherwise than the champion does.

    Raises:
        UserError: the champion's delta cannot be read, or the champion moved.
    """
    name, uri = settings.model_name, settings.tracking
    number = _registered(settings, champion, overrides)
    count = len(overridden(overrides))
    why = f"the weights of version {champion.version}, behind overrides of {count} corrections"
    told = f"Version {number} has {why}."
    rejection = ledger.rejection(name, number)
    if rejection is not None:
        # Registered again, it had the alias of a candidate again.
        promotion.reject(name, number, ledger=ledger, who=rejection.who, why=rejection.why, tracking_uri=uri)
        return Answering("rejected", number, f"{told} {promotion.rejected(rejection)}.")
    tags = next(v.tags for v in describe(name, tracking_uri=uri).versions if v.number == number)
    withdrawn = tags.get(promotion.WITHDRAWN_TAG, "")
    if withdrawn:
        told = f"{told} It was withdrawn as a canary: {withdrawn}."
    if settings.promotion == "review" or withdrawn:
        approval.ask(name, number, tracking_uri=uri)
        told = f"{told} {settings.decisions(number)}"
        tell_once(settings, number, f"waits for approval, to follow version {champion.version}", told)
        return Answering("held", number, told)
    promotion.promote(
        name,
        number,
        expected_champion=champion.version,
        ledger=ledger,
        who="correct flow",
        why=why,
        tracking_uri=uri,
    )
    tell(settings, f"version {number}: promoted", told)
    return Answering("promoted", number, told)


def _registered(settings: CorrectSettings, champion: Champion, overrides: Overrides) -> str:
    """The number of the version with the champion's weights behind these overrides."""
    name, uri, served = settings.model_name, settings.tracking, champion.folder
    delta = Delta({}, {"base_digest": served.digest, "correction_ids": []})
    if served.delta is not None:
        delta = load_delta(served.delta, served)
    folder = settings.home / "runs" / name / "overridden"
    folder.parent.mkdir(parents=True, exist_ok=True)
    delta = write(delta, overrides, folder)
    tags = {version.number: version.tags for version in describe(name, tracking_uri=uri).versions}
    # What the champion was judged by holds of the same weights: `revalidate` asks it again.
    judged = {
        tag: tags[champion.version][tag] for tag in (RUN_TAG, COMPARED_TAG) if tag in tags[champion.version]
    }
    number = register.register(
        name,
        tracking_uri=uri,
        base=replace(served, delta=None),
        delta_dir=folder,
        manifest=delta.manifest,
        tags=judged,
    )
    # It may have been registered before, when another champion had these weights.
    tag_version(name, number, {WEIGHTS_TAG: champion.version}, tracking_uri=uri)
    return number
