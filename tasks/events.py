"""Telling Prefect of the reports that the ledger keeps, so that enough of them start a run by themselves."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tasks.records import Correction

FLAGGED = "model.error.flagged"
RESOURCE_PREFIX = "mendflow.model."
STATE_LABEL = "mendflow.correction.state"
# Whoever reports an error waits as long; a report that Prefect has not heard of is kept all the same.
_TIMEOUT_SECONDS = 5.0


def tell_of_reports(kept: Iterable[Correction]) -> int:
    """Emit `model.error.flagged` for every new report, given as the correction that it counts for; how many.

    Nothing is emitted, and no server started, where no Prefect API is configured. An API that cannot be told
    is a warning in the log: the report is kept, and the next scheduled run reads it.
    """
    events = [_event(correction) for correction in kept]
    if not events or not _may_have_an_api():
        return 0
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

    if not get_current_settings().api.url:
        return 0
    import httpx
    from prefect.client.orchestration import get_client

    try:
        # At once and not through Prefect's queue of events: a command would end before that is empty. Without
        # its client's retries: a server that hangs would hold up whoever reports for a minute and a half.
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": _TIMEOUT_SECONDS}) as client,
        ):
            client.request("POST", "/events", json=events).raise_for_status()
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        logging.getLogger(__name__).warning(
            "%d reports are in the ledger, but Prefect was not told of them (%s): see that its server runs",
            len(events),
            " ".join(str(error).split()) or type(error).__name__,
        )
        return 0
    return len(events)


def _event(correction: Correction) -> dict[str, object]:
    """Ids alone: events are kept by Prefect and shown on its page, and prompts may be private."""
    name, state = correction.model_name, str(correction.state)
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": FLAGGED,
        "resource": {
            "prefect.resource.id": f"{RESOURCE_PREFIX}{name}",
            "prefect.resource.name": name,
            STATE_LABEL: state,
        },
        "payload": {"model": name, "correction": correction.id, "state": state},
    }


def _may_have_an_api() -> bool:
    """Whether to import Prefect, which takes a second: without a sign of it there is no API."""
    if "prefect" in sys.modules or os.environ.get("PREFECT_API_URL"):
        return True
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    return Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").is_file()
