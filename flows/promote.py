"""Promotion and rollback as flows of their own: one command each, by a named person."""

from __future__ import annotations

from prefect import flow

from flows.notify import tell
from flows.settings import CorrectSettings
from flows.stages import Champion, find_champion, reconcile, version_at
from tasks import promotion
from tasks.ledger import Ledger, Phase, Promotion
from tasks.promotion_log import CHANGES, ROLLBACK
from tasks.records import StoreFailedError, UserError
from tasks.registry import CANDIDATE, CHAMPION, PREVIOUS, RegisteredModel, describe, resolve_version
from tasks.verdicts import COMPARED_TAG, REASON_TAG, VERDICT_TAG, WEIGHTS_TAG
from validation.verdict import Verdict


@flow(name="promote", persist_result=False)
def promote(settings: CorrectSettings, version: str | None, who: str, why: str) -> str:
    """Make the candidate, or a named version, the champion; its number.

    Raises:
        UserError: no version is named, and there is no candidate that passed its gates; the gates refused the
            one that is named, and no reason is given; it cannot be loaded; or the champion moved since it was
            measured.
    """
    name, uri = settings.model_name, settings.tracking
    with Ledger(settings.ledger) as ledger:
        promotion.recover(name, ledger=ledger, tracking_uri=uri)
        state = describe(name, tracking_uri=uri)
        if version is None and state.candidate is None:
            again = settings.command("correct")
            raise UserError(f"{name} has no candidate to promote; run `{again}`, or name a version")
        number = resolve_version(name, version or CANDIDATE, tracking_uri=uri)
        if version is None:
            require_passed(settings, state, number)
        elif not why.strip():
            _require_reason(settings, state, number)
        make_champion(settings, ledger, number, state.champion, who, why.strip() or "promoted by hand")
    return number


def require_passed(settings: CorrectSettings, state: RegisteredModel, version: str) -> None:
    """Refuse a version that did not pass its gates beside the champion that serves now.

    One with the champion's own weights behind other overrides passes, as those have.

    Raises:
        UserError: it did not, or another champion serves now.
    """
    tags = next(found.tags for found in state.versions if found.number == version)
    verdict, beside = tags.get(VERDICT_TAG, "none"), tags.get(COMPARED_TAG, "none")
    if verdict in (Verdict.PROMOTE.value, Verdict.HOLD.value) and beside == state.champion:
        return
    if state.champion and tags.get(WEIGHTS_TAG) == state.champion:
        return
    refused = verdict in (Verdict.REJECT.value, Verdict.INSUFFICIENT.value)
    anyway = settings.command("promote", "--version", version, *(("--why", "TEXT") if refused else ()))
    raise UserError(
        f"version {version} of {state.name} has the verdict {verdict} beside version {beside}, and the "
        f"champion is version {state.champion or 'none'}: run `{settings.command('correct')}` again, or "
        f"promote it all the same with `{anyway}`"
    )


def _require_reason(settings: CorrectSettings, state: RegisteredModel, version: str) -> None:
    """Have a person say why a version that its gates refused is to serve.

    Raises:
        UserError: they refused this one.
    """
    tags = next(found.tags for found in state.versions if found.number == version)
    if tags.get(VERDICT_TAG) in (Verdict.REJECT.value, Verdict.INSUFFICIENT.value):
        anyway = settings.command("promote", "--version", version, "--why", "TEXT")
        reason = tags.get(REASON_TAG, "")
        raise UserError(
            f"the gates' verdict on version {version} of {state.name} is {tags[VERDICT_TAG]}"
            f"{f' ({reason})' if reason else ''}: to promote it all the same, give the reason with `{anyway}`"
        )


def make_champion(
    settings: CorrectSettings, ledger: Ledger, version: str, champion: str | None, who: str, why: str
) -> None:
    """Promote a version over the champion that it is to follow, and have the ledger say what is held then.

    Raises:
        UserError: it cannot be loaded, a person rejected it, or the champion is another one.
    """
    name, uri = settings.model_name, settings.tracking
    # One that cannot be loaded would serve nobody.
    version_at(settings, version)
    promotion.promote(
        name, version, expected_champion=champion, ledger=ledger, who=who, why=why, tracking_uri=uri
    )
    reconcile(ledger, name, find_champion(settings, ledger))
    tell(settings, f"version {version}: promoted", f"By {who}: {why}.")


@flow(name="rollback", persist_result=False)
def rollback(settings: CorrectSettings, who: str, why: str) -> str:
    """Put the previous champion back; a second rollback goes forward again. The new champion's number."""
    with Ledger(settings.ledger) as ledger:
        number = roll_back(settings, ledger, who, why)
    tell(settings, f"rolled back to version {number}", f"By {who}: {why}.")
    return number


def roll_back(
    settings: CorrectSettings, ledger: Ledger, who: str, why: str, *, expected_champion: str | None = None
) -> str:
    """Roll back, from the expected champion where one is named, and make the ledger say what is held then.

    Raises:
        UserError: there is nothing to go back to, it cannot be loaded, or the champion is not the expected
            one; nothing was changed.
    """
    name, uri = settings.model_name, settings.tracking
    finished = promotion.recover(name, ledger=ledger, tracking_uri=uri)
    if finished is not None and finished.action == ROLLBACK:
        # An interrupted rollback is finished, and not followed by another.
        number = str(finished.to_version)
    else:
        if describe(name, tracking_uri=uri).previous is not None:
            # One that cannot be loaded would serve nobody.
            version_at(settings, PREVIOUS)
        number = promotion.rollback(
            name, ledger=ledger, who=who, why=why, tracking_uri=uri, expected_champion=expected_champion
        )
    champion = version_at(settings, CHAMPION)
    reconcile(ledger, name, champion, brought_back=brought_back(settings, ledger, champion))
    return number


def brought_back(settings: CorrectSettings, ledger: Ledger, champion: Champion) -> set[str]:
    """The corrections that the last change of champion, if it was a rollback, has brought back.

    Those withdrawn since then are not among them.
    """
    change = put_back(settings, ledger, champion)
    if change is None:
        return set()
    try:
        left_behind = set(version_at(settings, PREVIOUS).correction_ids)
    except StoreFailedError:
        raise
    except UserError:
        # It cannot be read, which may be why it was left.
        left_behind = set()
    return {
        id_
        for id_ in set(champion.correction_ids) - left_behind
        if ledger.history(id_, model_name=settings.model_name)[-1].at <= change.at
    }


def put_back(settings: CorrectSettings, ledger: Ledger, champion: Champion) -> Promotion | None:
    """The rollback by which this version is the champion, where the last change of champion was one."""
    log = ledger.promotion_log(settings.model_name)
    done = [row for row in log if row.phase is Phase.DONE and row.action in CHANGES]
    if not done or done[-1].action != ROLLBACK or done[-1].to_version != champion.version:
        return None
    return done[-1]
