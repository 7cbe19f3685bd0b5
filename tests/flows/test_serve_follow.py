"""`mendflow serve` follows the champion: none of what happens to it is felt by who asks."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from flows.cli import app as command
from flows.serve import KEY_VARIABLE
from tasks.live_server import Limits
from tasks.records import UserError
from tasks.registry import CHAMPION
from tasks.tracking import tracking
from tests.flows.serving_tools import (
    CHAT,
    PROMPTS,
    Known,
    ask,
    damage,
    events,
    running,
    traced,
    until,
)


def test_champions_change_under_load_and_no_request_is_dropped_or_mixed(known: Known):
    expected = {
        number: dict(zip(PROMPTS, known.expected(number, PROMPTS, chat=True, tokens=16), strict=True))
        for number in ("1", "2", "3")
    }
    assert len({tuple(answers.values()) for answers in expected.values()}) == 3
    seen: list[tuple[str, str, str]] = []
    of_version: dict[str, str] = {}
    failed: list[str] = []
    over = threading.Event()

    def user(client: httpx.Client, number: int) -> None:
        for asked in itertools.cycle(PROMPTS[number % 4 :] + PROMPTS[: number % 4]):
            if over.is_set():
                return
            try:
                response = ask(client, asked, 16, stream=number == 0)
                if number == 0:
                    chunks = events(response)
                    said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
                else:
                    said = response.json()["choices"][0]["message"]["content"]
                version = response.headers["x-mendflow-version"]
                seen.append((version, asked, said))
                of_version[response.headers["x-mendflow-trace"]] = version
            except Exception as error:
                failed.append(repr(error))

    with running(known) as client:
        users = [threading.Thread(target=user, args=(client, number)) for number in range(4)]
        for thread in users:
            thread.start()
        swaps = []
        for number in itertools.islice(itertools.cycle("312"), 20):
            known.champion(number)
            until(lambda: client.get("/health").json()["version"] == number)  # noqa: B023
            swaps.append(client.get("/health").json()["last_swap_seconds"])
        over.set()
        for thread in users:
            thread.join()
        assert client.get("/health").json()["swaps"] == 20
    assert failed == []
    assert {version for version, _, _ in seen} == {"1", "2", "3"}
    assert [one for one in seen if expected[one[0]][one[1]] != one[2]] == []
    print(f"{len(seen)} requests, 20 swaps, middle {sorted(swaps)[10]:.3f} s, longest {max(swaps):.3f} s")
    # What was answered by each version is traced as that version's.
    told = {trace.info.trace_id: trace.info.tags["mendflow.version"] for trace in traced(known)}
    assert told == of_version
    assert len(told) == len(seen)


def test_a_damaged_champion_does_not_take_over_and_is_said_to_be(
    known: Known, caplog: pytest.LogCaptureFixture
):
    before = known.expected("2", PROMPTS[:1], chat=True, tokens=8)
    damage(known, "3")
    with running(known) as client:
        known.champion("3")
        until(lambda: client.get("/health").json()["status"] == "degraded")
        health = client.get("/health").json()
        assert health["version"] == "2"
        assert health["fault"]["version"] == "3"
        assert "not the one that was registered" in health["fault"]["reason"]
        answered = ask(client, PROMPTS[0])
        assert answered.headers["x-mendflow-version"] == "2"
        assert [answered.json()["choices"][0]["message"]["content"]] == before
        assert sum("version 3 cannot be served" in line for line in caplog.messages) == 1
        known.champion("1")
        until(lambda: client.get("/health").json()["version"] == "1")
        assert client.get("/health").json()["status"] == "ok"


def test_serving_goes_on_without_an_alias_and_without_a_registry(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    with running(known) as client:
        with tracking(known.settings.tracking) as store:
            store.delete_registered_model_alias(known.name, CHAMPION)
        until(lambda: client.get("/health").json()["status"] == "degraded")
        assert "no champion any more" in client.get("/health").json()["fault"]["reason"]
        known.champion("2")
        until(lambda: client.get("/health").json()["status"] == "ok")

        def down(*_: Any, **__: Any) -> str:
            raise ConnectionError("no route")

        with monkeypatch.context() as patch:
            patch.setattr("tasks.live_version.version_of", down)
            until(lambda: client.get("/health").json()["status"] == "degraded")
            assert ask(client, "Hi").status_code == 200
        until(lambda: client.get("/health").json()["status"] == "ok")


def test_traces_wait_for_a_store_that_fails(known: Known, monkeypatch: pytest.MonkeyPatch):
    from tasks import live_traces

    write, failures = live_traces.write_traces, itertools.count()

    def failing(*arguments: Any, **named: Any) -> None:
        if next(failures) < 2:
            raise ConnectionError("no route")
        write(*arguments, **named)

    monkeypatch.setattr(live_traces, "write_traces", failing)
    with running(known) as client:
        for prompt in PROMPTS:
            assert ask(client, prompt).status_code == 200
        until(lambda: client.get("/health").json()["traces"]["written"] == len(PROMPTS))
        assert client.get("/health").json()["traces"]["lost"] == 0
    assert len(traced(known)) == len(PROMPTS)


def test_what_cannot_be_served_is_one_sentence(known: Known, tmp_path: Path):
    def refused(*arguments: str) -> str:
        done = CliRunner().invoke(
            command,
            ["serve", *arguments, "--home", str(tmp_path), "--tracking", known.settings.tracking],
        )
        assert isinstance(done.exception, UserError), done.output
        assert "\n" not in str(done.exception)
        return str(done.exception)

    port = str(20000 + os.getpid() % 20000)
    assert "nobody has no champion" in refused("nobody", "--port", port)
    assert KEY_VARIABLE in refused(known.name, "--host", "0.0.0.0", "--port", port)
    damage(known, "2")
    assert "not the one that was registered" in refused(known.name, "--port", port)

    with httpx.Client() as client, pytest.raises(httpx.ConnectError):
        client.get(f"http://127.0.0.1:{port}/health")


def slow(*_: Any) -> Iterator[int]:
    """Tokens for twenty seconds."""
    for _ in range(1000):
        time.sleep(0.02)
        yield 60


def test_whoever_leaves_before_a_whole_answer_gives_the_place_back(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    with running(known, Limits(at_once=1)) as client:
        with monkeypatch.context() as patch:
            patch.setattr("tasks.live_answer.next_tokens", slow)
            with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=client.base_url) as hasty:
                hasty.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]}, timeout=0.5)
        until(lambda: ask(client, "Hi").status_code == 200, seconds=8)
    cut, whole = (trace.data.spans[0] for trace in traced(known))
    assert cut.attributes["finish_reason"] == "cancelled"
    assert whole.attributes["finish_reason"] in ("stop", "length")


def test_whoever_stops_reading_gives_the_place_back(known: Known, monkeypatch: pytest.MonkeyPatch):
    from tasks import live_answer

    with running(known, Limits(at_once=1)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(live_answer, "next_tokens", slow)
            body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
            with client.stream("POST", CHAT, json=body) as stream:
                lines = stream.iter_lines()
                first = [next(lines) for _ in range(6)]
            assert all(not line or line.startswith("data: ") for line in first)
        until(lambda: ask(client, "Hi").status_code == 200)
    cut, whole = (trace.data.spans[0] for trace in traced(known))
    assert cut.attributes["finish_reason"] == "cancelled"
    assert 0 < len(cut.outputs) < 1000
    assert whole.attributes["finish_reason"] in ("stop", "length")
