"""Production on one machine: everything started, and stopped again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import HOME, Canary, Home, Shadow, settings_of, typed
from tasks.records import UserError

_OF_RUNS = "As of `correct`, for the runs that schedules and events start."
# Settings that `up` is told by other means.
_ELSEWHERE = {
    "model_name": "--model",
    "base": "--base",
    "home": "--home",
    "tracking_uri": "MENDFLOW_TRACKING",
    "ledger_url": "MENDFLOW_LEDGER",
}

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
    review: Annotated[
        bool, typer.Option("--review", help="As of `correct`, for the runs that it starts.")
    ] = (False),
    answerer: Annotated[str, typer.Option(help="As of `correct`, for the runs that it starts.")] = "",
    override_failed: Annotated[
        bool, typer.Option("--override-failed", help="As of `correct`, for the runs that it starts.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of theirs; may be given again."),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the model too (`mendflow serve`).")] = False,
    serve_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the served model.")] = 8000,
    shadow: Shadow = 0.0,
    canary: Canary = 0.0,
    home: Home = HOME,
) -> None:
    """Start Prefect, MLflow and a worker on this machine, and register schedules and triggers.

    Settings of runs take the place of those in the deployments file, until `up` is given without them.
    Reports are taken over HTTP too, where somebody has a key for it (`mendflow add-reporter`).
    """
    from flows.console import Narrator
    from flows.machine import DEPLOYMENTS, Machine
    from flows.machine import up as start
    from flows.parts import PARTS, Serving
    from flows.serve import Shares

    Shares(shadow, canary)
    if serve and not model:
        raise UserError("--serve serves the model that --model names; name one")
    if (shadow or canary) and not serve:
        raise UserError("--shadow and --canary are of what is served; give --serve too")
    given = _given(set_ or (), review=review, answerer=answerer, override_failed=override_failed)
    if given and not model:
        raise UserError(f"{', '.join(given)}: settings of the model that --model names; name one")
    settings = settings_of(model, home, base=base, **given) if model else None
    was = Machine(home.absolute()).running()
    machine = start(
        settings,
        home.absolute(),
        port=port,
        mlflow_port=mlflow_port,
        endpoint_port=endpoint_port,
        deployments=deployments or DEPLOYMENTS,
        given=given,
        serving=Serving(serve_port, shadow, canary) if serve else None,
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


def _given(pairs: Iterable[str], *, review: bool, answerer: str, override_failed: bool) -> dict[str, Any]:
    """The settings of runs that the options name.

    Raises:
        UserError: one names none, or one that another option names.
    """
    import yaml

    from flows.settings import CorrectSettings

    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in CorrectSettings.model_fields:
            raise UserError(f"--set {pair}: write NAME=VALUE with the name of a setting of `correct`")
        if name in _ELSEWHERE:
            raise UserError(f"--set {pair}: {name} is what {_ELSEWHERE[name]} names")
        try:
            given[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {pair}: the value is not readable; quote it as in YAML") from error
    named = {"promotion": review and "review", "answerer": answerer, "override_failed": override_failed}
    return given | {name: value for name, value in named.items() if value}


def down(home: Home = HOME) -> None:
    """Stop what `mendflow up` started, and nothing else."""
    from flows.machine import down as stop

    stopped = stop(home.absolute())
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else f"nothing of `mendflow up` runs in {home}")
