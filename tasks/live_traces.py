"""Traces of requests, written beside serving: a store that is down makes no request wait or fail."""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from tasks.collect import MODEL_TAG, VERSION_TAG
from tasks.live_version import LiveVersion
from tasks.tracing import Request, write_traces
from tasks.tracking import experiment_id, tracking
from tasks.traffic import trace_metadata

_log = logging.getLogger("mendflow.serve")
_BATCH = 64
_MOST_WAITING = 10_000
_TRIES = 9
# Seconds without a trace written after which whoever ends waits no longer: MLflow's client tries for minutes.
_LONGEST_STOP = 30.0


class TraceWriter:
    """A thread that writes traces in the order in which requests ended.

    Attributes:
        written: traces in the store.
        lost: traces that were given up, because the store failed for minutes or too many waited.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        redact: Callable[[str], str] = str,
        first_wait: float = 0.5,
    ) -> None:
        """Find or make the experiment; what was asked and answered is redacted before it is written.

        Raises:
            UserError: MLflow cannot be reached.
        """
        self.written = self.lost = 0
        self._uri, self._first_wait = tracking_uri, first_wait
        self._redact = redact
        with tracking(tracking_uri) as client:
            self._experiment = experiment_id(client, experiment)
        self._waiting: queue.Queue[tuple[LiveVersion, Request] | None] = queue.Queue(_MOST_WAITING)
        self._in_hand = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mendflow-traces", daemon=True)

    @property
    def waiting(self) -> int:
        """About how many are still to be written."""
        return self._waiting.qsize()

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end; what a store that fails or hangs does not take now is lost."""
        self._ending.set()
        # Wakes a thread that waits for something to write; with a full queue it does not.
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        written = -1
        while self._thread.is_alive() and self.written != written:
            written = self.written
            self._thread.join(_LONGEST_STOP)
        if self._thread.is_alive():
            self._lose(self._in_hand + self._left(), f"the store took none for {_LONGEST_STOP:.0f} seconds")

    def add(self, version: LiveVersion, request: Request) -> None:
        """Have a request's trace written; never waits."""
        try:
            self._waiting.put_nowait((version, request))
        except queue.Full:
            self._lose(1, "too many traces wait")

    def _run(self) -> None:
        while not (self._ending.is_set() and self._waiting.empty()):
            taken = [self._waiting.get()]
            while len(taken) < _BATCH and not self._waiting.empty():
                taken.append(self._waiting.get())
            batch = list(filter(None, taken))
            self._in_hand = len(batch)
            by_version: dict[int, list[tuple[LiveVersion, Request]]] = defaultdict(list)
            for pair in batch:
                by_version[id(pair[0])].append(pair)
            for pairs in by_version.values():
                self._write(pairs[0][0], [request for _, request in pairs])
                self._in_hand -= len(pairs)

    def _write(self, version: LiveVersion, requests: list[Request]) -> None:
        wait = self._first_wait
        for attempt in range(1, _TRIES + 1):
            try:
                write_traces(
                    self._uri,
                    self._experiment,
                    [request.redacted(self._redact) for request in requests],
                    tags={MODEL_TAG: version.name, VERSION_TAG: version.number},
                    metadata=trace_metadata(version.model_id),
                    attributes={},
                )
            except Exception as error:
                if attempt == _TRIES or self._ending.is_set():
                    # A store that is away would take as long again for every batch that waits.
                    left = self._left() if self._ending.is_set() else 0
                    return self._lose(len(requests) + left, f"{type(error).__name__}: {str(error)[:200]}")
                self._ending.wait(wait)
                wait *= 2
            else:
                self.written += len(requests)
                return None
        return None

    def _left(self) -> int:
        """Take what waits out of the queue; how many."""
        count = 0
        with suppress(queue.Empty):
            while True:
                count += self._waiting.get_nowait() is not None
        return count

    def _lose(self, count: int, reason: str) -> None:
        self.lost += count
        _log.error("%d traces are lost: %s", count, reason)
