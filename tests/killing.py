"""Dying at a chosen step, as a process that gets SIGKILL does: nothing after it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill(patch: pytest.MonkeyPatch, owner: Any, method: str, when: str, call: int = 1) -> None:
    """Die before or after the given call of a method."""
    real, calls = getattr(owner, method), itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != call:
            return real(*args, **kwargs)
        if when == "after":
            real(*args, **kwargs)
        raise Killed

    patch.setattr(owner, method, dying)


@contextmanager
def killed(owner: Any, method: str, when: str, call: int = 1) -> Iterator[None]:
    """Within, a process dies before or after the given call of a method; afterwards it may start again."""
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, owner, method, when, call)
        with pytest.raises(Killed):
            yield
