"""Runs in processes of their own that die, or find no more room on their disk, on the way.

A process that dies leaves what it had changed in its stores. So deaths are drawn from the changes that a run
makes (a file opened for writing, moved or removed, a statement or commit of a database), and from its time,
for libraries that write without Python seeing it.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.cli import in_words
from flows.correct import correct
from flows.settings import CorrectSettings
from tasks import validate
from tasks.records import UserError
from tests.flows.conftest import measure_here
from tests.flows.invariants import broken_after, broken_always, report_more, reported, state_of
from tests.forking import forked

REFUSED = 2
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FILE_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


@dataclass(frozen=True)
class Death:
    """When a process kills itself: before its change of this number, or after so many seconds.

    Where `fills` names a file, this grows until the disk is full instead, and the process lives on.
    """

    change: int | None = None
    seconds: float | None = None
    fills: Path | None = None

    def __str__(self) -> str:
        return f"change {self.change}" if self.seconds is None else f"{self.seconds:.2f} s"

    def come(self) -> None:
        if self.fills is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            fill(self.fills)


def fill(file: Path, free: int = 0) -> None:
    """Let a file take what its disk has left, but for so many bytes."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    taken = os.fstat(descriptor).st_size
    os.posix_fallocate(descriptor, 0, taken + shutil.disk_usage(file.parent).free - free)
    os.close(descriptor)


@dataclass(frozen=True)
class Run:
    """How a run ended: its exit code, its seconds and changes, the stage that it was in, and what it said."""

    code: int
    seconds: float
    changes: int
    stage: str
    said: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def run(settings: CorrectSettings, log: Path, death: Death | None = None, *, limit: float = 240) -> Run:
    """The flow in a process of its own, until its end or its death; what it says is in the log."""
    log.write_text("")
    began = time.perf_counter()
    process = forked(_work, settings, str(PREFECT_API_URL.value()), log, death or Death())
    process.join(limit)
    assert process.exitcode is not None, "the run hangs"
    said = log.read_text()
    changes = re.search(r"^changes (\d+)$", said, re.MULTILINE)
    seconds = time.perf_counter() - began
    return Run(process.exitcode, seconds, int(changes[1]) if changes else 0, _stage(said), said)


def _stage(said: str) -> str:
    """The stage that was under way at the end of what a run has said."""
    begun = re.findall(r"^(\S.*) \.\.\.$", said, re.MULTILINE)
    ended = set(re.findall(r"^✓ (.*) [\d.]+ s$", said, re.MULTILINE))
    if not begun:
        return "before the first stage"
    return f"after: {begun[-1]}" if begun[-1] in ended else str(begun[-1])


def _work(settings: CorrectSettings, server: str, log: Path, death: Death) -> None:
    out = log.open("a", buffering=1)
    os.dup2(out.fileno(), 1)
    sys.stdout = out
    validate._in_fresh_process = measure_here
    # Where MLflow puts the artifacts of a store that is not on SQLite.
    os.chdir(settings.home)
    changes = _count_changes(settings.home, death)
    if death.seconds is not None:
        timer = threading.Timer(death.seconds, death.come)
        timer.daemon = True
        timer.start()
    ours = {PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    try:
        with temporary_settings(ours), in_words():
            correct(settings)
    except UserError as error:
        out.write(f"refused: {error}\n")
        sys.exit(REFUSED)
    except BaseException:
        out.write(traceback.format_exc())
        raise
    out.write(f"changes {changes[0]}\n")


def _count_changes(home: Path, death: Death) -> list[int]:
    """Count, from now on, every change that this process is about to make; die before one of them."""
    counted, numbers, own = [0], itertools.count(1), os.getpid()

    def change(*_: Any) -> None:
        if os.getpid() == own:
            counted[0] = next(numbers)
            if counted[0] == death.change:
                death.come()

    def statement(_: object, __: object, text: str, *___: object) -> None:
        if not text.lstrip().upper().startswith(("SELECT", "PRAGMA", "SHOW")):
            change()

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if mode else bool((flags or 0) & _WRITES)
            if writes and isinstance(path, str | os.PathLike) and str(path).startswith(str(home)):
                change()
        elif event in _FILE_EVENTS and str(arguments[0]).startswith(str(home)):
            change()

    sa.event.listen(sa.Engine, "before_cursor_execute", statement)
    sa.event.listen(sa.Engine, "commit", change)
    sys.addaudithook(audited)
    return counted


@dataclass
class Rounds:
    """Rounds of new reports, each one corrected at once in a home that is left alone, and in another not."""

    settings: CorrectSettings
    calm: CorrectSettings
    reports: Path
    log: Path
    deaths: list[tuple[Death, Run]] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    def go_on(self, draw: Callable[[Run], Death], wanted: int, in_a_row: int) -> None:
        """Until there were so many deaths, drawn by what an undisturbed run did, so many of them in a row."""
        while len(self.deaths) < wanted:
            report_more(self.reports, len(self.recoveries))
            undisturbed = run(self.calm, self.log)
            assert undisturbed.code == 0, undisturbed.said
            before = len(self.deaths)
            while len(self.deaths) < min(before + in_a_row, wanted):
                death = draw(undisturbed)
                ended = run(self.settings, self.log, death)
                if death.fills is not None:
                    death.fills.unlink(missing_ok=True)
                assert ended.killed or ended.code in (0, REFUSED), ended.said
                assert not broken_always(self.settings), str(death)
                # A run that finds work done has fewer changes left, and may end before its death.
                if ended.code == 0:
                    break
                self.deaths.append((death, ended))
            self.recover()

    def recover(self) -> None:
        """A run that nothing disturbs ends where the one that was left alone did."""
        recovered = run(self.settings, self.log)
        assert recovered.code == 0, recovered.said
        self.recoveries.append(recovered.seconds)
        assert not broken_after(self.settings, reported(self.reports))
        assert state_of(self.settings) == state_of(self.calm)

    def told(self) -> str:
        """Where the deaths were, for the table of docs/crashes.md."""
        count, slowest = len(self.deaths), max(self.recoveries)
        said = [f"{count} deaths in {len(self.recoveries)} rounds; recoveries of {slowest:.1f} s at most"]
        stages = Counter(ended.stage for _, ended in self.deaths)
        return "\n".join(["", *said, *(f"| {stage} | {n} |" for stage, n in stages.most_common())])
