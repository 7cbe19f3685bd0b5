"""Telling Prefect of reports in a thread of its own: whoever reports waits for the ledger alone."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Iterable

from flows.endpoint.batches import batches
from tasks.events import tell_of_reports
from tasks.records import Correction

# Events of one request to Prefect.
_AT_ONCE = 200
_END_SECONDS = 10.0


class Teller:
    """Corrections that new reports count for go in; events of as many as wait go out together.

    Close it: what waits is told still. What is lost with a killed process is in the ledger, where the next
    scheduled run finds it.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Correction | None] = queue.SimpleQueue()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self._thread.start()

    def tell(self, kept: Iterable[Correction]) -> None:
        """Have Prefect told, soon."""
        for correction in kept:
            self._waiting.put(correction)

    def close(self) -> None:
        """Tell what waits, and end."""
        self._waiting.put(None)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        for batch in batches(self._waiting, _AT_ONCE):
            try:
                tell_of_reports(batch)
            except Exception:
                # Reports go on coming in, and have to be told of whatever happened to these.
                logging.getLogger(__name__).exception("Prefect was not told of %d reports", len(batch))
