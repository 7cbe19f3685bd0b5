"""What a person watching sees: a line for every stage, and a bar where they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

ReportProgress = Callable[[int, int, str], None]


class Narrator:
    """Tells the story of a run and keeps how long its stages took, in seconds, in order."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, told: str) -> Iterator[ReportProgress]:
        """One stage with its progress bar; its time is added to what the stage took before."""
        started = time.perf_counter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bars:
            bar = bars.add_task(told, total=None, note="")

            def report(done: int, total: int, note: str = "") -> None:
                bars.update(bar, completed=done, total=total, note=note)

            yield report
        seconds = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.console.print(f"[green]✓[/] {told} [dim]{seconds:.1f} s[/]")

    def say(self, text: str) -> None:
        """One line of the story."""
        self.console.print(f"  {text}")
