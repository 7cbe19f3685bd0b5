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

from flows.cli.faults import in_words
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


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Fault:
    """What befalls a process before its change of this number, or after so many seconds."""

    change: int | None = None
    seconds: float | None = None
    does: Callable[[], None] = die

    def __str__(self) -> str:
        return f"change {self.change}" if self.seconds is None else f"{self.seconds:.2f} s"


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


def run(settings: CorrectSettings, log: Path, fault: Fault | None = None, *, limit: float = 600) -> Run:
    """The flow in a process of its own, until its end or its death; what it says is in the log."""
    log.write_text("")
    began = time.perf_counter()
    process = forked(_work, settings, str(PREFECT_API_URL.value()), log, fault or Fault())
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


def _work(settings: CorrectSettings, server: str, log: Path, fault: Fault) -> None:
    out = log.open("a", buffering=1)
    os.dup2(out.fileno(), 1)
    sys.stdout = out
    validate._in_fresh_process = measure_here
    # Where MLflow puts the artifacts of a store that is not on SQLite.
    os.chdir(settings.home)
    changes = _count_changes(settings.home, fault)
    if fault.seconds is not None:
        timer = threading.Timer(fault.seconds, fault.does)
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


def _count_changes(home: Path, fault: Fault) -> list[int]:
    """Count, from now on, every change that this process is about to make; the fault comes before one."""
    counted, numbers, own = [0], itertools.count(1), os.getpid()

    def change(*_: Any) -> None:
        if os.getpid() == own:
            counted[0] = next(numbers)
            if counted[0] == fault.change:
                fault.does()

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
    """Rounds of new reports, each one corrected at once in a home that is left alone, and in another not.

    `mend` puts right what a fault has left when its run has ended.
    """

    settings: CorrectSettings
    calm: CorrectSettings
    reports: Path
    log: Path
    mend: Callable[[], object] = bool
    ended: list[tuple[Fault, Run]] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    def go_on(self, draw: Callable[[Run], Fault], wanted: int, in_a_row: int) -> None:
        """Until a fault ended so many runs, so many in a row; it is drawn by what an undisturbed run did."""
        while len(self.ended) < wanted:
            undisturbed = self.begin()
            before = len(self.ended)
            while len(self.ended) < min(before + in_a_row, wanted):
                # A run that finds work done has fewer changes left, and may end before its fault.
                if not self.suffer(draw(undisturbed)):
                    break
            self.recover()

    def begin(self) -> Run:
        """New reports, and the run that is left alone."""
        report_more(self.reports, len(self.recoveries))
        undisturbed = run(self.calm, self.log)
        assert undisturbed.code == 0, undisturbed.said
        return undisturbed

    def suffer(self, fault: Fault, *, stores: bool = True) -> bool:
        """Whether a run was ended by the fault: killed, or with a sentence of what had failed.

        `stores`: whether they can be looked into afterwards.
        """
        ended = run(self.settings, self.log, fault)
        self.mend()
        assert ended.killed or ended.code in (0, REFUSED), ended.said
        assert not (stores and broken_always(self.settings)), str(fault)
        if ended.code:
            self.ended.append((fault, ended))
        return bool(ended.code)

    def recover(self) -> Run:
        """A run that nothing disturbs ends where the one that was left alone did."""
        recovered = run(self.settings, self.log)
        assert recovered.code == 0, recovered.said
        self.recoveries.append(recovered.seconds)
        assert not broken_after(self.settings, reported(self.reports))
        assert state_of(self.settings) == state_of(self.calm)
        return recovered

    def told(self) -> str:
        """Where runs were ended, for the table of docs/crashes.md."""
        stages = Counter(ended.stage for _, ended in self.ended)
        said = [
            f"{len(self.ended)} runs were ended, in {len(self.recoveries)} rounds of reports; "
            f"the runs after them took {max(self.recoveries):.1f} s at most"
        ]
        return "\n".join(["", *said, *(f"| {stage} | {count} |" for stage, count in stages.most_common())])
