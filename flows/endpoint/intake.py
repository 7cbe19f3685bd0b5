"""Reports of many requests, written into the ledger together by one thread.

A database that makes sure of every transaction takes twenty times as long for twenty reports as for one
transaction of them, and SQLite lets one write at a time anyway.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from flows.endpoint.batches import batches
from tasks.ledger import Ledger, SourceTaken
from tasks.records import Correction, ErrorReport, UserError
from tasks.reporting import take_into

_AT_ONCE = 64
_END_SECONDS = 60.0

Outcome = tuple[Correction, bool]
_Waiting = tuple[ErrorReport, "Future[Outcome]"]


class Intake:
    """Where requests leave reports; close it, and what waits is written still."""

    def __init__(self, ledger: Ledger, tell: Callable[[Iterable[Correction]], object]) -> None:
        self._ledger = ledger
        self._tell = tell
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, report: ErrorReport) -> Future[Outcome]:
        """Have a report written: the correction that it counts for, and whether it was new.

        The future raises SourceTaken where the source has made another report, UserError where the ledger
        cannot be used.
        """
        outcome: Future[Outcome] = Future()
        self._waiting.put((report, outcome))
        return outcome

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        for batch in batches(self._waiting, _AT_ONCE):
            # A request that was given up meanwhile is not written.
            wanted = [one for one in batch if one[1].set_running_or_notify_cancel()]
            if wanted:
                self._write(wanted)

    def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            taken = take_into(self._ledger, [report for report, _ in batch], once=True, tell=self._tell)
        except Exception as error:
            if len(batch) == 1 or (isinstance(error, UserError) and not isinstance(error, SourceTaken)):
                for _, outcome in batch:
                    outcome.set_exception(error)
                return
            # One of them is at fault, and none is written.
            for one in batch:
                self._write([one])
        else:
            for (_, outcome), each in zip(batch, taken.each, strict=True):
                outcome.set_result(each)
