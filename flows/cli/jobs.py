"""The demo, the whole job once, and where its report is."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    DEMO_HOME,
    HOME,
    Chat,
    Home,
    LedgerUrl,
    Name,
    OneOrAuto,
    Tracking,
    known_editors,
    prepare_prefect,
    settings_of,
    typed,
)
from flows.settings import AUTO, CorrectSettings
from tasks.records import UserError

_TRIED = ",".join(CorrectSettings.model_fields["methods"].default)


def demo(
    home: Annotated[Path, typer.Option(help="Folder for the demo; it is emptied first.")] = DEMO_HOME,
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


def correct(
    name: Name,
    base: Annotated[str, typer.Option(help="The pristine base; needed until there is a champion.")] = "",
    source: Annotated[Path | None, typer.Option(help="A file of reports instead of traces.")] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the traces.")] = "mendflow",
    editor: OneOrAuto = AUTO,
    methods: Annotated[
        str,
        typer.Option(
            help=f"What `--editor auto` tries, in this order; by default `{_TRIED}`.",
            callback=known_editors,
        ),
    ] = "",
    retrain: Annotated[
        bool, typer.Option(help="Train an editor even where there is one for this base.")
    ] = False,
    training_data: Annotated[
        Path | None, typer.Option(help="Edit data to train an editor on, even where there is one.")
    ] = None,
    review: Annotated[bool, typer.Option(help="Leave what passes for a person to promote.")] = False,
    review_queue: Annotated[
        bool, typer.Option("--review-queue", help="Put what waits for a person before reviewers in MLflow.")
    ] = False,
    gates: Annotated[Path | None, typer.Option(help="Gate file; by default mendflow's own.")] = None,
    answerer: Annotated[
        str,
        typer.Option(
            help="Who answers reports that came without an answer: table:FILE, function:MODULE:FUNCTION, or "
            "model:REF; by default they wait for a person.",
        ),
    ] = "",
    reporter_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="New corrections that one of several reporters may alone stand behind; by default 100, and "
            "20 where ten or more people report.",
        ),
    ] = None,
    rewordings: Annotated[
        str, typer.Option(help="Who rewords corrections: `rules`, or `model` for a language model besides.")
    ] = "rules",
    rewriter: Annotated[
        str, typer.Option(help="The model that rewords, any reference; by default the champion.")
    ] = "",
    neighbours: Annotated[
        str, typer.Option(help="What makes traffic near a correction: `words` in common, or `meaning`.")
    ] = "words",
    encoder: Annotated[
        str, typer.Option(help="Sentence encoder, folder or Hugging Face id; by default the packaged one.")
    ] = "",
    attempts: Annotated[
        int,
        typer.Option(min=1, help="Solves at most, to find what breaks a batch that the gates refuse."),
    ] = 12,
    override_failed: Annotated[
        bool, typer.Option(help="Answer what had to be left out word for word, in front of the model.")
    ] = False,
    replay: Annotated[
        int,
        typer.Option(min=0, help="How many of the last requests to ask both models too, side by side."),
    ] = 0,
    chat: Chat = True,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Run the whole job once: collect, build, train or reuse, apply, register, validate, promote."""
    if methods and editor != AUTO:
        raise UserError(f"--methods says what --editor auto tries, and the editor is {editor}; leave one out")
    prepare_prefect(home)
    from flows.correct import correct as correct_flow

    settings = settings_of(
        name,
        home,
        tracking=tracking,
        ledger=ledger,
        base=base,
        source=source,
        experiment=experiment,
        editor=editor,
        retrain=retrain,
        training_data=training_data,
        promotion="review" if review else "auto",
        review_queue=review_queue,
        gates=gates,
        answerer=answerer or None,
        reporter_limit=reporter_limit,
        attempts=attempts,
        override_failed=override_failed,
        replay=replay,
        rewordings=rewordings,
        rewriter=rewriter,
        neighbours=neighbours,
        encoder=encoder,
        chat=chat,
        **({"methods": tuple(filter(None, map(str.strip, methods.split(","))))} if methods else {}),
    )
    run = correct_flow(settings)
    typer.echo(f"{run.outcome}: {run.reason or 'the champion holds every correction'}")
    if run.report:
        typer.echo(f"report: {run.report}")


def report(name: Name, home: Home = HOME) -> None:
    """Say where the newest report of a model is."""
    reports = sorted((home / "runs" / name).glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    if not reports:
        raise UserError(_no_report(name, home))
    typer.echo(str(reports[-1].absolute()))


def _no_report(name: str, home: Path) -> str:
    """That there is no report, and the command that makes one or goes on where one was interrupted."""
    from flows.settings import MARKER_FILE

    none = f"there is no report of {name} in {home}"
    resume = "if it was interrupted, `mendflow demo --resume{}` goes on with it"
    correct = f"`mendflow correct {shlex.quote(name)}{typed(home)}`"
    others = sorted({path.parents[1].name for path in (home / "runs").glob("*/*/report.html")})
    if (home / MARKER_FILE).is_file() and not others:
        return f"{none}: its demo has written none yet; {resume.format(typed(home, DEMO_HOME))}"
    if (home / "runs" / name).is_dir():
        return f"{none}: its run has written none yet; if it was interrupted, {correct} goes on with it"
    if others:
        return f"{none}; there are reports of {', '.join(others)}"
    of_demo = home / DEMO_HOME.name
    if any((of_demo / "runs" / name).glob("*/report.html")):
        return f"{none}, but in the demo's home: add{typed(of_demo)}"
    if (of_demo / MARKER_FILE).is_file() and not any(of_demo.glob("runs/*/*/report.html")):
        resume = resume.format(typed(of_demo, DEMO_HOME))
        return f"{none}, and the demo in {of_demo} has written none yet; {resume}"
    return f"{none}; run {correct} first"
