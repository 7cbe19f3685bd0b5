"""Errors and corrections: reporting them, and what people decide about them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.options import HOME, Chat, Home, LedgerUrl, Name, Tracking, Who, Why, settings_of, typed, user
from flows.machine import use_running_server
from flows.parts import FOLDER
from tasks.records import Correction, State, UserError

Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="As `mendflow corrections` lists it, or enough of its beginning."),
]

Reporter = Annotated[str, typer.Option(help="Who reports it; by default the user at the machine.")]


def flag(
    name: Name,
    prompt: Annotated[str, typer.Option(help="What the model was asked.")],
    output: Annotated[str, typer.Option(help="What it answered.")] = "",
    expected: Annotated[str | None, typer.Option(help="What it should have answered.")] = None,
    suppress: Annotated[
        bool,
        typer.Option(
            "--suppress",
            help="The output is offensive or private and must never appear again; wanted is a refusal, "
            "MENDFLOW_REFUSAL or mendflow's, unless --expected says another.",
        ),
    ] = False,
    reporter: Reporter = "",
    chat: Chat = True,
    home: Home = HOME,
    ledger: LedgerUrl = "",
) -> None:
    """Report an error of a model."""
    from tasks.collect import report_error
    from tasks.ledger import Ledger

    if not prompt.strip():
        raise UserError("say with --prompt what the model was asked")
    if suppress and not output.strip():
        raise UserError("say with --output what must never appear again")
    settings = settings_of(name, home, ledger=ledger)
    use_running_server(home)
    correction = report_error(
        prompt,
        output,
        expected,
        name,
        ledger_url=settings.ledger,
        reporter=reporter or user(),
        chat=chat,
        suppress=suppress,
    )
    typer.echo(_told(correction))
    if correction.state is State.NEEDS_ANSWER:
        stores = typed(home, ledger=ledger)
        typer.echo(
            f"`mendflow answer {shlex.quote(name)} {correction.id} --expected TEXT{stores}` gives it one"
        )
    with Ledger(settings.ledger) as book:
        others = {*book.models(), _told_of(home)} - {name, ""}
        if others and name != _told_of(home) and sum(book.counts(name).values()) == 1:
            typer.echo(f"the only correction of {name}; other models are {', '.join(sorted(others)[:5])}")


def _told_of(home: Path) -> str:
    """The model that `mendflow up` was told of; empty if none, or if that cannot be read."""
    from flows.told import last_told

    try:
        return last_told(home.absolute() / FOLDER).model
    except UserError:
        return ""


def collect(
    name: Name,
    source: Annotated[Path | None, typer.Option(help="A .jsonl, .csv or .parquet file of reports.")] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the traces.")] = "mendflow",
    chat: Chat = True,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Take flagged errors into the ledger, from MLflow traces or from a file, and what reviewers answered."""
    from flows.review import read_reviews
    from flows.stages import collect_errors
    from tasks.collect import NoExperiment
    from tasks.ledger import Ledger
    from tasks.reporting import take_reports

    settings = settings_of(
        name, home, tracking=tracking, ledger=ledger, source=source, experiment=experiment, chat=chat
    )
    use_running_server(home)
    with Ledger(settings.ledger) as book:
        reviewed = read_reviews.fn(settings, book)
    lines = [*reviewed.done, *reviewed.open]
    for line in lines:
        typer.echo(f"review: {line}")
    try:
        found = collect_errors.fn(settings)
    except NoExperiment:
        # What reviewers answered may be all that there is to collect.
        if not lines:
            raise
        return
    corrections = take_reports(found.reports, ledger_url=settings.ledger)
    for rejected in found.rejected:
        typer.echo(f"{rejected.source}: {rejected.reason}", err=True)
    table = Table("correction", "state", "prompt", "reason")
    for correction in corrections:
        table.add_row(correction.id, correction.state, escape(correction.prompt), escape(correction.reason))
    Console().print(table)
    typer.echo(
        f"{len(found.reports)} reports, {len(corrections)} corrections, {len(found.rejected)} unreadable"
    )


def corrections(
    name: Name,
    state: Annotated[list[State] | None, typer.Option(help="Only these; may be given again.")] = None,
    home: Home = HOME,
    ledger: LedgerUrl = "",
) -> None:
    """List a model's corrections with their ids, states and reasons."""
    from tasks.ledger import Ledger

    with Ledger(settings_of(name, home, ledger=ledger).ledger) as book:
        found = book.corrections(name, *(state or ()))
        others = [] if any(book.counts(name).values()) else sorted({*book.models()} - {name})
    table = Table()
    for heading in ("id", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("prompt", "wanted", "reason"):
        table.add_column(heading, overflow="fold")
    for one in found:
        by = f"answered by {one.answerer}" if one.answerer else ""
        never = "its output must never appear" if one.suppressed else ""
        texts = (one.prompt, one.desired_output or "", "; ".join(filter(None, (one.reason, by, never))))
        table.add_row(one.id, one.state, *map(escape, texts))
    if found:
        Console().print(table)
    counted = f"{len(found)} correction{'' if len(found) == 1 else 's'} of {name}"
    typer.echo(f"{counted}{' in state ' + ' or '.join(state) if state else ''}")
    if others:
        typer.echo(f"models with corrections are {', '.join(others[:5])}")


def answer(
    name: Name,
    correction: Id,
    expected: Annotated[str, typer.Option(help="What the model should have answered.")],
    who: Who = "",
    home: Home = HOME,
    ledger: LedgerUrl = "",
) -> None:
    """Say what the right answer is to a report that came without one (state needs_answer).

    A program's answer may be answered too: a person's word takes its place.
    """
    from tasks.ledger import Ledger

    with Ledger(settings_of(name, home, ledger=ledger).ledger) as book:
        id_ = book.id_of(correction, model_name=name)
        answered = book.answer(id_, expected, who or user(), model_name=name)
    one = "" if answered.id == id_ else f"{id_} answered, as correction "
    typer.echo(f"{one}{_told(answered)}")


def choose(name: Name, correction: Id, who: Who = "", home: Home = HOME, ledger: LedgerUrl = "") -> None:
    """Choose a correction over others that contradict it, or over the checks that hold it.

    The others are set aside, and no check of what it says holds it again. A choice may be changed: choose
    the other one.
    """
    from tasks.ledger import Ledger

    with Ledger(settings_of(name, home, ledger=ledger).ledger) as book:
        id_ = book.id_of(correction, model_name=name)
        before, counts = book.get(id_, model_name=name), book.counts(name)
        chosen = book.resolve(id_, who or user(), model_name=name)
        if (chosen, book.counts(name)) == (before, counts):
            raise UserError(f"correction {id_} is {chosen.state} and was chosen already")
    typer.echo(_told(chosen))


def retire(
    name: Name,
    correction: Id,
    why: Why,
    who: Who = "",
    home: Home = HOME,
    ledger: LedgerUrl = "",
) -> None:
    """Withdraw a correction: the next `mendflow correct` solves without it, and the model's answer goes back.

    Reporting the error again takes it back, and so does a rollback to a version from before.
    """
    from tasks.ledger import Ledger

    with Ledger(settings_of(name, home, ledger=ledger).ledger) as book:
        id_ = book.id_of(correction, model_name=name)
        before = book.get(id_, model_name=name)
        if before.state is State.RETIRED:
            raise UserError(f"correction {id_} is retired already: {before.reason}")
        reason = f"withdrawn by {who or user()}: {why}"
        book.transition(id_, State.RETIRED, reason, model_name=name)
    typer.echo(f"{id_} retired")
    again = f"mendflow correct {shlex.quote(name)}{typed(home, ledger=ledger)}"
    if before.state is State.ACTIVE:
        typer.echo(f"the champion holds it still; `{again}` solves again without it")
    elif before.state is State.FAILED:
        typer.echo(f"if an override answers it, `{again}` takes that away")


def history(name: Name, correction: Id, home: Home = HOME, ledger: LedgerUrl = "") -> None:
    """Show how a correction came to its state: every change with its time and reason."""
    from tasks.ledger import Ledger

    with Ledger(settings_of(name, home, ledger=ledger).ledger) as book:
        one = book.get(book.id_of(correction, model_name=name), model_name=name)
        steps = book.history(one.id, model_name=name)
    table = Table("when (UTC)", "from", "to", "reason")
    for step in steps:
        table.add_row(
            f"{step.at:%Y-%m-%d %H:%M:%S}", step.from_state or "", step.to_state, escape(step.reason)
        )
    console = Console(highlight=False)
    console.print(f"{one.id}: {escape(one.prompt)} -> {escape(one.desired_output or '?')}")
    console.print(table)


def _told(correction: Correction) -> str:
    """Where a correction stands, in a line."""
    reason = f": {correction.reason}" if correction.reason else ""
    return f"{correction.id} {correction.state}{reason}"
