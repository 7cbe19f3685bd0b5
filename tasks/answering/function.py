"""Answers of a Python function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.answering.protocol import Answered, Progress
from tasks.own_functions import find_function, said
from tasks.records import Correction

AnswerFunction = Callable[[list[dict[str, Any]]], Iterable[str | None]]
"""What a user writes: reports, one dictionary each (prompt, output, chat, subject), to one answer each.

None or an empty text is no answer.
"""

_FIELDS = {"prompt": "prompt", "output": "wrong_output", "chat": "chat", "subject": "subject"}


class UserFunction:
    """`module:function`, the module in a folder or installed.

    Raises:
        UserError: there is no such function, or its module cannot be imported.
    """

    # What it asks may know more tomorrow.
    repeats = False

    def __init__(self, function: str, folder: Path) -> None:
        self.name = f"function {function}"
        self._function: AnswerFunction = find_function(f"the answerer {function}", function, folder)

    def answer(self, waiting: Sequence[Correction], progress: Progress) -> list[Answered]:  # noqa: ARG002
        """What the function gives, asked once for all; where it goes wrong there is no answer, with why."""
        reports = [{name: getattr(one, field) for name, field in _FIELDS.items()} for one in waiting]
        try:
            given = list(self._function(reports))
        except (Exception, SystemExit) as error:
            return [Answered(note=f"it failed with {said(error)}")] * len(waiting)
        if len(given) != len(waiting):
            return [Answered(note=f"it gave {len(given)} answers to {len(waiting)} reports")] * len(waiting)
        return [_checked(one) for one in given]


def _checked(given: object) -> Answered:
    if given is None or (isinstance(given, str) and not given.strip()):
        return Answered(note="it gave none")
    return Answered(given.strip()) if isinstance(given, str) else Answered(note=f"it gave {given!r:.60}")
