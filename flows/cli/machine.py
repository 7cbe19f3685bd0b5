"""Production on one machine: everything started, and stopped again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import CANARY, HOME, SHADOW, Home, settings_of, typed
from flows.parts import ENDPOINT, FOLDER, MLFLOW, PORTS, PREFECT, SERVE
from tasks.records import UserError

if TYPE_CHECKING:
    from flows.console import Narrator
    from flows.told import Telling, Told

_OF_RUNS = "As of `correct`, for the runs that it starts."
# Settings that `up` is told by other means.
_ELSEWHERE = {
    "model_name": "--model",
    "base": "--base",
    "home": "--home",
    "tracking_uri": "MENDFLOW_TRACKING",
    "ledger_url": "MENDFLOW_LEDGER",
}


def _port(of: str, default: int) -> Any:
    return typer.Option(min=1, max=65535, help=f"Of {of}; {default} unless it was told before.")


def up(
    model: Annotated[
        str | None, typer.Option(help="The model whose runs are scheduled, '' for none; events start any's.")
    ] = None,
    base: Annotated[str, typer.Option(help="Its pristine base; needed until it has a champion.")] = "",
    port: Annotated[int | None, _port("the Prefect server", PORTS[PREFECT])] = None,
    mlflow_port: Annotated[int | None, _port("the MLflow server", PORTS[MLFLOW])] = None,
    endpoint_port: Annotated[
        int | None, _port("reports over HTTP, if anybody has a key", PORTS[ENDPOINT])
    ] = None,
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
    serve_port: Annotated[int | None, _port("the served model", PORTS[SERVE])] = None,
    shadow: Annotated[float | None, SHADOW] = None,
    canary: Annotated[float | None, CANARY] = None,
    home: Home = HOME,
) -> None:
    """Start Prefect, MLflow and a worker on this machine, and register schedules and triggers.

    Without --model it goes on with what it was told before, and with what it is told besides. With it, all
    but ports is told anew: settings of runs take the place of those in the deployments file.
    Reports are taken over HTTP too, where somebody has a key for it (`mendflow add-reporter`).
    """
    from flows.console import Narrator
    from flows.machine import Machine, alone
    from flows.machine import up as start
    from flows.parts import PARTS
    from flows.serve import Shares
    from flows.told import Telling, and_now, require_variables, told_no_more

    named = {PREFECT: port, MLFLOW: mlflow_port, ENDPOINT: endpoint_port}
    now = Telling(
        model,
        deployments and deployments.absolute(),
        _given(set_ or (), review=review, answerer=answerer, override_failed=override_failed),
        {name: number for name, number in named.items() if number},
        serve,
        serve_port,
        shadow,
        canary,
    )
    narrator = Narrator()
    with alone(home.absolute()):
        last = _last_told(home.absolute() / FOLDER, now, narrator)
        told = and_now(last, now)
        if told.serving:
            Shares(told.serving.shadow, told.serving.canary)
        if model is None:
            require_variables(last)
            if told.model:
                narrator.say(f"goes on with {told.words()}")
        for line in told_no_more(last, told):
            narrator.say(line)
        settings = settings_of(told.model, home, base=base, **told.given) if told.model else None
        was = Machine(home.absolute()).running()
        machine = start(settings, home.absolute(), told, narrator)
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


def _last_told(folder: Path, now: Telling, narrator: Narrator) -> Told:
    """What `up` was last told; nothing where that cannot be read and is told anew."""
    from flows.told import Told, last_told

    try:
        return last_told(folder)
    except UserError as error:
        if now.model is None:
            raise
        narrator.warn(str(error))
        return Told()


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
        typer.echo(
            f"{under_way} run{'s' * (under_way > 1)} under way ended with it; `correct` goes on from there"
        )
