"""Serve a model's champion, and each new one after it, until told to stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.settings import CorrectSettings
from tasks.records import UserError
from tasks.tracking import tracking

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from tasks.live_server import Limits

KEY_VARIABLE = "MENDFLOW_SERVE_KEY"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


@contextmanager
def served(
    settings: CorrectSettings, limits: Limits, *, poll_seconds: float = 5.0, device: str = "cpu"
) -> Iterator[FastAPI]:
    """The application that serves a model, its champion loaded.

    The MLflow store is this process's own as long as the block lasts, for all threads.

    Raises:
        UserError: there is no champion, it cannot be loaded, or MLflow cannot be reached.
    """
    from tasks.live_server import Service, application
    from tasks.live_traces import TraceWriter
    from tasks.live_version import Follower

    with tracking(settings.tracking):
        follower = Follower(
            settings.model_name,
            tracking_uri=settings.tracking,
            cache=settings.home / "models",
            device=device,
            poll_seconds=poll_seconds,
        )
        traces = TraceWriter(settings.tracking, settings.experiment, redact=settings.redaction.redact)
        yield application(Service(follower, traces, limits, os.environ.get(KEY_VARIABLE, "")))


def serve(
    settings: CorrectSettings,
    limits: Limits,
    *,
    host: str,
    port: int,
    poll_seconds: float = 5.0,
    device: str = "cpu",
) -> None:
    """Serve until a signal ends it; requests under way are answered first.

    Raises:
        UserError: there is nothing to serve, the port is taken, or other machines could ask without a key.
    """
    import socket

    import uvicorn

    if host not in _THIS_MACHINE and not os.environ.get(KEY_VARIABLE):
        raise UserError(f"other machines reach {host}: set {KEY_VARIABLE} to the key that requests must bear")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be listened on ({error.strerror}); name another with --port"
            ) from error
        with served(settings, limits, poll_seconds=poll_seconds, device=device) as app:
            uvicorn.Server(configured(app)).run(sockets=[listening])


def configured(app: FastAPI) -> uvicorn.Config:
    """How a server runs the application."""
    import uvicorn

    from flows.slow_clients import PromptClients

    return uvicorn.Config(app, log_level="warning", http=PromptClients, timeout_graceful_shutdown=60)
