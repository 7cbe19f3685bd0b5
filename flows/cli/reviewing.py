"""Putting what waits for people before them, on MLflow's own pages."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from flows.cli.options import HOME, Home, LedgerUrl, Name, Tracking, settings_of, typed
from flows.cli.versions import require_version
from tasks.urls import sqlite_file, without_password


def review(
    name: Name,
    reviewer: Annotated[
        list[str] | None,
        typer.Option(help="Who is to answer, as MLflow knows them; may be given again. By default anybody."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Ask about all that is open, not only about what waits.")
    ] = False,
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the traces.")] = "mendflow",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Put what waits for a person into a review queue in MLflow, each question once.

    That is reports without an answer, contradictions, and programs' answers that nobody has vouched for.
    `collect` and `correct` carry out what is answered there.
    """
    from flows.review import ask_reviewers
    from tasks.ledger import Ledger
    from tasks.tracking import has_store

    settings = settings_of(name, home, tracking=tracking, ledger=ledger, experiment=experiment)
    if not (tracking or has_store(settings.tracking)):
        # Its page is MLflow's, and the first version makes the store.
        require_version(settings, home, named=False)
    with Ledger(settings.ledger) as book:
        put = ask_reviewers.fn(settings, book, reviewers=reviewer or (), everything=everything)
    typer.echo(f"{put.new} put up, {put.withdrawn} withdrawn, {put.waiting} to answer")
    if put.waiting:
        page, server = f"/#/experiments/{put.experiment}/review-queue", without_password(settings.tracking)
        if sqlite_file(server) is not None:
            typer.echo(f"`mlflow server --backend-store-uri {server}` shows the page, unless a server does")
            server = "http://127.0.0.1:5000"
        typer.echo(f"they are answered at {server.rstrip('/')}{page}")
        stores = typed(home, tracking=tracking, ledger=ledger)
        typer.echo(f"`mendflow collect {shlex.quote(name)}{stores}` carries out what was answered")
