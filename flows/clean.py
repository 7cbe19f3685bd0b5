"""Housekeeping: old versions and folders of a model, listed, and removed where the user says so."""

from __future__ import annotations

from contextlib import ExitStack

from flows.settings import CorrectSettings
from tasks import promotion
from tasks.ledger import Ledger
from tasks.retention import Leftover, find, remove


def clean(settings: CorrectSettings, *, keep: int, days: float, remove_them: bool) -> list[Leftover]:
    """What of a model is older than `days`, not among the newest `keep`, and needed by nothing; then gone.

    Raises:
        UserError: it is to be removed, and a run of this model is under way.
    """
    name, uri = settings.model_name, settings.tracking
    with Ledger(settings.ledger) as ledger, ExitStack() as held:
        if remove_them:
            promotion.recover(name, ledger=ledger, tracking_uri=uri)
            # Nothing is taken from under a run, or made champion while it goes.
            for work in ("correct", "revalidate", "champion"):
                held.enter_context(ledger.lease(f"{name}/{work}", "clean", seconds=3600))
        found = find(name, home=settings.home, tracking_uri=uri, ledger=ledger, keep=keep, days=days)
        if remove_them:
            remove(found, name, home=settings.home, tracking_uri=uri)
    return found
