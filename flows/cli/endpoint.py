"""Reports over HTTP: the endpoint, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import HOME, Home, LedgerUrl, settings_of, typed
from flows.machine import use_running_server
from flows.parts import HOST
from flows.settings import RATE_VARIABLE, REPORTERS_VARIABLE, reporters_file

Reporters = Annotated[
    Path | None,
    typer.Option(
        help="File of the reporters; by default reporters.json in the home folder.",
        envvar=REPORTERS_VARIABLE,
        show_envvar=False,
    ),
]
Reporter = Annotated[str, typer.Argument(metavar="NAME", help="The name that its reports are under.")]


def listen(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 4300,
    rate: Annotated[
        int,
        typer.Option(
            min=1,
            help="Requests a minute that each key may send.",
            envvar=RATE_VARIABLE,
            show_envvar=False,
        ),
    ] = 600,
    reporters: Reporters = None,
    home: Home = HOME,
    ledger: LedgerUrl = "",
) -> None:
    """Take reports over HTTP from those who have a key (`mendflow add-reporter`), until interrupted."""
    from flows.endpoint.serve import listen as serve

    # The endpoint takes reports about every model: of the settings the stores alone matter.
    settings = settings_of("any", home, ledger=ledger)
    use_running_server(home)
    serve(
        settings.ledger,
        reporters_file(settings.home, reporters),
        host=host,
        port=port,
        per_minute=rate,
        started=lambda url: typer.echo(f"listening at {url}; what it takes: {url}/openapi.json"),
    )


def add_reporter(
    name: Reporter,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model it may report about; may be given again; by default all."),
    ] = None,
    reporters: Reporters = None,
    home: Home = HOME,
) -> None:
    """Make the key with which a program or person reports over HTTP; it is shown this once."""
    from tasks.reporters import add_reporter as add

    key = add(reporters_file(home, reporters), name, model or ())
    typer.echo(key)
    stores = typed(home)
    typer.echo(f"shown this once; `mendflow remove-reporter {name!r}{stores}` takes it back", err=True)


def remove_reporter(name: Reporter, reporters: Reporters = None, home: Home = HOME) -> None:
    """Take a reporter's key back; an endpoint that runs refuses it from now on."""
    from tasks.reporters import remove_reporter as remove

    remove(reporters_file(home, reporters), name)
    typer.echo(f"{name} may not report any more")
