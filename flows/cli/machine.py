"""Production on one machine: everything started, and stopped again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import HOME, Home, settings_of, typed

Port = Annotated[int, typer.Option(min=1, max=65535, help="Of the Prefect server.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=65535, help="Of the MLflow server.")]
EndpointPort = Annotated[
    int, typer.Option(min=1, max=65535, help="Of reports over HTTP, if anybody has a key for it.")
]


def up(
    model: Annotated[str, typer.Option(help="The model whose runs are scheduled; events start any's.")] = "",
    base: Annotated[str, typer.Option(help="Its pristine base; needed until it has a champion.")] = "",
    port: Port = 4200,
    mlflow_port: MlflowPort = 5000,
    endpoint_port: EndpointPort = 4300,
    deployments: Annotated[
        Path | None, typer.Option(help="A file of deployments; by default mendflow's own.")
    ] = None,
    home: Home = HOME,
) -> None:
    """Start Prefect, MLflow and a worker on this machine, and register schedules and triggers.

    Reports are taken over HTTP too, where somebody has a key for it (`mendflow add-reporter`).
    """
    from flows.console import Narrator
    from flows.machine import DEPLOYMENTS, PARTS, Machine
    from flows.machine import up as start

    settings = settings_of(model, home, base=base) if model else None
    was = Machine(home.absolute()).running()
    machine = start(
        settings,
        home.absolute(),
        port=port,
        mlflow_port=mlflow_port,
        endpoint_port=endpoint_port,
        deployments=deployments or DEPLOYMENTS,
        narrator=Narrator(),
    )
    running = machine.running()
    typer.echo(f"mendflow {'is running already' if was == running else 'runs'} in {home}")
    for name in PARTS:
        part = machine.part(name)
        if name not in running:
            continue
        typer.echo(f"  {name:<8} {part.about.get('url') or 'runs the flows':<24} log {part.log}")
    stores = typed(home)
    named = shlex.quote(model or "NAME")
    typer.echo(f"report an error:  mendflow flag {named} --prompt TEXT --output TEXT --expected TEXT{stores}")
    typer.echo(f"  from Python:    PREFECT_API_URL={machine.api_url} and tasks.collect.report_error")
    typer.echo(f"look:             mendflow status {named}{stores}")
    typer.echo(f"stop:             mendflow down{stores}")
    if settings is None:
        typer.echo("nothing is scheduled: name a model with --model to have it corrected every night")


def down(home: Home = HOME) -> None:
    """Stop what `mendflow up` started, and nothing else."""
    from flows.machine import down as stop

    stopped = stop(home.absolute())
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else f"nothing of `mendflow up` runs in {home}")
