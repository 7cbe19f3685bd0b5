"""Housekeeping: what may go, and its removal."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from flows.cli.options import HOME, Home, LedgerUrl, Name, Tracking, settings_of
from flows.cli.versions import registered, require_known, require_stores


def clean(
    name: Name,
    keep: Annotated[
        int, typer.Option(min=1, help="How many stay whatever their age: champions, other versions, runs.")
    ] = 10,
    days: Annotated[float, typer.Option(min=0, help="What is younger stays too.")] = 30.0,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it; without this it is only listed.")
    ] = False,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """List old versions and caches of a model that nothing needs; remove them with --remove.

    What serves, may be rolled back to or waits for approval stays, and so does all of the ledger.
    """
    from flows.clean import clean as clean_up
    from tasks.ledger import Ledger

    settings = settings_of(name, home, tracking=tracking, ledger=ledger)
    known = (home / "runs" / name).is_dir()
    if not known:
        require_stores(settings, home, named=bool(tracking))
        with Ledger(settings.ledger) as book:
            known = any(book.counts(name).values())
    require_known(name, home, known or registered(settings, named=bool(tracking)).versions)
    found = clean_up(settings, keep=keep, days=days, remove_them=remove)
    table = Table("what", "last changed (UTC)", "size", title=name)
    table.add_column("which", overflow="fold")
    for one in found:
        table.add_row(one.what, f"{one.at:%Y-%m-%d %H:%M}", decimal(one.bytes), escape(one.name))
    if found:
        Console(highlight=False).print(table)
    size = decimal(sum(one.bytes for one in found))
    if remove or not found:
        typer.echo(f"{len(found)} removed, {size}" if found else "nothing may go")
    else:
        more = ("--keep", str(keep), "--days", f"{days:g}", "--remove")
        typer.echo(f"{len(found)} may go, {size}: `{settings.command('clean', *more)}` removes them")
