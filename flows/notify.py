"""Telling people, through a notification block of Prefect's, what a run did or what waits for them."""

from __future__ import annotations

import logging
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any

from flows.settings import CorrectSettings
from tasks.registry import describe, tag_version

if TYPE_CHECKING:
    from flows.correct import CorrectionRun

TOLD_TAG = "mendflow.told"


def tell(settings: CorrectSettings, what: str, text: str) -> bool:
    """Send a notification through the block that the settings name; whether it was sent.

    One that fails is a warning, in the log and on Prefect's page of the run: what it tells has happened all
    the same. The error itself is not shown, since it may have the block's address, which is a secret, in it.
    """
    if not settings.notify:
        return False
    # Importing it makes Prefect's own kinds of blocks known.
    import prefect.blocks.notifications  # noqa: F401
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.asyncutils import run_coro_as_sync

    try:
        block = Block.load(settings.notify)
        if not isinstance(block, NotificationBlock):
            raise TypeError(f"{settings.notify} is no notification block")
        with block.raise_on_failure():
            sent: Any = block.notify(text, subject=f"{settings.model_name}: {what}")
            if iscoroutine(sent):
                # Prefect's own kinds notify at once when they are called so; a user's need not.
                run_coro_as_sync(sent)
    except Exception as error:  # whatever a service, or its library, raises
        missing = isinstance(error.__cause__, ObjectNotFound)
        why = "is not in Prefect" if missing else f"failed with {type(error).__name__}"
        _warn(f"nobody was told `{settings.model_name}: {what}`: the block {settings.notify} {why}")
        return False
    return True


def tell_of_run(settings: CorrectSettings, run: CorrectionRun) -> None:
    """Tell what a correction run did with its candidate."""
    version = str(run.candidate)
    if run.outcome == "promoted":
        tell(settings, f"version {version}: promoted", run.reason)
    elif run.outcome == "held":
        text = f"{run.reason} {settings.decisions(version)} The report: {run.report}"
        tell_once(settings, version, f"waits for approval, to follow version {run.champion}", text)
    else:
        # Overrides before the champion's own weights may have taken its place meanwhile.
        beside = run.previous or run.champion
        said = "refused" if run.outcome == "rejected" else "not to be judged yet"
        tell_once(settings, version, f"{said} beside version {beside}", run.reason)


def tell_once(settings: CorrectSettings, version: str, what: str, text: str) -> None:
    """Tell what became of a version, unless just this was told of it: a run may come to it every night."""
    if not settings.notify:
        return
    name, uri = settings.model_name, settings.tracking
    told = next(one for one in describe(name, tracking_uri=uri).versions if one.number == version).tags
    if told.get(TOLD_TAG) != what and tell(settings, f"version {version}: {what}", text):
        tag_version(name, version, {TOLD_TAG: what}, tracking_uri=uri)


def _warn(text: str) -> None:
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        on_page = get_run_logger()
    except MissingContextError:
        on_page = None
    # The command line keeps Prefect's own loggers quiet.
    logger = on_page if on_page and on_page.isEnabledFor(logging.WARNING) else logging.getLogger(__name__)
    logger.warning(text)
