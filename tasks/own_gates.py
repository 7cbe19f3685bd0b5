"""The functions of the user's own gates: found, called once for each model, their values checked."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

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


def file_of(function: str, beside: Path | None) -> Path | None:
    """The file beside the gate file that holds a function, if it is there and not in an installed module."""
    module = function.partition(":")[0]
    file = None if beside is None else beside / f"{module.replace('.', '/')}.py"
    return file if file is not None and file.is_file() else None


def source_digest(function: str, beside: Path | None) -> str:
    """SHA-256 of the file beside the gate file; empty for an installed module."""
    file = file_of(function, beside)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file else ""


def source_digests(functions: Mapping[str, str], beside: Path | None) -> dict[str, str]:
    """What a verdict names of a user's own code: by `own/METRIC` the digest of its file beside the gate file.

    Args:
        functions: `module:function` by metric name.
        beside: folder of the gate file.
    """
    found = {f"own/{name}": source_digest(function, beside) for name, function in functions.items()}
    return {item: digest for item, digest in found.items() if digest}


def find_function(name: str, function: str, beside: Path | None) -> OwnFunction:
    """The function of a gate.

    Args:
        name: of the metric, for messages.
        function: `module:function`.
        beside: folder of the gate file, where the module is looked for first.

    Raises:
        UserError: there is no such module or function, or importing it fails.
    """
    module_name, _, attribute = function.partition(":")
    file = file_of(function, beside)
    try:
        module = importlib.import_module(module_name) if file is None else _executed(file)
    except (Exception, SystemExit) as error:
        where = file or f"{module_name}, which is no file beside the gate file,"
        raise UserError(
            f"the gate {name} cannot be used: importing {where} fails: {_said(error)}{_remedy(error, file)}"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(f"the gate {name} cannot be used: {file or module_name} has no function {attribute}")
    return found


def _executed(file: Path) -> ModuleType:
    """The module that a file is now, among the imported ones as its dataclasses and pickles need it."""
    # Files of the same name in two folders are two modules.
    of_path = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"mendflow_gate_{file.stem}_{of_path}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _remedy(error: BaseException, file: Path | None) -> str:
    """What to do where a file imports another one beside it, which would not be kept with a verdict."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if file is None or not missing or not (file.parent / f"{missing.partition('.')[0]}.py").is_file():
        return ""
    return "; a file of gates has to stand alone: move into it what it needs, or install that as a package"


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
            given = find_function(name, function, beside)(generate, [dict(row) for row in rows])
            values = list(given)
    except UserError as error:
        return f"was not measured: {error}"
    except (Exception, SystemExit) as error:
        return f"was not measured: {function} failed with {_said(error)}"
    numbers = [_number(value) for value in values]
    for place, (value, number) in enumerate(zip(values, numbers, strict=True), 1):
        if not math.isfinite(number):
            said = f"{function} gave {value!r:.60} as value {place}, and has to give numbers"
            return f"was not measured: {said}"
    return numbers


def _number(value: Any) -> float:
    """The value as a number; NaN where it is none."""
    try:
        return math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200] or 'no reason given'}"
