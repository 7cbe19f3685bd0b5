"""Processes that outlive the command that starts them, found again by a file and stopped with their own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks.processes import mark_of
from tasks.records import UserError

# Where processes have no mark, their start is known by the clock, and each time a little differently.
_CLOCK_SECONDS = 1.0
_POLL_SECONDS = 0.1
# A new server makes its database first, which takes a busy machine half a minute.
START_SECONDS = 180.0
_ASK_SECONDS = 0.5


@dataclass(frozen=True)
class Background:
    """One process: NAME.json in the folder says which it is, NAME.log what it says."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        """What it wrote to standard output and error, of all its starts."""
        return self.folder / f"{self.name}.log"

    @property
    def about(self) -> dict[str, Any]:
        """What was written down when it was started; empty if it was not."""
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def start(self, command: Sequence[str], environment: Mapping[str, str], **about: str) -> None:
        """Start it, out of reach of signals to this command's process group."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=self.folder,
                start_new_session=True,
            )
        started = psutil.Process(process.pid).create_time()
        known = {"pid": process.pid, "started": started, "process": mark_of(process.pid), **about}
        unfinished = self._file.with_suffix(".partial")
        unfinished.write_text(json.dumps(known))
        os.replace(unfinished, self._file)
        # It is not waited for: that would warn, and it is to go on.
        process.returncode = 0

    def running(self) -> psutil.Process | None:
        """The process, if it runs; not another one that has got its number since."""
        about = self.about
        try:
            process = psutil.Process(int(about["pid"]))
            same = (
                mark_of(process.pid) == about["process"]
                if about.get("process")
                else abs(process.create_time() - float(about["started"])) < _CLOCK_SECONDS
            )
        except (psutil.Error, KeyError, TypeError, ValueError):
            return None
        return process if same and not _ended(process) else None

    def variables(self) -> dict[str, str]:
        """The environment it was given; empty if it does not run, or the system does not tell."""
        process = self.running()
        return variables_of(process) if process is not None else {}

    def stop(self, grace_seconds: float) -> bool:
        """End it and every process that it has started, by force after so many seconds; whether it ran."""
        process = self.running()
        if process is not None:
            family = [process]
            # What a server or worker leaves behind would hold its port, or go on with a run; a run that is
            # told to end can say so to the server.
            _end(family, "terminate", grace_seconds, alone=True)
            _end(family, "terminate", grace_seconds)
            _end(family, "kill", grace_seconds)
        self._file.unlink(missing_ok=True)
        return process is not None

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.json"


def variables_of(process: psutil.Process) -> dict[str, str]:
    """The environment it was given; empty if it has ended, or the system does not tell."""
    try:
        return process.environ()
    except psutil.Error:
        return {}


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """All that it has started and that runs, and what those have."""
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _ended(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits to be buried."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _end(family: list[psutil.Process], method: str, seconds: float, *, alone: bool = False) -> None:
    """Tell the first of a family to end, or all, and wait; what they start meanwhile joins the family."""
    _add_children(family)
    _each(family[:1] if alone else family, method)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(_ended, family[:1] if alone else family)):
        time.sleep(_POLL_SECONDS)
        known = len(family)
        _add_children(family)
        if not alone:
            _each(family[known:], method)


def _add_children(family: list[psutil.Process]) -> None:
    for member in list(family):
        family += [child for child in children_of(member) if child not in family]


def _each(processes: Iterable[psutil.Process], method: str) -> None:
    for process in processes:
        try:
            # Psutil refuses where the number is another process's by now.
            getattr(process, method)()
        except psutil.NoSuchProcess:
            continue


def wait_for(part: Background, url: str, **fields: str) -> None:
    """Wait until an address answers, with these fields.

    Raises:
        UserError: the part that it waits for has ended, or takes too long; its last words are in the message.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url, **fields):
        ended = part.running() is None
        if ended or time.monotonic() > deadline:
            said = [line.strip() for line in part.log.read_text(errors="replace").splitlines()]
            last = next(filter(None, reversed(said)), "it said nothing")
            what = "has ended" if ended else f"does not answer after {START_SECONDS:.0f} seconds"
            raise UserError(f"{part.name} {what} ({last}); see {part.log}")
        time.sleep(_ASK_SECONDS)


def _answers(url: str, **fields: str) -> bool:
    """Whether a server answers at this address, with these fields in its JSON."""
    import httpx

    try:
        answer = httpx.get(url, timeout=5.0, trust_env=False)
        said = answer.json() if fields else {}
    except (httpx.HTTPError, ValueError):
        return False
    return answer.is_success and all(said.get(name) == value for name, value in fields.items())
