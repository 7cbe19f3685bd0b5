"""A version for those who ask it: served here, or written for other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    HOME,
    Canary,
    Home,
    LedgerUrl,
    Name,
    Shadow,
    Tracking,
    prepare_prefect,
    settings_of,
)
from flows.cli.versions import require_version
from flows.settings import NOTIFY_VARIABLE, REDACT_VARIABLE
from tasks.records import UserError


def export(
    name: Name,
    out: Annotated[Path, typer.Option(help="A new folder to write to.")],
    version: Annotated[int | None, typer.Option(min=1, help="A version's number.")] = None,
    alias: Annotated[str, typer.Option(help="Or its alias; by default the champion.")] = "",
    adapter: Annotated[
        int | None,
        typer.Option(min=1, metavar="RANK", help="Write a LoRA adapter of at most this rank instead."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier export.")] = False,
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Write a version as a full Hugging Face checkpoint, or as a LoRA adapter with its error stated."""
    from flows.export import export as export_version

    if version is not None and alias:
        raise UserError(f"--version {version} and --alias {alias} both name a version; leave one out")
    settings = settings_of(name, home, tracking=tracking, ledger=ledger)
    require_version(settings, home, named=bool(tracking))
    done = export_version(settings, str(version or alias or "champion"), out, rank=adapter, replace=replace)
    if done.adapter is None:
        typer.echo(f"version {done.version} of {name} is a full checkpoint in {out}")
        if done.overrides:
            typer.echo(
                f"{done.overrides} overrides stand beside it in {out / 'overrides.json'}: its weights do not "
                "hold them, and whoever serves it has to give them"
            )
        return
    report = done.adapter
    matrix, largest = report.largest
    typer.echo(f"version {done.version} of {name} is an adapter of rank {report.rank} in {out}")
    for parameter, error in sorted(report.errors.items(), key=lambda item: -item[1]):
        typer.echo(f"  {error:.2e}  {parameter}")
    typer.echo(f"largest relative error (Frobenius norm): {largest:.2e}, of {matrix}")
    if not report.asked:
        typer.echo("the ledger holds no prompt of this version's corrections: no answer was compared")
        return
    typer.echo(
        f"{report.agree} of {report.asked} prompts of its corrections are answered as by the full delta"
    )
    for prompt, right, said in report.differing:
        typer.echo(f"  {prompt!r}: {right!r}, with the adapter {said!r}")


def serve(
    name: Name,
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address; one that other machines reach needs a key.")] = (
        "127.0.0.1"
    ),
    shadow: Shadow = 0.0,
    canary: Canary = 0.0,
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the traces.")] = "mendflow",
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the champion.")] = 5.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 1024,
    at_once: Annotated[int, typer.Option(min=1, max=36, help="Most requests under way.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for CUDA where there is one.")] = "auto",
    redact: Annotated[
        Path | None,
        typer.Option(help="File of what traces do not show, besides secrets.", envvar=REDACT_VARIABLE),
    ] = None,
    notify: Annotated[
        str, typer.Option(help="Notification block to tell of a withdrawn canary by.", envvar=NOTIFY_VARIABLE)
    ] = "",
    home: Home = HOME,
    tracking: Tracking = "",
    ledger: LedgerUrl = "",
) -> None:
    """Serve the champion as OpenAI's API does, with tracing on; a new champion takes over by itself.

    A version that waits for approval may be tried meanwhile, in shadow or as a canary.
    """
    import torch

    from flows.serve import Shares
    from flows.serve import serve as serve_model
    from tasks.live_server import Limits

    cuda = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not cuda):
        raise UserError(f"there is no device {device!r} here; name cpu, cuda or auto")
    settings = settings_of(
        name, home, tracking=tracking, ledger=ledger, experiment=experiment, redact=redact, notify=notify
    )
    shares = Shares(shadow, canary)
    if canary and settings.notify:
        prepare_prefect(home)
    typer.echo(f"{name} is served at http://{host}:{port}/v1 as soon as it is loaded; Ctrl-C ends it")
    serve_model(
        settings,
        Limits(tokens=max_tokens, at_once=at_once),
        host=host,
        port=port,
        shares=shares,
        poll_seconds=poll,
        device="cuda" if cuda and device != "cpu" else "cpu",
    )
