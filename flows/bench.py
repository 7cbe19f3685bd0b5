"""All methods side by side on one model and one file, for `mendflow bench` and `make bench`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flows.bench_plan import (
    BenchSettings,
    Method,
    announced,
    cases_of,
    check,
    columns_of,
    draw_of,
    heading_of,
    machine_of,
    method_of,
    methods_of,
)
from flows.bench_report import Column, Row, describe, write_plot, write_tables
from flows.console import Narrator
from flows.fresh_process import MEASURED, OVER_BUDGET, run_trial
from flows.settings import CorrectSettings
from tasks.apply import open_any_editor
from tasks.models import resolve
from tasks.placement import device_of
from tasks.records import UserError
from tasks.trial import Trial

RESULTS_FILE, TABLES_FILE, PLOT_FILE = "results.jsonl", "results.md", "results.svg"
FORMAT = 2


def bench(settings: CorrectSettings, what: BenchSettings) -> Path:
    """Measure every method at every size, each in a fresh process, and write tables and a plot.

    A bench that was killed goes on where it was: what `results.jsonl` holds for the same model, corrections,
    method and machine is not measured again, nor what does not tell its machine. Failures and refusals are
    tried again.

    Returns:
        The file with the tables.

    Raises:
        UserError: the model, the data, a method or the device cannot be used.
    """
    narrator = Narrator()
    check(what)
    device = device_of(what.device)
    with narrator.stage("data", f"Read {what.data.name} and find the model {what.model}"):
        base = resolve(what.model, cache=settings.home / "models", tracking_uri=settings.tracking)
        cases = cases_of(what, base)
        chats = [what.chat] * len(cases)
        named, left_out = methods_of(what.methods)
        methods = [method_of(name, base, settings.home, chats) for name in named]
        if len({method.label for method in methods}) < len(methods):
            raise UserError("a method is named twice in --methods; name each once")
    for method in methods:
        if method.reason:
            narrator.say(f"{method.label} cannot: {method.reason}")
        narrator.warn(method.warning)
    columns, too_few = columns_of(what, len(cases))
    notes = [*left_out, *too_few]
    machine = machine_of(device)
    kept = _Results(what.out / RESULTS_FILE, machine)
    rows = [Row(m.label, m.trained, m.training_seconds) for m in methods]
    heading = heading_of(what, base, len(cases), machine)
    tables = what.out / TABLES_FILE
    draws = {
        column: tuple(
            draw_of(cases[n * column.size : (n + 1) * column.size], what.judged) for n in range(column.draws)
        )
        for column in columns
    }

    def trial_of(method: Method, column: Column) -> Trial:
        cache = settings.key_statistics
        return Trial(base, method.editor, draws[column], column.sequence, device=device, cache=cache)

    able = [method for method in methods if not method.reason]
    keys = [_key(trial_of(method, column), method.digest) for column in columns for method in able]
    known = sum(kept.of(key, what.minutes) is not None for key in keys)
    narrator.say(announced(len(able), columns, known, what.minutes))
    with narrator.stage("editors", "Open the methods") as progress:
        # Here and not in a trial, whose memory is to be the edit's alone.
        for number, method in enumerate(methods):
            if method.reason:
                continue
            try:
                opened = open_any_editor(method.editor, base, settings.key_statistics, progress)
                statistics = getattr(opened, "statistics", None)
                if statistics is not None:
                    rows[number].gathers, rows[number].statistics_seconds = True, statistics.seconds
            except UserError as error:
                methods[number] = replace(method, reason=str(error))
                narrator.say(f"{method.label} cannot: {error}")
    for column in columns:
        for method, row in zip(methods, rows, strict=True):
            trial = trial_of(method, column)
            told = f"{method.label}, {column.title}"
            row.cells[column] = _cell(method, trial, told, row, column, what, kept, narrator)
            if not method.reason:
                narrator.say(describe(row.cells[column]))
            write_tables(tables, heading, rows, columns, notes)
    write_plot(what.out / PLOT_FILE, rows, columns)
    return tables


def _cell(
    method: Method,
    trial: Trial,
    told: str,
    row: Row,
    column: Column,
    what: BenchSettings,
    kept: _Results,
    narrator: Narrator,
) -> dict[str, Any]:
    """One method at one size: what is known of it, or else measured now."""
    if method.reason:
        return {"status": "cannot", "reason": method.reason}
    key = _key(trial, method.digest)
    known = kept.of(key, what.minutes)
    if known is not None:
        narrator.say(f"{told}: measured before")
        return known
    for other, cell in row.cells.items():
        less = other.size <= column.size and other.draws <= column.draws
        if less and other.sequence == column.sequence and cell["status"] == OVER_BUDGET:
            # The time was already too little for fewer corrections.
            return {"status": OVER_BUDGET, "minutes": what.minutes}
    with narrator.stage(told, told) as progress:
        outcome = run_trial(trial, minutes=what.minutes, report=progress)
    if outcome.get("traceback"):
        sys.stderr.write(f"{told}:\n{outcome['traceback']}")
    about = {
        "key": key,
        "method": method.label,
        "editor_digest": method.digest,
        "base_digest": trial.base.digest,
        "data": what.data.name,
        "size": column.size,
        "draws": column.draws,
        "sequence": column.sequence,
        "chat": what.chat,
        "given_equivalents": what.give_equivalents,
        "device": trial.device,
        "machine": kept.machine,
        "seed": what.seed,
    }
    return kept.add({**about, **outcome})


class _Results:
    """A file of JSON lines, one a cell; the last line of a cell counts, one cut short by a kill does not.

    A cell that was measured on another machine does not count; one that does not tell its machine does, where
    there is no other.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path, self.machine = path, machine
        self._known: dict[str, dict[str, Any]] = {}
        self._of_unknown_machine: dict[str, dict[str, Any]] = {}
        whole = []
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                if "machine" not in record:
                    self._of_unknown_machine[record["key"]] = record
                elif record["machine"] == machine:
                    self._known[record["key"]] = record
                whole.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        rewritten = path.with_name(f"{path.name}.new")
        rewritten.write_text("".join(f"{line}\n" for line in whole))
        os.replace(rewritten, path)

    def of(self, key: str, minutes: float) -> dict[str, Any] | None:
        """The cell, if it was measured or had at least so many minutes."""
        for known in (self._known, self._of_unknown_machine):
            found = known.get(key, {"status": ""})
            given_up = found["status"] == OVER_BUDGET and found["minutes"] >= minutes
            if found["status"] == MEASURED or given_up:
                return found
        return None

    def add(self, record: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._known[record["key"]] = record
        return record


def _key(trial: Trial, digest: str) -> str:
    """SHA-256 (16 hex digits) over what is measured, on any machine; size and seed are in the draws."""
    draws = [[asdict(case) for case in draw] for draw in trial.draws]
    inputs = [FORMAT, trial.base.digest, digest, trial.chained, trial.device, draws]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
