"""How a model stands: its versions, its corrections, its last promotions, and what is at work."""

from __future__ import annotations

import shlex

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.options import HOME, Home, LedgerUrl, Name, Tracking, settings_of, typed
from flows.cli.versions import registered, require_known, require_stores
from tasks import approval
from tasks.records import State

# States in which a correction waits for a person, and the command that deals with it.
_WAITING = (
    (State.NEEDS_ANSWER, "waiting for an answer", "answer {} ID --expected TEXT"),
    (State.CONFLICTING, "contradicting each other", "choose {} ID"),
)

# What `mendflow serve` found out about a version that waits.
_TRIED = {
    "mendflow.shadow": "in shadow",
    "mendflow.canary": "as canary",
    "mendflow.canary_withdrawn": "withdrawn as canary",
}


def status(name: Name, home: Home = HOME, tracking: Tracking = "", ledger: LedgerUrl = "") -> None:
    """Show a model's versions, its corrections by state, its last promotions, and what is at work on it."""
    from tasks.ledger import Ledger
    from tasks.verdicts import REASON_TAG, VERDICT_TAG

    settings = settings_of(name, home, tracking=tracking, ledger=ledger)
    require_stores(settings, home, named=bool(tracking))
    console = Console()
    with Ledger(settings.ledger) as book:
        model = registered(settings, named=bool(tracking))
        found = model.versions
        counts = book.counts(name)
        require_known(name, home, found or any(counts.values()))
        versions = Table("version", "alias", "delta", "verdict", "promoted by", "approval", title=name)
        for version in found:
            tags = version.tags
            versions.add_row(
                version.number,
                ", ".join(version.aliases),
                tags.get("mendflow.delta_digest", "")[:12],
                tags.get(VERDICT_TAG, ""),
                escape(tags.get("mendflow.promoted_by", "")),
                escape(tags.get(approval.TAG, "")),
            )
        console.print(versions)
        # One that holds several leases is at work once.
        for holder, since in dict(reversed(book.at_work(name))).items():
            typer.echo(f"at work since {since:%Y-%m-%d %H:%M} UTC: {holder}")
        if found and (newest := found[-1]).number != model.champion and REASON_TAG in newest.tags:
            typer.echo(f"verdict on version {newest.number}: {newest.tags[REASON_TAG]}")
        for version in found:
            if approval.waits(version.tags):
                decide = settings.decisions(version.number)
                typer.echo(f"version {version.number} waits for approval: {decide}")
                for tag, what in _TRIED.items():
                    if tag in version.tags:
                        typer.echo(f"version {version.number} {what}: {version.tags[tag]}")
        states = Table("state", "corrections")
        quoted = shlex.quote(name)
        for state, count in counts.items():
            if count:
                states.add_row(state, str(count))
        console.print(states)
        if counts[State.ACCEPTED]:
            stores = typed(home, tracking=tracking, ledger=ledger)
            first = "" if model.champion else " --base REF"
            solves = f"`mendflow correct {quoted}{first}{stores}` solves them"
            typer.echo(f"{counts[State.ACCEPTED]} accepted: the next {solves}")
        for state, told, command in _WAITING:
            if counts[state]:
                ids, stores = f"corrections {quoted} --state {state}", typed(home, ledger=ledger)
                typer.echo(
                    f"{counts[state]} {told}: `mendflow {command.format(quoted)}{stores}`, "
                    f"ids from `mendflow {ids}{stores}`"
                )
        if any(counts[state] for state, *_ in _WAITING):
            stores = typed(home, tracking=tracking, ledger=ledger)
            typer.echo(f"`mendflow review {quoted}{stores}` puts them up on MLflow's page")
        log = Table("when", "what", "from", "to", "who", "why", "phase")
        for row in book.promotion_log(name)[-8:]:
            when = f"{row.at:%Y-%m-%d %H:%M}"
            who, why = escape(row.who), escape(row.why)
            log.add_row(when, row.action, row.from_version, row.to_version, who, why, row.phase)
        console.print(log)
