"""The functions and tasks of the user's own gates: run once for each model, their values checked."""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.own_functions import file_of, find_function, said
from tasks.own_tasks import Generate, LogLikelihoods, check_task, read_task, run_task
from tasks.records import UserError
from validation.own_gates import OwnValues
from validation.thresholds import OwnGate

OwnFunction = Callable[[Generate, list[dict[str, Any]]], Iterable[float]]
"""What a user writes: (generate, rows) to one value an observation.

`rows` are what the gates asked, one dictionary each: metric, id, prompt, expected, kind ("near", "far" or
""), chat, and the model's `output`. It is called for the champion, then for the candidate.
"""


@dataclass(frozen=True)
class OwnSource:
    """What gives the values of a gate: `module:function`, or a task file and how its prompts are rendered."""

    function: str = ""
    task: str = ""
    chat: bool = False

    def files(self, what: str, beside: Path | None) -> dict[str, Path]:
        """The user's files that it consists of, by what they are; none for an installed module.

        Args:
            what: it is for, as messages begin.
            beside: folder of the gate file.

        Raises:
            UserError: the task file cannot be used.
        """
        if self.task:
            file = self.task_file(what, beside)
            return {"task file": file, "data": file.parent / read_task(what, file).data}
        file_ = file_of(self.function, beside)
        return {"code": file_} if file_ else {}

    def task_file(self, what: str, beside: Path | None) -> Path:
        """Where the task file is."""
        if beside is None:
            raise UserError(f"{what} cannot be used: {self.task} is beside no gate file")
        return beside / self.task

    def check(self, what: str, beside: Path | None) -> None:
        """Refuse what cannot give values.

        Raises:
            UserError: a module, function, task file or data is not there, or cannot be used.
        """
        if self.task:
            check_task(what, self.task_file(what, beside))
        else:
            find_function(what, self.function, beside)


def own_sources(gates: Mapping[str, OwnGate]) -> dict[str, OwnSource]:
    """What gives the values of gates, by metric."""
    return {name: OwnSource(gate.function or "", gate.task or "", gate.chat) for name, gate in gates.items()}


def own_files(own: Mapping[str, OwnSource], beside: Path | None) -> dict[str, Path]:
    """The user's files, by the name of their digest in a verdict.

    Raises:
        UserError: a task file cannot be used.
    """
    return {
        f"own/{name}" + ("/data" if kind == "data" else ""): file
        for name, source in own.items()
        for kind, file in source.files(f"the gate {name}", beside).items()
    }


def own_digests(own: Mapping[str, OwnSource], beside: Path | None) -> dict[str, str]:
    """SHA-256 of the user's files that are there, by their name in a verdict; installed modules have none.

    Raises:
        UserError: a task file cannot be used.
    """
    return {
        item: hashlib.sha256(file.read_bytes()).hexdigest()
        for item, file in own_files(own, beside).items()
        if file.is_file()
    }


def call_all(
    own: Mapping[str, OwnSource],
    beside: Path | None,
    generate: Generate,
    log_likelihoods: LogLikelihoods,
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, list[float] | str]:
    """By metric, the values that one model is given; or a sentence about why it is given none.

    Args:
        own: by metric name.
        beside: folder of the gate file.
        generate: asks the model.
        log_likelihoods: of the model.
        rows: what the gates asked, with the model's answers; each function gets a copy.
    """
    return {
        name: _called(name, source, beside, generate, log_likelihoods, rows) for name, source in own.items()
    }


def paired(
    champion: Mapping[str, list[float] | str], candidate: Mapping[str, list[float] | str]
) -> dict[str, OwnValues]:
    """The values of both models by metric; an error with either is an error."""
    both = {}
    for name, ours in candidate.items():
        theirs = champion[name]
        if isinstance(ours, str):
            both[name] = OwnValues(error=ours)
        elif isinstance(theirs, str):
            both[name] = OwnValues(error=f"{theirs} (asked of the champion)")
        else:
            both[name] = OwnValues(ours, theirs)
    return both


def _called(
    name: str,
    source: OwnSource,
    beside: Path | None,
    generate: Generate,
    log_likelihoods: LogLikelihoods,
    rows: Sequence[Mapping[str, Any]],
) -> list[float] | str:
    what, function = f"the gate {name}", source.function
    try:
        if source.task:
            file = source.task_file(what, beside)
            return run_task(what, file, generate, log_likelihoods, chat=source.chat)
        # What it prints must not be taken for what the measuring process says of its progress.
        with contextlib.redirect_stdout(sys.stderr):
            own: OwnFunction = find_function(what, function, beside)
            given = own(generate, [dict(row) for row in rows])
            values = list(given)
    except UserError as error:
        return f"was not measured: {error}"
    except (Exception, SystemExit) as error:
        return f"was not measured: {function or source.task} failed with {said(error)}"
    numbers = [_number(value) for value in values]
    for place, (value, number) in enumerate(zip(values, numbers, strict=True), 1):
        if not math.isfinite(number):
            what = f"{function} gave {value!r:.60} as value {place}, and has to give numbers"
            return f"was not measured: {what}"
    return numbers


def _number(value: Any) -> float:
    """The value as a number; NaN where it is none."""
    try:
        return math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
