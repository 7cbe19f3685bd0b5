"""Which failed corrections a version answers by overrides in front of the model."""

from __future__ import annotations

from collections.abc import Collection

from editors.overrides import Overrides
from flows.settings import CorrectSettings
from flows.stages import OPEN, Champion
from tasks.ledger import Ledger
from tasks.overriding import overridden, overrides_of
from tasks.records import State


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


def overrides_differ(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, *, put_back: bool
) -> bool:
    """Whether the champion's overrides are others than they should be.

    One that was `put_back` by a rollback may lack some: to add them would undo the rollback.
    """
    wanted, there = set(overridden(wanted_overrides(settings, ledger, champion))), set(champion.overridden)
    return bool(there - wanted) or bool(wanted - there and not put_back)
