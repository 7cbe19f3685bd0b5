"""The candidate as it is tried beside the champion: the version that waits for a person is followed."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks import approval
from tasks.live_version import Fault, Follower, LiveVersion, load_version, told
from tasks.promotion import WITHDRAWN_TAG
from tasks.registry import all_versions, quotable
from tasks.tracking import tracking
from tasks.verdicts import COMPARED_TAG, VERDICT_TAG

_log = logging.getLogger("mendflow.serve")
# Seconds until a candidate that cannot be loaded is tried again.
_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Trial:
    """A candidate in memory, the number of the champion beside it, and the MLflow run that made it or ""."""

    version: LiveVersion
    champion: str
    run_id: str

    @property
    def name(self) -> str:
        """What traces and files call it."""
        return f"{self.version.number} beside {self.champion}"


def drawn(share: float, *key: str) -> bool:
    """A lot that is drawn with this probability; always the same one for a key."""
    digest = hashlib.sha256("\x1f".join(key).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


class Candidate:
    """Holds the version that is tried: the newest that waits for approval, measured beside this champion.

    What has not passed its gates is no version that waits; one that was withdrawn as a canary is not tried.

    Attributes:
        current: what is tried now, if anything is.
        fault: why the version that waits is not tried, if it cannot be loaded.
    """

    def __init__(self, follower: Follower, *, tracking_uri: str, cache: Path | None, device: str) -> None:
        self.current: Trial | None = None
        self.fault: Fault | None = None
        self._follower, self._uri = follower, tracking_uri
        self._options = {"tracking_uri": tracking_uri, "cache": cache, "device": device}
        self._retry_at = 0.0
        self._looking = threading.Lock()

    def of(self, champion: LiveVersion) -> Trial | None:
        """What is tried beside this champion; nothing right after another took over."""
        trial = self.current
        return trial if trial is not None and trial.champion == champion.number else None

    def look(self) -> None:
        """Look up once what waits; load it if it is another, and let go of what waits no more.

        Raises:
            UserError: the registry cannot be asked.
        """
        with self._looking:
            self._look()

    def _look(self) -> None:
        champion = self._follower.current
        found = self._waiting(champion)
        number = "" if found is None else str(found.version)
        if self.current is not None and self.current.version.number == number:
            if self.current.champion != champion.number:
                self.current = replace(self.current, champion=champion.number)
            return
        if self.current is not None:
            _log.warning("version %s is tried no more", self.current.version.number)
            self.current = None
        if self.fault is not None and self.fault.version == number and time.monotonic() < self._retry_at:
            return
        self.fault = None
        if found is not None:
            self._load(champion, number, found.run_id or "")

    def _load(self, champion: LiveVersion, number: str, run_id: str) -> None:
        try:
            version = load_version(champion.name, number, **self._options, beside=champion)  # type: ignore[arg-type]
        except Exception as error:
            self.fault = Fault(number, told(error), time.time())
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            _log.error("version %s cannot be tried: %s", number, self.fault.reason)
            return
        self.current = Trial(version, champion.number, run_id)
        _log.warning("version %s is tried beside version %s", number, champion.number)

    def _waiting(self, champion: LiveVersion) -> Any | None:
        query = f"name = '{quotable(champion.name)}' and tags.`{approval.TAG}` LIKE '{approval.PENDING}%'"
        with tracking(self._uri) as client:
            found = all_versions(client, query)
        found = [one for one in found if _may_be_tried(one.tags, champion.number)]
        return max(found, key=lambda version: int(version.version), default=None)


def _may_be_tried(tags: Mapping[str, str], champion: str) -> bool:
    # One without a verdict has the champion's weights, and other overrides.
    measured_beside_another = VERDICT_TAG in tags and tags.get(COMPARED_TAG) != champion
    return approval.waits(tags) and WITHDRAWN_TAG not in tags and not measured_beside_another
