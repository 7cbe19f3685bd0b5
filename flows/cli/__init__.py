"""The command line: `mendflow`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli import cleaning, editing, endpoint, jobs, ledger, machine, reviewing, serving, status, versions
from flows.cli.faults import in_words
from tasks.records import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Continuous model correction: flagged errors in, a corrected, validated and registered model out.",
)
# In the order in which `mendflow --help` lists them.
app.command()(jobs.demo)
app.command()(ledger.flag)
app.command()(ledger.collect)
app.command()(jobs.correct)
app.command()(ledger.corrections)
app.command()(ledger.answer)
app.command()(ledger.choose)
app.command()(ledger.retire)
app.command()(reviewing.review)
app.command()(ledger.history)
app.command("train-editor")(editing.train_editor)
app.command()(editing.edit)
app.command()(editing.bench)
app.command()(status.status)
app.command()(versions.explain)
app.command()(versions.verify)
app.command()(versions.approve)
app.command()(versions.reject)
app.command()(versions.promote)
app.command()(versions.rollback)
app.command()(serving.serve)
app.command()(serving.export)
app.command()(jobs.report)
app.command()(cleaning.clean)
app.command()(machine.up)
app.command()(machine.down)
app.command()(endpoint.listen)
app.command("add-reporter")(endpoint.add_reporter)
app.command("remove-reporter")(endpoint.remove_reporter)


def main() -> None:
    """Run a command; a user's mistake, or the machine's fault, is a sentence on standard error, status 2."""
    _quieten()
    try:
        with in_words():
            app()
    except UserError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(why: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]mendflow:[/] {escape(why)}")
    sys.exit(2)


def _quieten() -> None:
    """Keep libraries from talking and counting, unless the user chose otherwise."""
    import logging

    for library in ("great_expectations", "mlflow", "alembic", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for variable, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(variable, value)
