"""Who serves: moving the alias `champion`, one change at a time, each logged before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from tasks import approval
from tasks.ledger import Lease, Ledger, Phase, Promotion
from tasks.promotion_log import CHANGES, PROMOTE, REJECT, ROLLBACK, WITHDRAW
from tasks.records import UserError
from tasks.registry import CANDIDATE, CHAMPION, PREVIOUS, aliases_of, tag_version
from tasks.tracking import tracking

BY_TAG = "mendflow.promoted_by"
AT_TAG = "mendflow.promoted_at"
REASON_TAG = "mendflow.reason"
# Why a version is no canary any more, nor promoted by a program.
WITHDRAWN_TAG = "mendflow.canary_withdrawn"


def promote(
    name: str,
    version: str,
    *,
    expected_champion: str | None,
    ledger: Ledger,
    who: str,
    why: str,
    tracking_uri: str | None,
    run_id: str = "",
) -> None:
    """Make a version the champion, the champion it was compared with `previous`; nothing if it is already.

    An interrupted change is finished first. If this one is interrupted, the next change, or `recover`,
    finishes it.

    Args:
        name: registered model.
        version: number of the version to promote.
        expected_champion: the champion that the version was compared with; None if there was none.
        ledger: has the promotion log and the lease.
        who: the person or flow that decides.
        why: the reason, for the log and the version's tags.
        tracking_uri: the MLflow store.
        run_id: the run that decided.

    Raises:
        UserError: the champion is not the expected one, a person rejected the version, it does not exist, or
            another change of this model's champion is under way, or was made meanwhile.
    """
    version, expected = str(version), None if expected_champion is None else str(expected_champion)
    with _changing(name, ledger, who, tracking_uri) as (client, lease):
        champion = aliases_of(client, name).get(CHAMPION)
        if champion == version:
            return
        if champion != expected:
            raise UserError(
                f"{name} version {version} was compared with champion {expected or 'none'}, but now "
                f"the champion is {champion or 'none'}; validate it again before promoting it"
            )
        rejection = ledger.rejection(name, version)
        if rejection is not None:
            raise UserError(f"{rejected(rejection)}; a rejected version is never promoted")
        _require(client, name, version)
        change = Promotion(name, PROMOTE, champion, version, who, why, Phase.BEGUN, run_id, datetime.now(UTC))
        _carry_out(client, ledger, change, lease)


def rollback(
    name: str,
    *,
    ledger: Ledger,
    who: str,
    why: str,
    tracking_uri: str | None,
    run_id: str = "",
    expected_champion: str | None = None,
) -> str:
    """Put `previous` back as champion, and the champion as `previous`; the new champion's number.

    A second rollback therefore goes forward again. One that was interrupted is finished, not repeated.
    `expected_champion` is the version to go back from, where it matters.

    Raises:
        UserError: there is nothing to go back to, the champion is not the expected one, or another change
            is under way.
    """
    finished: list[Promotion] = []
    with _changing(name, ledger, who, tracking_uri, finished) as (client, lease):
        aliases = aliases_of(client, name)
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if any(change.action == ROLLBACK for change in finished) and champion is not None:
            return champion
        if expected_champion is not None and champion != expected_champion:
            raise UserError(
                f"version {expected_champion} of {name} was to be rolled back, but now the champion is "
                f"{champion or 'none'}; nothing was changed"
            )
        if champion is None or previous in (None, champion):
            raise UserError(f"{name} has no version before its champion ({champion or 'none'}) to go back to")
        previous = str(previous)
        _require(client, name, previous)
        change = Promotion(
            name, ROLLBACK, champion, previous, who, why, Phase.BEGUN, run_id, datetime.now(UTC)
        )
        _carry_out(client, ledger, change, lease)
        return previous


def reject(
    name: str, version: str, *, ledger: Ledger, who: str, why: str, tracking_uri: str | None
) -> Promotion:
    """Log that a person rejected a version, which is never promoted then; the row that says so.

    It loses the alias `candidate`. Rejecting it again changes nothing.

    Raises:
        UserError: it serves or has served, does not exist, or another change is under way.
    """
    with _changing(name, ledger, who, tracking_uri) as (client, _):
        _require(client, name, version)
        served = [r for r in ledger.promotion_log(name) if r.action in CHANGES and r.phase is Phase.DONE]
        aliases = aliases_of(client, name)
        if version in {aliases.get(CHAMPION), *(row.to_version for row in served)}:
            raise UserError(
                f"{name} version {version} has served already: it can be rolled back, and not be rejected"
            )
        row = ledger.rejection(name, version)
        if row is None:
            champion, now = aliases.get(CHAMPION), datetime.now(UTC)
            row = Promotion(name, REJECT, champion, version, who, why, Phase.DONE, "", now)
            _log(ledger, row, Phase.DONE)
        if aliases.get(CANDIDATE) == version:
            client.delete_registered_model_alias(name, CANDIDATE)
        return row


def withdraw(
    name: str, version: str, *, champion: str, ledger: Ledger, who: str, why: str, tracking_uri: str | None
) -> None:
    """Log that a version gets no more traffic as a canary beside the champion, and say so on it.

    It waits for a person as before. Doing it again changes nothing.

    Raises:
        UserError: a change of champion was begun and is neither done nor failed.
    """
    # Logged first: whoever finds the tag finds the row too.
    log = ledger.promotion_log(name)
    if not any((row.action, row.to_version) == (WITHDRAW, version) for row in log):
        ledger.log_promotion(name, WITHDRAW, champion, version, who, why, Phase.DONE)
    tag_version(name, version, {WITHDRAWN_TAG: why}, tracking_uri=tracking_uri)


def rejected(row: Promotion) -> str:
    """That a version was rejected, by whom and why, in words."""
    return f"{row.model_name} version {row.to_version} was rejected by {row.who}: {row.why}"


def recover(name: str, *, ledger: Ledger, tracking_uri: str | None) -> Promotion | None:
    """Finish the change of champion that a killed process left, if there is one; to be called at every start.

    A change whose version no longer exists, or whose champion someone has moved meanwhile, is logged as
    failed, and the aliases that the change had touched are put back.

    Raises:
        UserError: another change of this model's champion is under way.
    """
    if ledger.unfinished_promotion(name) is None:
        return None
    finished: list[Promotion] = []
    with _changing(name, ledger, "recovery", tracking_uri, finished):
        return finished[0] if finished else None


@contextmanager
def _changing(
    name: str, ledger: Ledger, who: str, tracking_uri: str | None, finished: list[Promotion] | None = None
) -> Iterator[tuple[Any, Lease]]:
    """The right to move this model's aliases, with whatever was interrupted finished; a client, the lease."""
    # Its own lease: the flow that promotes may hold the model's while it runs.
    with ledger.lease(f"{name}/champion", who, seconds=120) as lease, tracking(tracking_uri) as client:
        change = ledger.unfinished_promotion(name)
        if change is not None and _finish(client, ledger, change, lease) and finished is not None:
            finished.append(change)
        yield client, lease


def _finish(client: Any, ledger: Ledger, change: Promotion, lease: Lease) -> bool:
    """Bring an interrupted change to its end; False if it could only be undone."""
    name, before, after = change.model_name, change.from_version, change.to_version
    champion = aliases_of(client, name).get(CHAMPION)
    if after is None or champion not in (before, after) or not _exists(client, name, after):
        _undo(client, ledger, change, champion)
        _log(ledger, change, Phase.FAILED)
        return False
    _carry_out(client, ledger, change, lease)
    return True


def _undo(client: Any, ledger: Ledger, change: Promotion, champion: str | None) -> None:
    name, before, after = change.model_name, change.from_version, change.to_version
    if before is not None and champion == after:
        client.set_registered_model_alias(name, CHAMPION, before)
    if before is not None and aliases_of(client, name).get(PREVIOUS) == before:
        log = ledger.promotion_log(name)
        earlier = [row.from_version for row in log if row.phase is Phase.DONE and row.action in CHANGES]
        if earlier and earlier[-1] is not None and _exists(client, name, earlier[-1]):
            client.set_registered_model_alias(name, PREVIOUS, earlier[-1])
        else:
            client.delete_registered_model_alias(name, PREVIOUS)


def _carry_out(client: Any, ledger: Ledger, change: Promotion, lease: Lease) -> None:
    """Every step may be done twice, so a change that was killed anywhere is finished by doing it again."""
    name, before, after = change.model_name, change.from_version, str(change.to_version)
    _log(ledger, change, Phase.BEGUN)
    # `previous` first: wherever this is killed, the version that served can still be named.
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, before)
    # A store that hung may have taken longer than the lease: others have finished this change then, and may
    # have made another one.
    lease.renew()
    client.set_registered_model_alias(name, CHAMPION, after)
    if aliases_of(client, name).get(CANDIDATE) == after:
        client.delete_registered_model_alias(name, CANDIDATE)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {BY_TAG: change.who, AT_TAG: at, REASON_TAG: change.why}
    if approval.waits(client.get_model_version(name, after).tags):
        # Whoever promotes it, it waits no more.
        tags |= approval.tags_of(approval.Decision(after, True, change.who, change.why))
    for tag, value in tags.items():
        client.set_model_version_tag(name, after, tag, value)
    _log(ledger, change, Phase.DONE)


def _log(ledger: Ledger, change: Promotion, phase: Phase) -> None:
    ledger.log_promotion(
        change.model_name,
        change.action,
        change.from_version,
        change.to_version,
        change.who,
        change.why,
        phase,
        change.run_id,
    )


def _exists(client: Any, name: str, version: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return True


def _require(client: Any, name: str, version: str) -> None:
    if not _exists(client, name, version):
        raise UserError(f"{name} has no version {version}; see `mendflow status` for those there are")
