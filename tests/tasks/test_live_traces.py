"""Traces beside serving: whoever ends it waits for a store that works, and not for one that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from editors.overrides import Overrides
from tasks import live_traces
from tasks.live_traces import TraceWriter
from tasks.live_version import LiveVersion
from tasks.tracing import Request, new_trace_id
from validation.redaction import Rule

MODEL: Any = None
VERSION = LiveVersion("m", "1", "", MODEL, MODEL, Overrides())


def request() -> Request:
    now = time.time_ns()
    return Request(new_trace_id(), "prompt", "output", now, now)


@dataclass
class Store:
    """What traces are written to: it hangs until it is let go, then works, or fails."""

    away: bool = False
    tries: int = 0

    def __post_init__(self) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def write(self, *_: object, **__: object) -> None:
        self.tries += 1
        self.begun.set()
        self.goes_on.wait(60)
        if self.away:
            raise ConnectionError("no route")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()
    monkeypatch.setattr(live_traces, "write_traces", made.write)
    monkeypatch.setattr(live_traces, "_LONGEST_STOP", 0.3)
    yield made
    made.goes_on.set()


def begun(store: Store, uri: str) -> TraceWriter:
    """A writer that has begun to write one trace."""
    made = TraceWriter(uri, "traces", first_wait=60)
    made.start()
    made.add(VERSION, request())
    store.begun.wait(10)
    return made


@pytest.fixture
def writer(store: Store, mlflow_store: str) -> TraceWriter:
    return begun(store, mlflow_store)


def stopped(writer: TraceWriter) -> float:
    began = time.monotonic()
    writer.stop()
    return time.monotonic() - began


def test_what_waits_is_written_before_the_end(store: Store, writer: TraceWriter):
    for _ in range(200):
        writer.add(VERSION, request())
    store.goes_on.set()
    writer.stop()
    assert (writer.written, writer.lost, writer.waiting) == (201, 0, 0)


def test_a_store_that_hangs_holds_up_nobody_who_ends(store: Store, writer: TraceWriter):
    for _ in range(200):
        writer.add(VERSION, request())
    assert stopped(writer) < 5
    assert (writer.written, writer.lost, writer.waiting) == (0, 201, 0)


def test_a_full_queue_does_neither(store: Store, mlflow_store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live_traces, "_MOST_WAITING", 3)
    writer = begun(store, mlflow_store)
    for _ in range(5):
        writer.add(VERSION, request())
    assert writer.lost == 2
    assert stopped(writer) < 5
    assert (writer.written, writer.lost) == (0, 6)


def test_a_store_that_fails_is_not_tried_for_every_batch_at_the_end(
    store: Store, writer: TraceWriter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_traces, "_LONGEST_STOP", 10)
    for _ in range(200):
        writer.add(VERSION, request())
    store.away = True
    ending = threading.Thread(target=writer.stop)
    ending.start()
    store.goes_on.set()
    ending.join(10)
    assert (writer.written, writer.lost) == (0, 201)
    assert store.tries <= 2


def test_what_is_asked_and_answered_is_redacted_before_it_is_written(
    mlflow_store: str, monkeypatch: pytest.MonkeyPatch
):
    written: list[Request] = []
    monkeypatch.setattr(
        live_traces, "write_traces", lambda _uri, _where, requests, **_: written.extend(requests)
    )
    secret = "AKIAIOSFODNN7EXAMPLE"
    turns = ({"role": "user", "content": f"my key is {secret}"},)
    now = time.time_ns()
    writer = TraceWriter(mlflow_store, "traces", redact=Rule().redact)
    writer.start()
    writer.add(VERSION, Request("tr-1", secret, f"no, {secret}", now, now, messages=turns))
    writer.stop()
    assert [(one.prompt, one.output, one.messages[0]["role"]) for one in written] == [
        ("[redacted: an AWS access key]", "no, [redacted: an AWS access key]", "user")
    ]
    assert secret not in repr(written)
