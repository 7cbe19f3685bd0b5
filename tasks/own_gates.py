"""The functions of the user's own gates: called once for each model, their values checked."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.own_functions import find_function, said
from tasks.records import UserError
from validation.own_gates import OwnValues


class Generate(Protocol):
    """Asks a model: (prompts, chat turns or raw text) to its greedy answers, as it serves them."""

    def __call__(self, prompts: Sequence[str], *, chat: bool = True) -> list[str]:
        """One answer a prompt."""


OwnFunction = Callable[[Generate, list[dict[str, Any]]], Iterable[float]]
"""What a user writes: (generate, rows) to one value an observation.

`rows` are what the gates asked, one dictionary each: metric, id, prompt, expected, kind ("near", "far" or
""), chat, and the model's `output`. It is called for the champion, then for the candidate.
"""


def call_all(
    functions: Mapping[str, str], beside: Path | None, generate: Generate, rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[float] | str]:
    """By metric, the values that its function gives for one model; or a sentence about why it gives none.

    Args:
        functions: `module:function` by metric name.
        beside: folder of the gate file.
        generate: asks the model.
        rows: what the gates asked, with the model's answers; each function gets a copy.
    """
    return {name: _called(name, function, beside, generate, rows) for name, function in functions.items()}


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
    name: str, function: str, beside: Path | None, generate: Generate, rows: Sequence[Mapping[str, Any]]
) -> list[float] | str:
    try:
        # What it prints must not be taken for what the measuring process says of its progress.
        with contextlib.redirect_stdout(sys.stderr):
            own: OwnFunction = find_function(f"the gate {name}", function, beside)
            given = own(generate, [dict(row) for row in rows])
            values = list(given)
    except UserError as error:
        return f"was not measured: {error}"
    except (Exception, SystemExit) as error:
        return f"was not measured: {function} failed with {said(error)}"
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
