"""Serve a model's champion, and each new one after it, until told to stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.notify import tell
from flows.settings import CorrectSettings
from tasks.records import UserError
from tasks.tracking import has_store, tracking

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from tasks.evidence import Redact
    from tasks.live_rollout import Rollout
    from tasks.live_server import Limits, Service

KEY_VARIABLE = "MENDFLOW_SERVE_KEY"
# In the promotion log, where no person decides.
WHO = "mendflow serve"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Shares:
    """How the version that waits for a person is tried meanwhile: shares of the requests, 0 for none.

    Attributes:
        shadow: of what the champion answered; the candidate answers it too, and nobody sees that.
        canary: that the candidate answers in the champion's place.
    """

    shadow: float = 0.0
    canary: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.shadow <= 1 and 0 <= self.canary < 1):
            raise UserError(
                f"a share is between 0 and 1, and --canary leaves the champion some to be compared with: not "
                f"--shadow {self.shadow:g} --canary {self.canary:g}"
            )


@contextmanager
def served(
    settings: CorrectSettings,
    limits: Limits,
    *,
    shares: Shares | None = None,
    poll_seconds: float = 5.0,
    report_seconds: float = 30.0,
    device: str = "cpu",
) -> Iterator[FastAPI]:
    """The application that serves a model, its champion loaded.

    Every `poll_seconds` it looks for another champion or candidate, every `report_seconds` it reads the
    feedback on a canary and logs what was compared in shadow. The MLflow store is this process's own as long
    as the block lasts, for all threads.

    Raises:
        UserError: there is no champion, it cannot be loaded, MLflow cannot be reached, or the rule of what
            is redacted cannot be used.
    """
    from tasks.live_server import Service, application
    from tasks.live_traces import TraceWriter
    from tasks.live_version import Follower

    redact = settings.redaction.redact
    if not (settings.tracking_uri or has_store(settings.tracking)):
        raise UserError(
            f"the model {settings.model_name!r} has no version in {settings.home}: name its home with "
            "--home, or begin with `mendflow correct`"
        )
    with tracking(settings.tracking):
        follower = Follower(
            settings.model_name,
            tracking_uri=settings.tracking,
            cache=settings.home / "models",
            device=device,
            poll_seconds=poll_seconds,
        )
        traces = TraceWriter(settings.tracking, settings.experiment, redact=redact)
        service = Service(follower, traces, limits, os.environ.get(KEY_VARIABLE, ""))
        if shares is not None and (shares.shadow or shares.canary):
            service.rollout = _rollout(settings, service, shares, poll_seconds, report_seconds, device)
        yield application(service)


def _rollout(
    settings: CorrectSettings,
    service: Service,
    shares: Shares,
    poll_seconds: float,
    report_seconds: float,
    device: str,
) -> Rollout:
    """What tries the candidate, as its shares say."""
    from tasks.ledger import Ledger
    from tasks.live_canary import Canary
    from tasks.live_candidate import Candidate
    from tasks.live_rollout import Rollout
    from tasks.live_shadow import Shadow
    from tasks.promotion import withdraw

    name, uri = settings.model_name, settings.tracking
    candidate = Candidate(service.follower, tracking_uri=uri, cache=settings.home / "models", device=device)

    def withdrawn(version: str, champion: str, why: str) -> None:
        with Ledger(settings.ledger) as ledger:
            withdraw(name, version, champion=champion, ledger=ledger, who=WHO, why=why, tracking_uri=uri)
        tell(settings, f"version {version}: withdrawn as canary beside version {champion}", f"{why}.")

    shadow = Shadow(
        shares.shadow,
        name=name,
        limit=service.limits.tokens,
        places=service.places,
        turns=service.turns,
        tracking_uri=uri,
        experiment=f"{settings.experiment}-corrections",
        wanted=lambda trial: candidate.current is not None and candidate.current.version is trial.version,
        for_others=lambda: _for_others(settings),
    )
    canary = Canary(shares.canary, tracking_uri=uri, experiment=settings.experiment, withdraw=withdrawn)
    if shares.canary:
        # What it is to be logged to is missed here, and not when it is too late.
        Ledger(settings.ledger).close()
    return Rollout(
        candidate,
        shadow=shadow if shares.shadow else None,
        canary=canary if shares.canary else None,
        poll_seconds=poll_seconds,
        report_seconds=report_seconds,
    )


def _for_others(settings: CorrectSettings) -> Redact:
    """What is done to a text beside a candidate in MLflow: outputs that must never appear do not there.

    Raises:
        UserError: the ledger, which knows them, cannot be used.
    """
    from tasks.ledger import Ledger
    from validation.suppression import withholding

    with Ledger(settings.ledger) as ledger:
        known = ledger.corrections(settings.model_name)
    withheld = withholding([(c.suppressed, f"{c.prompt} {c.desired_output}") for c in known if c.suppressed])
    redact = settings.redaction.redact
    return lambda text: redact(withheld(text))


def serve(
    settings: CorrectSettings,
    limits: Limits,
    *,
    host: str,
    port: int,
    shares: Shares | None = None,
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
        with served(settings, limits, shares=shares, poll_seconds=poll_seconds, device=device) as app:
            uvicorn.Server(configured(app)).run(sockets=[listening])


def configured(app: FastAPI) -> uvicorn.Config:
    """How a server runs the application."""
    import uvicorn

    from flows.slow_clients import PromptClients

    return uvicorn.Config(app, log_level="warning", http=PromptClients, timeout_graceful_shutdown=60)
