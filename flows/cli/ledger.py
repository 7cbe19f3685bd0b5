"""Errors and corrections: reporting them, and what people decide about them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.options import HOME, Chat, Home, LedgerUrl, Name, Tracking, Who, settings_of, user


def flag(
    name: Name,
    prompt: Annotated[str, typer.Option(help="What the model was asked.")],
    output: Annotated[str, typer.Option(help="What it answered.")] = "",
    expected: Annotated[str | None, typer.Option(help="What it should have answered.")] = None,
    reporter: Who = "",
    chat: Chat = True,
    home: Home = HOME,
    ledger: LedgerUrl = "",
) -> None:
    """Report an error of a model."""
    from tasks.collect import report_error

    settings = settings_of(name, home, ledger=ledger)
    correction = report_error(
        prompt,
        output,
        expected,
        name,
        ledger_url=settings.ledger,
        reporter=reporter or user(),
        chat=chat,
    )
    reason = f": {correction.reason}" if correction.reason else ""
    typer.echo(f"{correction.id} {correction.state}{reason}")


def collect(
    name: Name,
    source: Annotated[Path | None, typer.Option(help="A .jsonl, .csv or .parquet file of reports.")] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the traces.")] = "mendflow",
    chat: Chat = True,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Take flagged errors into the ledger, from MLflow traces or from a file."""
    from flows.stages import collect_errors
    from tasks.ledger import Ledger

    settings = settings_of(
        name, home, tracking=tracking, ledger=ledger, source=source, experiment=experiment, chat=chat
    )
    found = collect_errors.fn(settings)
    with Ledger(settings.ledger) as book:
        corrections = book.record(found.reports)
    for rejected in found.rejected:
        typer.echo(f"{rejected.source}: {rejected.reason}", err=True)
    table = Table("correction", "state", "prompt", "reason")
    for correction in corrections:
        table.add_row(correction.id, correction.state, escape(correction.prompt), escape(correction.reason))
    Console().print(table)
    typer.echo(
        f"{len(found.reports)} reports, {len(corrections)} corrections, {len(found.rejected)} unreadable"
    )
