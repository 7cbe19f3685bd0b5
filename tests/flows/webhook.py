"""A service that is told things over HTTP, on this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from prefect.blocks.notifications import CustomWebhookNotificationBlock


class Webhook:
    """Listens in a `with`; `heard` is what it was sent, and `status` what it answers."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.status = 200
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.heard.append(json.loads(sent)["text"])
                self.send_response(webhook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def save(self, name: str) -> str:
        """Save a block that tells it; what a setting calls that."""
        block = CustomWebhookNotificationBlock(
            name=name,
            url=f"http://127.0.0.1:{self._server.server_port}/hidden",
            json_data={"text": "{{subject}} / {{body}}"},
        )
        block.save(name, overwrite=True)
        return f"custom-webhook/{name}"
