"""A model's versions: what there is, and which one serves."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.options import (
    DEMO_HOME,
    HOME,
    Chat,
    Home,
    LedgerUrl,
    Name,
    Tracking,
    Who,
    Why,
    prepare_prefect,
    settings_of,
    typed,
    user,
)
from tasks.records import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from flows.settings import CorrectSettings
    from tasks.registry import RegisteredModel

Waiting = Annotated[str | None, typer.Option(help="A version; by default the newest that waits.")]

# What the figure means that `explain` gives to a correction which is only near.
_ALIKE = "alike: what words the prompts share, from 0 to 1 (all); 0.3 and less is often chance"


def explain(
    name: Name,
    prompt: Annotated[str, typer.Argument(help="What the model is asked.")],
    nearest: Annotated[int, typer.Option(min=0, help="How many corrections that are only near.")] = 5,
    chat: Chat = True,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Show which corrections touch a prompt, and what base, champion and candidate answer to it."""
    from tasks.explain import answers, touching
    from tasks.explain import versions as versions_of
    from tasks.ledger import Ledger
    from tasks.tracking import has_store

    settings = settings_of(name, home, tracking=tracking, ledger=ledger)
    require_stores(settings, home, named=bool(tracking))
    with Ledger(settings.ledger) as book:
        corrections = book.corrections(name)
    require_known(name, home, corrections or registered(settings, named=bool(tracking)).versions)
    found = touching(prompt, corrections, nearest=nearest)
    table = Table(title="corrections", caption=_ALIKE if not all(one.phrasing for one in found) else None)
    for heading in ("id", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("touches it", "prompt", "wanted", "reason"):
        table.add_column(heading, overflow="fold")
    for one in found:
        correction = one.correction
        how = f"as {one.phrasing!r}" if one.phrasing else f"{one.similarity:.2f} alike"
        texts = (how, correction.prompt, correction.desired_output or "", correction.reason)
        table.add_row(correction.id, correction.state, *map(escape, texts))
    console = Console(highlight=False)
    console.print(table if found else f"no correction of {escape(name)} touches it")
    # Errors are flagged before there is any version.
    if tracking or has_store(settings.tracking):
        models = versions_of(name, tracking_uri=settings.tracking, models=settings.home / "models")
        said = Table("who", "answers", title="answers")
        for who, answer in answers(prompt, models, chat=chat).items():
            said.add_row(who, escape(answer))
        console.print(said if models else f"{escape(name)} has no version yet")


def verify(
    name: Name,
    version: Annotated[str, typer.Option(help="A version; by default the champion.")] = "champion",
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Ask both models again too.")] = False,
    home: Home = HOME,
    tracking: Tracking = "",
) -> None:
    """Check that a version's verdict follows from its inputs, and that none has changed since.

    Exit status 1, and a sentence about what differs, where it does not.
    """
    from flows.console import Narrator
    from tasks.evidence import evidence_of
    from tasks.registry import resolve_version
    from tasks.verify import VerdictDiffersError
    from tasks.verify import verify as verify_verdict

    settings = settings_of(name, home, tracking=tracking)
    require_version(settings, home, named=bool(tracking))
    number = resolve_version(name, version, tracking_uri=settings.tracking)
    try:
        with Narrator(Console(stderr=True, highlight=False)).stage("verify", "Verify") as progress:
            decision = verify_verdict(
                name,
                number,
                tracking_uri=settings.tracking,
                models=settings.home / "models",
                evidence=evidence_of(settings.home),
                remeasure=remeasure,
                progress=progress,
            )
    except VerdictDiffersError as error:
        typer.echo(f"the verdict on version {number} of {name} does not hold: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"the verdict on version {number} of {name} holds: {decision.verdict.value}, the same from its "
        f"{len(decision.digests)} inputs, each with its digest{', and measured again' if remeasure else ''}"
    )


def promote(
    name: Name,
    version: Annotated[str | None, typer.Option(help="A version; by default the candidate.")] = None,
    who: Who = "",
    why: Why = "",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Make the candidate, or a named version, the champion."""
    settings = _ready(name, home, tracking, ledger)
    from flows.promote import promote as promote_flow

    number = promote_flow(settings, version, who or user(), why)
    typer.echo(f"champion of {name} is version {number}")


def approve(
    name: Name,
    why: Why,
    version: Waiting = None,
    who: Who = "",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Promote a version that passed its gates and waits for a person's word."""
    settings = _ready(name, home, tracking, ledger)
    from flows.approve import approve as approve_flow

    number = approve_flow(settings, who or user(), why, version)
    typer.echo(f"champion of {name} is version {number}")


def reject(
    name: Name,
    why: Why,
    version: Waiting = None,
    who: Who = "",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Refuse a version that waits for a person's word: it is never promoted.

    The corrections that it alone holds are set aside as quarantined; choose those that the next run is to try
    again.
    """
    settings = _ready(name, home, tracking, ledger)
    from flows.approve import reject as reject_flow

    number = reject_flow(settings, who or user(), why, version)
    typer.echo(f"version {number} of {name} is rejected")
    stores = typed(home, ledger=ledger)
    listed = f"mendflow corrections {shlex.quote(name)} --state quarantined{stores}"
    again = f"mendflow choose {shlex.quote(name)} ID{stores}"
    typer.echo(f"`{listed}` lists what was set aside; `{again}` has the next run try it again")


def rollback(
    name: Name,
    who: Who = "",
    why: Why = "rolled back by hand",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Put the previous champion back; again, and it goes forward."""
    settings = _ready(name, home, tracking, ledger)
    from flows.promote import rollback as rollback_flow
    from tasks.ledger import Ledger
    from tasks.promotion_log import ROLLBACK

    number = rollback_flow(settings, who or user(), why)
    with Ledger(settings.ledger) as book:
        rows = [row for row in book.promotion_log(name) if (row.action, row.to_version) == (ROLLBACK, number)]
    left = str(rows[-1].from_version)
    way = "forward again" if int(number) > int(left) else "back"
    typer.echo(f"champion of {name} is version {number}, {way} from {left}")
    again = f"mendflow rollback {shlex.quote(name)}{typed(home, tracking=tracking, ledger=ledger)}"
    typer.echo(
        f"corrections that it holds are active now, and those that it does not are retired; `{again}` brings "
        f"version {left} back"
    )


def registered(settings: CorrectSettings, *, named: bool) -> RegisteredModel:
    """The model as the registry has it; without versions where there is no store and none was named."""
    from tasks.registry import RegisteredModel, describe
    from tasks.tracking import has_store

    # Errors are flagged and collected before there is any store.
    if named or has_store(settings.tracking):
        return describe(settings.model_name, tracking_uri=settings.tracking)
    return RegisteredModel(settings.model_name)


def require_stores(settings: CorrectSettings, home: Path, *, named: bool) -> None:
    """Refuse a home with neither a ledger nor the model: who only looks must not make an empty ledger."""
    from tasks.tracking import has_store

    if not has_store(settings.ledger):
        require_known(settings.model_name, home, registered(settings, named=named).versions)


def require_known(name: str, home: Path, anything: object) -> None:
    """Refuse a model of which there is neither a version nor a correction: its name or home is misspelt."""
    if not anything:
        raise UserError(
            f"nothing is known of a model {name!r} in {home}: name its home with --home (the demo's is "
            f"{DEMO_HOME}), report an error with `mendflow flag`, or begin with `mendflow correct`"
        )


def require_version(settings: CorrectSettings, home: Path, *, named: bool) -> None:
    """Refuse a model without a version, in a home without a registry too."""
    if not registered(settings, named=named).versions:
        raise UserError(
            f"the model {settings.model_name!r} has no version in {home}: name its home with --home (the "
            f"demo's is {DEMO_HOME}), or begin with `mendflow correct`"
        )


def _ready(name: str, home: Path, tracking: str, ledger: str) -> CorrectSettings:
    """The settings of a flow over versions, and Prefect ready for it; a model without any is refused."""
    settings = settings_of(name, home, tracking=tracking, ledger=ledger)
    prepare_prefect(home)
    require_version(settings, home, named=bool(tracking))
    return settings
