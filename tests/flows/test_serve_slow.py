"""`mendflow serve` waits for no client that is slow to ask."""

from __future__ import annotations

import socket

import httpx
import pytest

from flows import slow_clients
from tasks.live_server import Limits
from tests.flows.serving_tools import CHAT, Known, ask, running


@pytest.mark.slow
def test_a_client_that_is_silent_or_slow_with_its_body_is_sent_away(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(slow_clients, "HEAD_SECONDS", 0.3)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
    with running(known, Limits(body_seconds=0.3)) as client:
        for said, answered in ((b"", b""), (head.encode(), b"HTTP/1.1 408 ")):
            address = httpx.URL(client.base_url)
            with socket.create_connection((address.host, address.port or 0), timeout=10) as connection:
                connection.sendall(said)
                heard = b""
                while chunk := connection.recv(4096):
                    heard += chunk
            assert heard.startswith(answered)
            assert bool(heard) is bool(answered)
        assert ask(client, "Hi").status_code == 200
