"""What a person watching sees: a line for every stage, and a bar where they wait; in a log, lines alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from tasks.records import Rejected

ReportProgress = Callable[[int, int, str], None]
# Seconds between two lines about one stage where there is no terminal to show a bar on.
BETWEEN_LINES = 20.0
_MARKS = {
    "passed": "[green]pass[/]",
    "failed": "[red]FAIL[/]",
    "insufficient": "[yellow]too few[/]",
    "not_applicable": "no rows",
}


class Narrator:
    """Tells the story of a run and keeps how long its stages took, in seconds, in order.

    `going_on` is called with a stage's name when it begins and whenever it says how far it is: a run keeps
    its lease by it. `redact` takes out of what is said what others may not read.
    """

    def __init__(
        self,
        console: Console | None = None,
        going_on: Callable[[str], None] | None = None,
        *,
        redact: Callable[[str], str] = str,
    ) -> None:
        self.console = console or Console(highlight=False)
        self._going_on = going_on or (lambda _: None)
        self._redact = redact
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, told: str) -> Iterator[ReportProgress]:
        """One stage with its progress; its time is added to what the stage took before."""
        self._going_on(told)
        started, stage, told = time.perf_counter(), told, escape(told)
        shown = self._bar(told) if self.console.is_terminal else self._lines(told, started)
        with shown as show:

            def report(done: int, total: int, note: str = "") -> None:
                self._going_on(stage)
                show(done, total, note)

            yield report
        seconds = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._print(f"[green]✓[/] {told} [dim]{seconds:.1f} s[/]")

    def say(self, text: str) -> None:
        """One line of the story, in which a model's words may stand: brackets are brackets."""
        self._print(f"  {escape(self._redact(text))}")

    def warn(self, text: str) -> None:
        """A line about what may go less well than the user thinks; nothing if it is empty."""
        if text:
            self._print(f"  [yellow]warning:[/] {escape(self._redact(text))}")

    def left_out(self, rejected: Iterable[Rejected]) -> None:
        """A line about each entry of a file or trace that cannot be used."""
        for one in rejected:
            self.say(f"left out {one.source}: {one.reason}")

    @contextmanager
    def _bar(self, told: str) -> Iterator[ReportProgress]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(told, total=None, note="")

            def report(done: int, total: int, note: str = "") -> None:
                bars.update(bar, completed=done, total=total, note=note)

            yield report

    @contextmanager
    def _lines(self, told: str, started: float) -> Iterator[ReportProgress]:
        """What a log is told: that the stage begins, and now and then how far it is."""
        last = started
        self._print(f"{told} ...")

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last >= BETWEEN_LINES:
                last = now
                parts = f"{done} of {total}", escape(" ".join(note.split())), f"{now - started:.0f} s"
                self._print(f"  {told}: {', '.join(filter(None, parts))}")

        yield report

    def _print(self, text: str) -> None:
        # A line of a log is a line, however long it is.
        self.console.print(text, soft_wrap=not self.console.is_terminal)


def gate_table(title: str, metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """The gates of a result's metrics, in 80 columns whole; where there are fewer, what is long is folded."""
    # Edges and most of the padding are left out: the longest names and intervals take the room.
    table = Table(title=escape(title), box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("gate", "value", "95 % interval", "threshold", ""):
        table.add_column(column, overflow="fold")
    for name, metric in metrics.items():
        if metric["severity"] is None:
            continue
        low, high = (f"{float(metric[bound]):.3f}" for bound in ("low", "high"))
        threshold = "" if metric["threshold"] is None else f"{float(metric['threshold']):.3g}"
        mark = _MARKS.get(metric["status"], metric["status"])
        value = "" if mark == _MARKS["not_applicable"] else f"{float(metric['value']):.3f}"
        interval = "" if low == "nan" or not value else f"{low} to {high}"
        table.add_row(escape(name), value, interval, threshold, mark)
    return table
