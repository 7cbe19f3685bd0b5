"""Production on one machine: everything started, and stopped again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import HOME, Canary, Home, Shadow, settings_of, typed
from tasks.records import UserError

_OF_RUNS = "As of `correct`, for the runs that it starts."
# Settings that `up` is told by other means.
_ELSEWHERE = {
    "model_name": "--model",
    "base": "--base",
    "home": "--home",
    "tracking_uri": "MENDFLOW_TRACKING",
    "ledger_url": "MENDFLOW_LEDGER",
}

_PORT, _MLFLOW_PORT, _ENDPOINT_PORT, _SERVE_PORT = 4200, 5000, 4300, 8000
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help=f"Of the Prefect server; {_PORT} by default.")
]
MlflowPort = Annotated[
    int | None, typer.Option(min=1, max=65535, help=f"Of the MLflow server; {_MLFLOW_PORT} by default.")
]
EndpointPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help=f"Of reports over HTTP, if anybody has a key for it; {_ENDPOINT_PORT} by default.",
    ),
]
ServePort = Annotated[
    int | None, typer.Option(min=1, max=65535, help=f"Of the served model; {_SERVE_PORT} by default.")
]


def up(
    model: Annotated[str, typer.Option(help="The model whose runs are scheduled; events start any's.")] = "",
    base: Annotated[str, typer.Option(help="Its pristine base; needed until it has a champion.")] = "",
    port: Port = None,
    mlflow_port: MlflowPort = None,
    endpoint_port: EndpointPort = None,
    deployments: Annotated[
        Path | None, typer.Option(help="A file of deployments; by default mendflow's own.")
    ] = None,
    review: Annotated[bool, typer.Option("--review", help=_OF_RUNS)] = False,
    answerer: Annotated[str, typer.Option(help=_OF_RUNS)] = "",
    override_failed: Annotated[bool, typer.Option("--override-failed", help=_OF_RUNS)] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of theirs; may be given again."),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the model too (`mendflow serve`).")] = False,
    serve_port: ServePort = None,
    shadow: Shadow = 0.0,
    canary: Canary = 0.0,
    home: Home = HOME,
) -> None:
    """Start Prefect, MLflow and a worker on this machine, and register schedules and triggers.

    Without --model it goes on with all that it was told when it last succeeded. With it, everything is told
    anew: settings of runs take the place of those in the deployments file, which others come from.
    Reports are taken over HTTP too, where somebody has a key for it (`mendflow add-reporter`).
    """
    from flows.console import Narrator
    from flows.machine import DEPLOYMENTS, FOLDER, Machine
    from flows.machine import up as start
    from flows.parts import ENDPOINT, MLFLOW, PARTS, PREFECT, Serving
    from flows.serve import Shares
    from flows.settings import given_to_runs
    from flows.told import Told, last_told, remember

    Shares(shadow, canary)
    folder = home.absolute() / FOLDER
    last = last_told(folder)
    served = None if model else last.serving
    if (shadow or canary) and not (serve or served):
        raise UserError("--shadow and --canary are of what is served; give --serve too")
    named = {PREFECT: port, MLFLOW: mlflow_port, ENDPOINT: endpoint_port}
    now = Told(
        model=model,
        deployments=deployments and deployments.absolute(),
        given=_given(set_ or (), review=review, answerer=answerer, override_failed=override_failed),
        ports={name: number for name, number in named.items() if number},
    )
    if serve or (served and (shadow or canary or serve_port)):
        number = serve_port or (served.port if served else _SERVE_PORT)
        now = now.model_copy(update={"serving": Serving(number, shadow, canary)})
    told = last.and_now(now)
    if serve and not told.model:
        raise UserError("--serve serves the model that --model names; name one")
    if told.given and not told.model:
        raise UserError(f"{', '.join(told.given)}: settings of the model that --model names; name one")
    settings = settings_of(told.model, home, base=base, **told.given) if told.model else None
    narrator = Narrator()
    if told.model and not model:
        narrator.say(f"as told before: {told.words()}")
    for line in last.left_out(told):
        narrator.say(line)
    was = Machine(home.absolute()).running()
    machine = start(
        settings,
        home.absolute(),
        port=told.ports.get(PREFECT, _PORT),
        mlflow_port=told.ports.get(MLFLOW, _MLFLOW_PORT),
        endpoint_port=told.ports.get(ENDPOINT, _ENDPOINT_PORT),
        deployments=told.deployments or DEPLOYMENTS,
        given=told.given,
        serving=told.serving,
        narrator=narrator,
    )
    in_any_folder = given_to_runs(settings, told.given) if settings else {}
    remember(folder, told.model_copy(update={"given": in_any_folder}))
    running = machine.running()
    typer.echo(f"mendflow {'is running already' if was == running else 'runs'} in {home}")
    for name in PARTS:
        part = machine.part(name)
        if name not in running:
            continue
        typer.echo(f"  {name:<8} {part.about.get('url') or 'runs the flows':<24} log {part.log}")
    stores = typed(home)
    quoted = shlex.quote(told.model or "NAME")
    typer.echo(
        f"report an error:  mendflow flag {quoted} --prompt TEXT --output TEXT --expected TEXT{stores}"
    )
    typer.echo(f"  from Python:    PREFECT_API_URL={machine.api_url} and tasks.collect.report_error")
    typer.echo(f"look:             mendflow status {quoted}{stores}")
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
    from flows.machine import Machine
    from flows.machine import down as stop

    under_way = Machine(home.absolute()).runs_under_way()
    stopped = stop(home.absolute())
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else f"nothing of `mendflow up` runs in {home}")
    if under_way:
        typer.echo(f"runs under way that ended with it: {under_way}; the next one goes on from there")
