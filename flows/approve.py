"""Approval by a named person: by command, on Prefect's page, or by a tag in MLflow's page; and rejection."""

from __future__ import annotations

from prefect import flow

from flows.notify import tell
from flows.promote import make_champion, require_passed
from flows.settings import CorrectSettings
from flows.stages import find_champion, reconcile, version_at
from tasks import approval, promotion
from tasks.approval import Decision
from tasks.ledger import LeaseHeld, LeaseLost, Ledger
from tasks.models import DamagedVersionError
from tasks.promotion_log import REJECT
from tasks.records import State, StoreFailedError, UserError
from tasks.registry import CHAMPION, RegisteredModel, describe, resolve_version
from tasks.tracking import has_store


@flow(name="approve", persist_result=False)
def approve(settings: CorrectSettings, by: str, note: str, version: str | None = None) -> str:
    """Make the version that waits, or a named one, the champion on a person's word; its number.

    Raises:
        UserError: it did not pass its gates, was rejected or cannot be loaded, the champion has moved since
            it was measured, or no name or note is given.
    """
    with Ledger(settings.ledger) as ledger:
        number = _version(settings, ledger, version)
        if number == describe(settings.model_name, tracking_uri=settings.tracking).champion:
            raise UserError(f"version {number} of {settings.model_name} is the champion already")
        carry_out(settings, ledger, _decision(number, True, by, note))
    return number


@flow(name="reject", persist_result=False)
def reject(settings: CorrectSettings, by: str, note: str, version: str | None = None) -> str:
    """Reject the version that waits, or a named one, for good; its number.

    The corrections that only it holds are set aside as quarantined, with who rejected them and why.

    Raises:
        UserError: it has served, does not exist, or no name or note is given.
    """
    with Ledger(settings.ledger) as ledger:
        number = _version(settings, ledger, version)
        carry_out(settings, ledger, _decision(number, False, by, note))
    return number


@flow(name="decide", persist_result=False)
def decide(settings: CorrectSettings) -> list[str]:
    """Carry out what people have written into the tag `approval` in MLflow since the last time."""
    if not has_store(settings.tracking):
        return []
    with Ledger(settings.ledger) as ledger:
        promotion.recover(settings.model_name, ledger=ledger, tracking_uri=settings.tracking)
        return [decision.text for decision in carry_out_written(settings, ledger)]


def carry_out_written(settings: CorrectSettings, ledger: Ledger) -> list[Decision]:
    """Carry out the decisions in the tags of a model's versions; those that were.

    One that is refused is told of, and the tag says why. Whoever decides something else afterwards writes it
    in its place.
    """
    name, uri = settings.model_name, settings.tracking
    model = describe(name, tracking_uri=uri)
    unreadable = [version.number for version in approval.unreadable(model)]
    approval.say(name, unreadable, f"{approval.PENDING}: {approval.HOW}", tracking_uri=uri)
    said = {version.number: version.tags.get(approval.TAG) for version in model.versions}
    done = []
    for decision in _undone(ledger, model):
        try:
            carry_out(settings, ledger, decision, written=True)
        except (LeaseHeld, LeaseLost):
            # Another change of champion is under way, and may be finishing this one: the next time.
            continue
        except StoreFailedError:
            raise
        except UserError as error:
            refused = f"{approval.REFUSED}: {error}"
            # A rejection that was interrupted is tried until it can be carried out, and told of once.
            if said.get(decision.version) != refused:
                what = "approval refused" if decision.approved else "its rejection could not be finished"
                tell(settings, f"version {decision.version}: {what}", str(error))
                approval.say(name, [decision.version], refused, tracking_uri=uri)
        else:
            done.append(decision)
    return done


def carry_out(
    settings: CorrectSettings, ledger: Ledger, decision: Decision, *, written: bool = False
) -> None:
    """Do what a person decided, and say so on the version; what was interrupted is done again as a whole.

    `written`: the decision was found in MLflow's tag, where nobody says who set it.

    Raises:
        UserError: it cannot be done; nothing was changed.
    """
    name, uri = settings.model_name, settings.tracking
    why = f"{decision.note} ({approval.UNVERIFIED})" if written else decision.note
    if decision.approved:
        state = describe(name, tracking_uri=uri)
        if state.champion == decision.version:
            # Promoted before, by a process that may have come no further.
            reconcile(ledger, name, find_champion(settings, ledger))
        else:
            require_passed(settings, state, decision.version)
            make_champion(settings, ledger, decision.version, state.champion, decision.who, why)
    else:
        row = promotion.reject(
            name, decision.version, ledger=ledger, who=decision.who, why=why, tracking_uri=uri
        )
        _set_aside(settings, ledger, decision.version, promotion.rejected(row))
        tell(settings, f"version {decision.version}: rejected", f"{promotion.rejected(row)}.")
    approval.carried_out(name, decision, tracking_uri=uri)


def _version(settings: CorrectSettings, ledger: Ledger, version: str | None) -> str:
    """The number of the version that a person decides about: the newest that waits, else the candidate."""
    name, uri = settings.model_name, settings.tracking
    promotion.recover(name, ledger=ledger, tracking_uri=uri)
    if version is not None:
        return resolve_version(name, version, tracking_uri=uri)
    state = describe(name, tracking_uri=uri)
    waiting = approval.waiting(state)
    number = waiting[-1].number if waiting else state.candidate
    if number is None:
        raise UserError(f"no version of {name} waits; see `{settings.command('status')}`, or name a version")
    return number


def _decision(version: str, approved: bool, by: str, note: str) -> Decision:
    who = " ".join(by.replace(":", " ").split())
    if not who or not note.strip():
        raise UserError("a decision takes the name of the person who decides, and a note: give both")
    return Decision(version, approved, who, note.strip())


def _undone(ledger: Ledger, model: RegisteredModel) -> list[Decision]:
    """What people wrote and nobody has carried out, after the rejections that were interrupted."""
    written = approval.undecided(model)
    logged = {row.to_version: row for row in ledger.promotion_log(model.name) if row.action == REJECT}
    begun = [
        Decision(version.number, False, row.who, row.why)
        for version in model.versions
        if (row := logged.get(version.number)) and not approval.is_rejected(version)
    ]
    seen = {decision.version for decision in begun}
    return [*begun, *(one for one in written if one.approved or one.version not in seen)]


def _set_aside(settings: CorrectSettings, ledger: Ledger, version: str, reason: str) -> None:
    """Quarantine the accepted corrections that a rejected version holds, and nothing that serves or waits."""
    name = settings.model_name
    model = describe(name, tracking_uri=settings.tracking)
    held = _held(settings, version)
    for other in [CHAMPION, *(found.number for found in approval.waiting(model) if found.number != version)]:
        held -= _held(settings, other)
    aside = [c.id for c in ledger.corrections(name, State.ACCEPTED) if c.id in held]
    ledger.transition(aside, State.QUARANTINED, reason, model_name=name)


def _held(settings: CorrectSettings, version: str) -> set[str]:
    """The corrections in a version; none in a damaged one, which is no reason not to reject it."""
    try:
        return set(version_at(settings, version).correction_ids)
    except DamagedVersionError:
        return set()
