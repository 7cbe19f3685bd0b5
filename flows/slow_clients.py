"""Connections of mendflow's servers: one on which no request arrives is not kept open."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# For the head of a request; an application limits the time of its body.
HEAD_SECONDS = 10.0


class PromptClients(H11Protocol):
    """HTTP/1.1 that closes a connection which is silent, or sends the head of a request byte by byte.

    Uvicorn counts such connections as requests, and closes only those that are silent after a response.
    """

    _look: asyncio.TimerHandle
    # The last request, if it was over when this looked the last time; None before the first.
    _over: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._look = self.loop.call_later(HEAD_SECONDS, self._close_unless_prompt)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._look.cancel()
        super().connection_lost(exc)

    def _close_unless_prompt(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._over is self.cycle:
            self.transport.close()
            return
        if idle:
            self._over = self.cycle
        self._look = self.loop.call_later(HEAD_SECONDS, self._close_unless_prompt)
