"""A Prefect server for a command whose user runs none; it ends with the command, however that ends.

Prefect would start one too, in the command's process group. A signal to the command alone leaves that one
running for ever. One to the group, such as Ctrl-C, ends it before the flow has told it of the interruption,
and Prefect keeps trying to for more than a minute.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

HOST = "127.0.0.1"
# What a server that was told to end may take for it.
GRACE_SECONDS = 5.0


def ensure_server() -> None:
    """Have the flows of this process use a server of its own where Prefect would start a temporary one."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        return
    # Requests wait in the socket until the server is up.
    with socket.create_server((HOST, 0)) as listener:
        handle, port = listener.fileno(), listener.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(handle)],
            stdin=subprocess.PIPE,
            pass_fds=[handle],
            # Out of reach of signals to the command's process group.
            start_new_session=True,
        )
    # Until then something has to hold on to it: its standard input would be closed, and it would end.
    atexit.register(_end, server)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    refresh_global_settings_context()


def _end(server: subprocess.Popen[bytes]) -> None:
    """Close the server's standard input and wait for it; one that has not begun to listen to it is killed."""
    try:
        server.communicate(None, GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def serve(handle: int) -> None:
    """Serve on a listening socket until standard input is closed, as it is when the command has ended."""
    import uvicorn
    from prefect.server.api.server import create_app

    threading.Thread(target=_end_with_input, daemon=True).start()
    # Which sets up logging, and so comes first.
    app = create_app(ephemeral=True, final=True)
    said = logging.StreamHandler()
    said.setFormatter(_InALine())
    logging.getLogger("uvicorn").handlers = [said]
    config = uvicorn.Config(app, log_config=None, log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=handle)])


class _InALine(logging.Formatter):
    """What the server fails of, without its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The last line that says something."""
        lines = [line for line in super().format(record).splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith("(Background on this error")]
        return f"Prefect's server: {told[-1].strip() if told else record.levelname}"


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
