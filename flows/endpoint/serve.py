"""The endpoint's server: one process, on one port, until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.endpoint.app import make_app
from tasks.ledger import Ledger
from tasks.records import UserError
from tasks.reporters import ReportersFile

if TYPE_CHECKING:
    import uvicorn

# Requests at a time; more are told to come back.
_AT_ONCE = 512
_END_SECONDS = 10


def listen(
    ledger_url: str,
    reporters: Path,
    *,
    host: str,
    port: int,
    per_minute: int,
    started: Callable[[str], object],
) -> None:
    """Take reports until the process is told to end; `started` is told the address.

    Raises:
        UserError: nobody has a key, or the ledger, the keys or the port cannot be used.
    """
    import uvicorn

    keys = ReportersFile(reporters)
    if not keys.now():
        raise UserError(
            f"nobody may report: {reporters} has no reporters; add one with `mendflow add-reporter`"
        )
    # What is wrong with it is a sentence here, and the server's traceback later.
    Ledger(ledger_url).close()
    server = uvicorn.Server(configured(make_app(ledger_url, keys, per_minute=per_minute)))
    family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
    try:
        listener = socket.create_server((host, port), family=family, backlog=_AT_ONCE)
    except OSError as error:
        why = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
        raise UserError(
            f"{shown}:{port} cannot be listened on ({why}); name another --port or --host"
        ) from error
    with listener:
        started(f"http://{shown}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])


def configured(app: Any) -> uvicorn.Config:
    """How a server runs the application.

    It keeps no log of requests: a client may put its key into an address, where it does not belong.
    """
    import uvicorn

    from flows.slow_clients import PromptClients

    return uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        http=PromptClients,
        ws="none",
        limit_concurrency=_AT_ONCE,
        timeout_graceful_shutdown=_END_SECONDS,
    )
