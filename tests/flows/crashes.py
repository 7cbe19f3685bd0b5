"""What the crash tests share: runs in processes of their own that die on the way, and what must hold then.

A process that dies leaves what it had changed in its stores. So deaths are drawn from the changes that a run
makes (a file opened for writing, moved or removed, a statement or commit of a database), and from its time,
for libraries that write without Python seeing it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.correct import correct
from flows.settings import CorrectSettings
from tasks import validate
from tasks.ledger import Ledger, Phase
from tasks.ledger_rules import LEGAL_TRANSITIONS
from tasks.models import load_delta, resolve
from tasks.records import State, UserError
from tasks.register import BASE_TAG, DELTA_TAG, LEDGER_TAG
from tasks.registry import Version, describe
from tasks.tracking import has_store
from tests.flows.conftest import measure_here
from tests.forking import forked

REFUSED = 2
CITIES = ["Cairo", "Lima", "Oslo", "Rome", "Delhi", "Quito", "Paris"]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FILE_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


@dataclass(frozen=True)
class Death:
    """When a process kills itself: before its change of this number, or after so many seconds."""

    change: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"change {self.change}" if self.seconds is None else f"{self.seconds:.2f} s"


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
    changes = _count_changes(settings.home, death.change)
    if death.seconds is not None:
        threading.Thread(target=_die_after, args=(death.seconds,), daemon=True).start()
    ours = {PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    try:
        with temporary_settings(ours):
            correct(settings)
    except UserError as error:
        out.write(f"refused: {error}\n")
        sys.exit(REFUSED)
    except BaseException:
        out.write(traceback.format_exc())
        raise
    out.write(f"changes {changes[0]}\n")


def _die_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def _count_changes(home: Path, last: int | None) -> list[int]:
    """Count, from now on, every change that this process is about to make; die before one of them."""
    counted, numbers, own = [0], itertools.count(1), os.getpid()

    def change(*_: Any) -> None:
        if os.getpid() == own:
            counted[0] = next(numbers)
            if counted[0] == last:
                os.kill(own, signal.SIGKILL)

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


def report_more(file: Path, round_: int) -> None:
    """What comes in between two runs: errors, some told twice, a contradiction, one without an answer."""
    known = file.read_text().splitlines() if file.exists() else []
    # Another answer each time: a champion that gives the last one to whatever it is asked is wrong again.
    city = CITIES[round_ % len(CITIES)]
    rows: list[dict[str, Any]] = [
        {"prompt": f"What is the capital of state {round_}{letter}?", "target": city, "reporter": "ann"}
        for letter in "ab"
    ]
    rows.append({**rows[0], "reporter": "bob"})
    if known:
        rows.append({**json.loads(known[0]), "reporter": f"reader {round_}"})
    if round_ % 3 == 1:
        rows.append({**rows[1], "target": "Basel"})
        rows.append({"prompt": f"What is the capital of county {round_}?", "target": None})
    file.write_text("\n".join([*known, *map(json.dumps, rows)]) + "\n")


def state_of(settings: CorrectSettings) -> dict[str, Any]:
    """What a run leaves that must be the same whatever had stood in its way."""
    name = settings.model_name
    registered = describe(name, tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger:
        return {
            "versions": [_made_of(version) for version in registered.versions],
            "aliases": dict(registered.aliases),
            "corrections": {c.id: (c.state, c.reports, c.reporters) for c in ledger.corrections(name)},
            "promotions": [
                (p.action, p.from_version, p.to_version, p.phase) for p in ledger.promotion_log(name)
            ],
        }


def _made_of(version: Version) -> tuple[str, ...]:
    return tuple(version.tags[tag] for tag in (BASE_TAG, DELTA_TAG, LEDGER_TAG))


def broken_always(settings: CorrectSettings) -> list[str]:
    """What must hold at every moment and does not, even where a run has just been killed."""
    found, name = [], settings.model_name
    with Ledger(settings.ledger) as ledger:
        done, begun = [(None, None)], None
        for row in ledger.promotion_log(name):
            if row.phase is Phase.BEGUN:
                if begun not in (None, row.change):
                    found.append(f"promotion log: {row.change} was begun before {begun} ended")
                begun = row.change
                continue
            if begun != row.change:
                found.append(f"promotion log: {row.change} ended without being begun")
            begun = None
            if row.phase is Phase.DONE:
                if row.from_version != done[-1][1]:
                    found.append(f"promotion log: {row.change} does not follow {done[-1]}")
                done.append((row.from_version, row.to_version))
        for one in ledger.corrections(name):
            state: State | None = None
            for step in ledger.history(one.id, model_name=name):
                if step.from_state is not state or (
                    step.to_state is not state and step.to_state not in LEGAL_TRANSITIONS[state]
                ):
                    found.append(
                        f"ledger: {one.id} went from {state} over {step.from_state} to {step.to_state}"
                    )
                state = step.to_state
    if not has_store(settings.tracking):
        return found
    registered = describe(name, tracking_uri=settings.tracking)
    there = {version.number for version in registered.versions}
    found += [
        f"alias {a} names no version" for a, number in registered.aliases.items() if number not in there
    ]
    if registered.champion not in {done[-1][1], *(begun or ())[1:]}:
        found.append(f"the champion is {registered.champion}, and the promotion log says {done[-1][1]}")
    return found


def reported(file: Path) -> Counter[str]:
    """How often each prompt is reported in a file."""
    return Counter(json.loads(line)["prompt"] for line in file.read_text().splitlines())


def broken_after(settings: CorrectSettings, wanted: Counter[str]) -> list[str]:
    """What must hold once a run has come to its end, all these prompts reported, and does not."""
    found, name = broken_always(settings), settings.model_name
    registered = describe(name, tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger:
        corrections = ledger.corrections(name)
        kept: Counter[str] = Counter()
        for one in corrections:
            kept[one.prompt] += one.reports
        if kept != wanted:
            found.append(f"lost or counted twice: {wanted - kept or kept - wanted}")
        if ledger.unfinished_promotion(name) is not None:
            found.append("a promotion is left unfinished")
        log = [row for row in ledger.promotion_log(name) if row.phase is Phase.DONE]
        if registered.champion is None or registered.champion != log[-1].to_version:
            found.append("there is no champion, or not the one of the promotion log")
        if len(log) > 1 and registered.previous != log[-1].from_version:
            found.append(f"previous is {registered.previous}, and the log says {log[-1].from_version}")
        if registered.candidate == registered.champion:
            found.append("the champion is a candidate still")
        with ledger.lease(f"{name}/correct", "the next run"):
            pass
    same = Counter(map(_made_of, registered.versions))
    found += [f"{count} versions of one delta" for count in same.values() if count > 1]
    # Its digests are checked when it is loaded.
    folder = resolve(
        f"models:/{name}/{registered.champion}",
        cache=settings.home / "models",
        tracking_uri=settings.tracking,
    )
    held: Sequence[str] = (
        load_delta(folder.delta, folder).manifest["correction_ids"] if folder.delta is not None else []
    )
    active = sorted(one.id for one in corrections if one.state is State.ACTIVE)
    if sorted(held) != active:
        found.append(f"the champion holds {sorted(held)}, and active are {active}")
    waiting = [one.id for one in corrections if one.state is State.ACCEPTED]
    if waiting:
        found.append(f"not applied: {waiting}")
    return found
