"""Functions that users write themselves: `module:function`, in a file beside what names it, or installed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.records import UserError


def file_of(function: str, beside: Path | None) -> Path | None:
    """The file in a folder that holds a function, if it is there and not in an installed module."""
    module = function.partition(":")[0]
    file = None if beside is None else beside / f"{module.replace('.', '/')}.py"
    return file if file is not None and file.is_file() else None


def find_function(what: str, function: str, beside: Path | None) -> Callable[..., Any]:
    """The function that a user named.

    Args:
        what: it is for, as messages begin: "the gate polite".
        function: `module:function`.
        beside: folder where the module is looked for first.

    Raises:
        UserError: there is no such module or function, or importing it fails.
    """
    module_name, _, attribute = function.partition(":")
    file = file_of(function, beside)
    try:
        module = importlib.import_module(module_name) if file is None else _executed(file)
    except (Exception, SystemExit) as error:
        where = file or f"{module_name}, which is no file in {beside or 'a folder'},"
        raise UserError(
            f"{what} cannot be used: importing {where} fails: {said(error)}{_remedy(error, file)}"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(f"{what} cannot be used: {file or module_name} has no function {attribute}")
    return found


def said(error: BaseException) -> str:
    """An error of somebody else's code, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200] or 'no reason given'}"


def _executed(file: Path) -> ModuleType:
    """The module that a file is now, among the imported ones as its dataclasses and pickles need it."""
    # Files of the same name in two folders are two modules.
    of_path = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"mendflow_own_{file.stem}_{of_path}", file)
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
    return "; the file has to stand alone: move into it what it needs, or install that as a package"
