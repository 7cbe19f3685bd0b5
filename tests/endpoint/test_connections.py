"""Connections on which nothing is asked: they are closed, and those who ask are answered meanwhile."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows import slow_clients
from flows.endpoint import serve
from tests.endpoint.conftest import Endpoint, running

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "HEAD_SECONDS", 0.3)


def connected(endpoint: Endpoint) -> socket.socket:
    host, port = endpoint.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize("said", [b"", HEALTH[:-2], HEALTH + HEALTH[:-2]])
def test_a_connection_on_which_no_request_arrives_is_closed(shared: Endpoint, said: bytes):
    with connected(shared) as connection:
        connection.sendall(said)
        answered = b""
        while chunk := connection.recv(4096):
            answered += chunk
    assert answered.count(b'{"status":"ok"}') == said.count(HEALTH)


def test_nor_is_one_kept_open_byte_by_byte(shared: Endpoint):
    def drip(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(b"G")
            time.sleep(0.03)

    with connected(shared) as connection, pytest.raises(ConnectionError):
        drip(connection)


def test_whoever_asks_again_and_again_keeps_the_connection(shared: Endpoint):
    with connected(shared) as connection:
        for _ in range(12):
            connection.sendall(HEALTH)
            answered = b""
            while b"}" not in answered:
                chunk = connection.recv(4096)
                assert chunk, "it was closed"
                answered += chunk
            time.sleep(0.1)


def test_silent_connections_keep_nobody_out_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "_AT_ONCE", 20)
    with running(tmp_path) as endpoint, ExitStack() as silent:

        def status() -> int:
            return endpoint.client.get("/health", headers={"Connection": "close"}).status_code

        # From here on every request has a connection of its own, which comes after those before it.
        assert status() == 200
        for _ in range(20):
            silent.enter_context(connected(endpoint))
        assert status() == 503
        deadline = time.monotonic() + 10
        while status() != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
